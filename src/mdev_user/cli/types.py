"""``mdev-user types``: the mdev types that can be created."""

from mdev_user.cli.output import Column, Output, OutputOption, RunDirOption, print_listing
from mdev_user.daemon.client import Client
from mdev_user.daemon.run_dir import RunDir
from mdev_user.daemon.views import TypeView

_COLUMNS: tuple[Column[TypeView], ...] = (
    ("TYPE", lambda row: row.type),
    ("PARENT", lambda row: row.parent),
    ("AVAILABLE", lambda row: row.available_instances),
    ("API", lambda row: row.device_api),
    ("NAME", lambda row: row.name),
    ("DESCRIPTION", lambda row: (row.description or "").replace("\n", " ")),
)


def types(run_dir: RunDirOption = None, output: OutputOption = Output.TABLE) -> None:
    """List the mdev types of all parents, with how many more of each can be created."""
    print_listing(output, Client(RunDir(run_dir)).types(), _COLUMNS, lambda row: row.type)
