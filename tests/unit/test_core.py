"""A skip of a core area is a failure where everything was set up for it."""

import pytest

from core import core_skip


def test_on_a_machine_that_lacks_something_it_is_a_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MDEV_USER_REQUIRE_CORE", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no /dev/fuse"):
        core_skip("no /dev/fuse")


def test_where_the_core_is_required_it_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDEV_USER_REQUIRE_CORE", "1")
    with pytest.raises(pytest.fail.Exception, match="a core area cannot be tested here: no /dev/fuse"):
        core_skip("no /dev/fuse")
