"""``mdev-user create``: create an mdev."""

from typing import Annotated
from uuid import UUID

import typer

from mdev_user.cli.list_mdevs import COLUMNS
from mdev_user.cli.output import Output, OutputOption, RunDirOption, print_json, print_listing
from mdev_user.cli.streams import OutputError, flush
from mdev_user.daemon.client import Client
from mdev_user.daemon.run_dir import RunDir
from mdev_user.daemon.views import MdevView


def create(
    type_id: Annotated[str, typer.Argument(metavar="TYPE", help="An mdev type, such as mtty-1.")],
    uuid: Annotated[UUID | None, typer.Argument(help="Default: a random one.", show_default=False)] = None,
    parent: Annotated[str | None, typer.Option(help="Needed when several parents have the type.")] = None,
    run_dir: RunDirOption = None,
    output: OutputOption = Output.NAME,
) -> None:
    """Create an mdev and print its UUID."""
    created = Client(RunDir(run_dir)).create(type_id, parent, uuid)
    try:
        _print(created, output)
        flush()
    except OutputError as error:  # who does not know its UUID would create another
        raise OutputError(f"mdev {created.uuid} was created, but {error}") from None


def _print(created: MdevView, output: Output) -> None:
    if output is Output.JSON:
        print_json(created)
    else:
        print_listing(output, [created], COLUMNS, lambda row: row.uuid)
