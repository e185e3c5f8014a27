"""``mdev-user unregister``: unregister a parent while the daemon runs."""

from typing import Annotated

import typer

from mdev_user.cli.output import RunDirOption
from mdev_user.daemon.client import Client
from mdev_user.daemon.run_dir import RunDir


def unregister(
    name: Annotated[str, typer.Argument(help="The parent's name.")],
    run_dir: RunDirOption = None,
) -> None:
    """Unregister a parent; its mdevs are removed. Refused while somebody uses one of them."""
    Client(RunDir(run_dir)).unregister_parent(name)
