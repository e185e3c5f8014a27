"""``mdev-user events``: what happens on the bus, uevent by uevent as Linux tells it."""

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from typing import Annotated

import msgspec
import typer

from mdev_user.cli.options import RunDirOption
from mdev_user.cli.output import print_line
from mdev_user.cli.streams import flush
from mdev_user.daemon.client import Client
from mdev_user.daemon.run_dir import RunDir
from mdev_user.daemon.views import UeventLine


class Form(StrEnum):
    """How a uevent is printed."""

    TABLE = "table"
    JSON = "json"


def events(
    after: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Begin after uevent N; 0: with the oldest one that the daemon keeps."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Go on with those to come, or end when there are no more.")
    ] = True,
    run_dir: RunDirOption = None,
    output: Annotated[Form, typer.Option("--output", "-o", help="A line of a table, or of JSON, each.")] = Form.TABLE,
) -> None:
    """Print the uevents of parents and mdevs: from now on until Ctrl-C, or those there were.

    The daemon does not wait for a slow reader, who is told how many uevents were lost. When the daemon ends so does
    this, with exit status 1.
    """
    with suppress(KeyboardInterrupt):
        client = Client(RunDir(run_dir))
        if after is None and follow:
            after = client.snapshot().number
        with client.events(after, follow=follow) as stream:
            _print(stream, _FORMS[output])


def _print(lines: Iterable[UeventLine], shown: Callable[[UeventLine], str]) -> None:
    for line in lines:
        if line.kind != "begin":
            print_line(shown(line))
            flush()


def _row(line: UeventLine) -> str:
    """``12:00:01.123456     7 bind   mdev     /devices/... DRIVER=mtty``."""
    when = datetime.fromtimestamp(line.time).astimezone().strftime("%H:%M:%S.%f")
    if line.kind == "lost":
        return f"{when} {line.count} uevents up to {line.number} are lost: the daemon does not keep them any more"
    properties = "".join(f" {key}={value}" for key, value in line.properties.items())
    text = f"{when} {line.number:5} {line.action:6} {line.subsystem:8} {line.devpath}{properties}"
    return text.replace("\n", "\\n")


def _json(line: UeventLine) -> str:
    shown = msgspec.to_builtins(line)
    if line.kind == "uevent":
        shown.setdefault("properties", {})
    return json.dumps(shown)  # a parent's name stays ASCII, so that nothing in it steers a terminal


_FORMS = {Form.TABLE: _row, Form.JSON: _json}
