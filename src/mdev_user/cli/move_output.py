"""What `save`, `restore` and `migrate` print: a line for each thing that was done, or JSON at the end."""

import json
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

import msgspec
import typer

from mdev_user.cli.output import print_line
from mdev_user.cli.streams import flush
from mdev_user.daemon.mover import Moved


class Form(StrEnum):
    """How it is printed."""

    TEXT = "text"
    JSON = "json"


FormOption = Annotated[Form, typer.Option("--output", "-o", help="Lines for people as it goes on, or JSON at the end.")]


def telling(form: Form) -> Callable[[str, Moved], None]:
    """What prints as it goes on."""
    return _tell if form is Form.TEXT else _tell_nothing


def print_moved(moved: Moved, form: Form, text: str) -> None:
    """The end of it; ``text`` says what is where now."""
    if form is Form.JSON:
        print_line(json.dumps(msgspec.to_builtins(moved), indent=2))
        return
    print_line(f"{text}: {moved.bytes:,} bytes in {moved.seconds:.2f} s{_downtime(moved)}")


def _tell(what: str, moved: Moved) -> None:
    if what == "pass":
        last = moved.passes[-1]
        print_line(f"pass {len(moved.passes)}: {last.bytes:,} bytes in {last.seconds:.3f} s")
    elif what == "copied":
        print_line(f"stopped: {moved.rest:,} bytes")
    flush()


def _tell_nothing(_what: str, _moved: Moved) -> None:
    pass


def _downtime(moved: Moved) -> str:
    return "" if moved.downtime is None else f", downtime {moved.downtime * 1000:.1f} ms"
