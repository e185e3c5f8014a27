"""Tells at the end how the replay of the kernel's transcript went."""

import pytest

from golden.summary import TOLD


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    told = {str(text) for each in reports for name, text in each.user_properties if name == TOLD}
    if told:
        terminalreporter.section("replay of the kernel's transcript")
        terminalreporter.write_line("\n".join(told))
