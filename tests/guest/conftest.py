"""The rig, for every test that boots a real guest."""

import pytest

from mdev_user.guests.rig import Rig, find_rig


@pytest.fixture(scope="session")
def rig() -> Rig:
    """The rig of this machine; never built here, since that takes a network and half a minute."""
    found = find_rig()
    if found is None:
        pytest.skip("no guest rig: `python -m mdev_user.guests` builds one")
    return found
