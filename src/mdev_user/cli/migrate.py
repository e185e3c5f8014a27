"""``mdev-user migrate``: let an mdev go on at another daemon."""

from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from mdev_user.cli import move_output
from mdev_user.cli.output import RunDirOption
from mdev_user.daemon import mover
from mdev_user.daemon.client import Client
from mdev_user.daemon.run_dir import RunDir


def migrate(
    uuid: Annotated[UUID, typer.Argument(help="The mdev.")],
    destination: Annotated[
        Path, typer.Argument(metavar="RUN_DIR", readable=False, help="The run directory of the other daemon.")
    ],
    run_dir: RunDirOption = None,
    output: move_output.FormOption = move_output.Form.TEXT,
) -> None:
    """Move an mdev, with its state, to another daemon on this machine.

    It is created there if it is not there, its user is disconnected and it is removed here; whoever opens it there
    finds it as it was. If anything goes wrong all is as it was, and its user has noticed nothing.
    """
    place = RunDir(destination)
    moved = mover.migrate(Client(RunDir(run_dir)), Client(place), uuid, str(place.path), move_output.telling(output))
    move_output.print_moved(moved, output, f"moved {uuid} to {place.path}")
