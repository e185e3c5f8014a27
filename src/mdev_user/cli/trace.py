"""``mdev-user trace``: what a guest does with an mdev, while it does it."""

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from enum import StrEnum
from itertools import islice
from typing import Annotated
from uuid import UUID

import msgspec
import typer

from mdev_user.cli.output import RunDirOption, print_line
from mdev_user.cli.streams import flush
from mdev_user.cli.trace_lines import shown
from mdev_user.daemon.client import Client
from mdev_user.daemon.run_dir import RunDir
from mdev_user.vfio.inspection import TraceLine


class Form(StrEnum):
    """How a line is printed."""

    TEXT = "text"
    JSON = "json"


def trace(
    uuid: Annotated[UUID, typer.Argument(help="The mdev.")],
    count: Annotated[int | None, typer.Option(min=1, metavar="N", help="End after N lines (default: never).")] = None,
    run_dir: RunDirOption = None,
    output: Annotated[Form, typer.Option("--output", "-o", help="A line for people, or JSON, each.")] = Form.TEXT,
) -> None:
    """Print every access of a guest to an mdev, by register and field, until Ctrl-C.

    The guest is not slowed down by a slow reader, who loses lines instead, and is told how many.
    """
    with suppress(KeyboardInterrupt), Client(RunDir(run_dir)).trace(uuid) as lines:
        sys.stderr.write(f"tracing {uuid}; Ctrl-C ends it\n")
        _print(islice(lines, count), output)


def _print(lines: Iterator[TraceLine], output: Form) -> None:
    for line in lines:
        # json, and not msgspec's own: a guest's text stays ASCII, so that nothing in it steers a terminal
        print_line(shown(line) if output is Form.TEXT else json.dumps(msgspec.to_builtins(line)))
        flush()
