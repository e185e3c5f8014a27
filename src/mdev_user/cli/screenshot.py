"""``mdev-user screenshot``: what a guest shows on an mdev's screen, as a PNG file."""

import sys
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from mdev_user.cli.options import RunDirOption
from mdev_user.daemon.client import Client
from mdev_user.daemon.run_dir import RunDir
from mdev_user.daemon.state_file import new_file
from mdev_user.errors import MdevUserError

_STDOUT = Path("-")


class NotWritten(MdevUserError):
    """The file cannot be written; there is none, or what was there before."""


def screenshot(
    uuid: Annotated[UUID, typer.Argument(help="The mdev.")],
    file: Annotated[Path, typer.Argument(help="A new one takes its place; yours only (0600). - for the output.")],
    head: Annotated[int, typer.Option(min=0, metavar="N", help="Which head, for one that has several.")] = 0,
    pointer: Annotated[bool, typer.Option("--pointer", help="With the guest's pointer on top.")] = False,
    level: Annotated[
        int, typer.Option(min=0, max=9, metavar="L", help="How much to compress: 0 is quick, 9 makes it small.")
    ] = 0,
    run_dir: RunDirOption = None,
) -> None:
    """Write what is on an mdev's screen to a file, as a PNG.

    The guest goes on. One that nobody has opened shows nothing, nor does one that has set no mode.
    """
    data = Client(RunDir(run_dir)).screenshot(uuid, head, level, pointer=pointer)
    try:
        if file == _STDOUT:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            return
        with new_file(file) as target:
            target.write(data)
    except OSError as error:
        raise NotWritten(f"{file}: {error.strerror or error}") from error
