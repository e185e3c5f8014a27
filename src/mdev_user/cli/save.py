"""``mdev-user save``: write the state of an mdev to a file."""

from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from mdev_user.cli import move_output
from mdev_user.cli.output import RunDirOption
from mdev_user.daemon import mover
from mdev_user.daemon.client import Client
from mdev_user.daemon.run_dir import RunDir


def save(
    uuid: Annotated[UUID, typer.Argument(help="The mdev.")],
    file: Annotated[Path, typer.Argument(help="A new one takes its place when all is in it; yours only (0600).")],
    run_dir: RunDirOption = None,
    output: move_output.FormOption = move_output.Form.TEXT,
) -> None:
    """Write the state of an mdev to a file, while its user goes on.

    All of it is copied while the mdev runs; then it waits for the moment that it takes to copy what has changed. One
    that nobody has opened has no state.
    """
    moved = mover.save(Client(RunDir(run_dir)), uuid, file.absolute(), move_output.telling(output))
    move_output.print_moved(moved, output, f"saved {uuid} to {file}")
