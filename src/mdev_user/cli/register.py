"""``mdev-user register``: register another parent while the daemon runs."""

from typing import Annotated

import typer

from mdev_user.cli.output import Output, OutputOption, RunDirOption, print_json, print_listing
from mdev_user.cli.show import PARENT_COLUMNS
from mdev_user.daemon.client import Client
from mdev_user.daemon.run_dir import RunDir
from mdev_user.daemon.specification import parse_parent


def register(
    parent: Annotated[
        str,
        typer.Argument(metavar="PARENT", help="DRIVER[,key=value...] or FILE.py:CLASS[,key=value...]."),
    ],
    run_dir: RunDirOption = None,
    output: OutputOption = Output.NAME,
) -> None:
    """Register a parent and print its name."""
    # Parsed here as well: a relative FILE.py is one of this working directory, not of the daemon's.
    registered = Client(RunDir(run_dir)).register_parent(parse_parent(parent).text)
    if output is Output.JSON:
        print_json(registered)
    else:
        print_listing(output, [registered], PARENT_COLUMNS, lambda row: row.name)
