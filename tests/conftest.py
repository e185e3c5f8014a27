"""What every test may rely on: a core area that is absent here is skipped with its reason (see `core`)."""

import signal
from collections.abc import Callable
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, settings

from core import core_skip as skip_core
from golden.summary import TOLD
from mdev_user.errors import MountError
from mdev_user.sysfs.mount import check_preconditions

settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")  # which stands still for seconds, and no test asserts on time


def pytest_configure() -> None:
    """Whoever runs the tests in the background of a script has Ctrl-C ignored, and so would all that they start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def core_skip() -> Callable[[str], NoReturn]:
    """Call it with the reason why a core area cannot be tested here."""
    return skip_core


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("fuse") is None:
        return
    try:
        check_preconditions(allow_other=False)
    except MountError as error:
        skip_core(str(error))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How the replay of the kernel's transcript went: here, where it is known also of the processes that run tests."""
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    told = {str(text) for each in reports for name, text in each.user_properties if name == TOLD}
    if told:
        terminalreporter.section("replay of the kernel's transcript")
        terminalreporter.write_line("\n".join(told))
