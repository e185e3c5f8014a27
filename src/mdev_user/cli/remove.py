"""``mdev-user remove``: remove an mdev."""

import math
from typing import Annotated
from uuid import UUID

import typer

from mdev_user.cli.output import RunDirOption
from mdev_user.daemon.client import Client
from mdev_user.daemon.run_dir import RunDir


def remove(
    uuid: Annotated[UUID, typer.Argument(help="The mdev.")],
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, max=86400, help="How long to wait for its user to close it.")
    ] = 0,
    force: Annotated[bool, typer.Option("--force", help="Close its user's connection first.")] = False,
    run_dir: RunDirOption = None,
) -> None:
    """Remove an mdev. One that is in use is refused, naming the program, unless told otherwise."""
    if math.isnan(wait):  # which is in every range
        raise typer.BadParameter("expected a number of seconds, given nan")
    Client(RunDir(run_dir)).remove(uuid, wait=wait, force=force)
