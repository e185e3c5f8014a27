"""``mdev-user restore``: load what `save` wrote into an mdev."""

from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from mdev_user.cli import move_output
from mdev_user.cli.output import RunDirOption
from mdev_user.daemon import mover
from mdev_user.daemon.client import Client
from mdev_user.daemon.run_dir import RunDir


def restore(
    uuid: Annotated[UUID, typer.Argument(help="An mdev of the type that was saved, which nobody uses.")],
    file: Annotated[Path, typer.Argument(help="What `mdev-user save` wrote.")],
    run_dir: RunDirOption = None,
    output: move_output.FormOption = move_output.Form.TEXT,
) -> None:
    """Load what `save` wrote into an mdev, which is then parked: it goes on, as it was, when somebody opens it."""
    moved = mover.restore(Client(RunDir(run_dir)), uuid, file.absolute(), move_output.telling(output))
    move_output.print_moved(moved, output, f"restored {uuid} from {file}")
