"""The pytest plugin: ``mdev_host``, a fresh host for a test, and ``make_mdev_host`` for more than one.

Found by its entry point; it imports nothing of mdev-user before a test asks for a host.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from mdev_user.testing import MdevHost

MakeMdevHost = Callable[..., "MdevHost"]
_WITHOUT = "mdev_host_unavailable"
_OUTCOMES = ("skip", "fail")


def pytest_addoption(parser: pytest.Parser) -> None:
    what = "what a test does whose mdev_host cannot be had, for want of FUSE: skip or fail"
    parser.addini(_WITHOUT, what, default="skip")


def pytest_configure(config: pytest.Config) -> None:
    given = config.getini(_WITHOUT)
    if given not in _OUTCOMES:
        raise pytest.UsageError(f"{_WITHOUT}: expected {' or '.join(_OUTCOMES)}, given {given!r}")


@pytest.fixture
def make_mdev_host(pytestconfig: pytest.Config) -> Iterator[MakeMdevHost]:
    """Make a host with these parents: ``make_mdev_host("mtty", ...)``. All are gone after the test."""
    from mdev_user.errors import MountError  # noqa: PLC0415 - costs nothing when unused
    from mdev_user.testing import MdevHost  # noqa: PLC0415 - as above

    with ExitStack() as hosts:

        def make(*parents: str) -> MdevHost:
            try:
                return hosts.enter_context(MdevHost(*parents))
            except MountError as error:
                reason = str(error)
            unavailable(pytestconfig, reason)  # not from within the error, which would be told beside it

        yield make


@pytest.fixture
def mdev_host(make_mdev_host: MakeMdevHost) -> "MdevHost":
    """A fresh host: a mounted sysfs tree, events and a control API, no parents. See `mdev_user.testing.MdevHost`."""
    return make_mdev_host()


def unavailable(config: pytest.Config, reason: str) -> NoReturn:
    """End the test, as the configuration says."""
    text = f"mdev_host needs FUSE: {reason}"
    if config.getini(_WITHOUT) == "fail":
        pytest.fail(text, pytrace=False)
    pytest.skip(text)
