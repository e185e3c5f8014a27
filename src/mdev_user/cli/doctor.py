"""``mdev-user doctor``: does this machine have what the daemon and its guests need?"""

import typer
from rich.text import Text

from mdev_user.cli.checks import Finding, Level, Subject, examine
from mdev_user.cli.machine import Machine
from mdev_user.cli.output import Column, Output, OutputOption, RunDirOption, print_listing

_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}

_COLUMNS: tuple[Column[Finding], ...] = (
    ("CHECK", lambda row: row.check),
    ("", lambda row: Text(row.level, _STYLES[row.level])),
    ("FOUND", lambda row: row.found),
    ("WHAT TO DO", lambda row: row.cure),
)


def doctor(run_dir: RunDirOption = None, output: OutputOption = Output.TABLE) -> None:
    """Check this machine; each finding comes with its cure. Exit status 1 when something cannot work."""
    findings = examine(Subject(Machine(), run_dir))
    print_listing(output, findings, _COLUMNS, lambda row: row.check)
    if any(finding.level is Level.PROBLEM for finding in findings):
        raise typer.Exit(1)
