"""Tells at the end how the replay of the kernel's transcript went."""

import pytest

from golden.summary import TOLD


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if TOLD in config.stash:
        terminalreporter.section("replay of the kernel's transcript")
        terminalreporter.write_line(config.stash[TOLD])
