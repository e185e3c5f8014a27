"""What the commands print: a table for people, JSON for programs, names for a shell's loops."""

import json
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mdev_user.cli import options
from mdev_user.cli.streams import writing


class Output(StrEnum):
    """The form of a listing."""

    TABLE = "table"
    JSON = "json"
    NAME = "name"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="The form of what is printed.")]
RunDirOption = options.RunDirOption

_T = TypeVar("_T")
Column = tuple[str, Callable[[_T], object]]
"""A heading, and what a row has there (None and False are shown as nothing)."""

_UNBOUNDED = 10_000  # columns, where the output is no terminal: a UUID that is cut is of no use to grep


def print_listing(output: Output, rows: Sequence[_T], columns: Sequence[Column[_T]], name: Callable[[_T], str]) -> None:
    """The rows in the form that was asked for."""
    if output is Output.JSON:
        print_json(rows)
    elif output is Output.NAME:
        for row in rows:
            print_line(name(row))
    else:
        print_table(
            [heading for heading, _cell in columns], [[cell(row) for _heading, cell in columns] for row in rows]
        )


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """One line per row, below the headings if there are any."""
    table = Table(box=None, pad_edge=False, show_header=any(headings), header_style="bold", padding=(0, 2, 0, 0))
    last = len(headings) - 1
    for number, heading in enumerate(headings):
        # a name is never cut or broken; only the last column, which may be prose, is folded
        table.add_column(heading, no_wrap=number != last, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(each) for each in row))
    shown = console()
    with writing():  # all of it: rich flushes when the capture ends
        with shown.capture() as capture:
            shown.print(table)
        for line in capture.get().splitlines():
            sys.stdout.write(line.rstrip() + "\n")  # rich fills lines with spaces, which nobody wants in a pipe


def print_json(value: object) -> None:
    """``value`` (a view, or several) as indented JSON."""
    print_line(json.dumps(msgspec.to_builtins(value), indent=2))


def print_line(text: str) -> None:
    """A line on stdout."""
    with writing():
        sys.stdout.write(printable(text) + "\n")


def print_error(text: str) -> None:
    """A line on stderr, in red on a terminal."""
    to = console(stderr=True)
    to.print(Text.assemble(("mdev-user: ", "bold red"), printable(text)), soft_wrap=True)


def console(*, stderr: bool = False) -> Console:
    """A terminal's colours and width where there is one, plain unbounded lines elsewhere."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _UNBOUNDED
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def printable(text: str) -> str:
    """``text`` without what steers a terminal: it may come from a guest, or be the name of a stranger's program."""
    return "".join(each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in text)


def _cell(value: object) -> Text:
    if isinstance(value, Text):
        return value
    return Text("" if value is None or value is False else printable(str(value)))
