"""``mdev-user list``: the mdevs."""

from mdev_user.cli.output import Column, Output, OutputOption, RunDirOption, print_listing
from mdev_user.daemon.client import Client
from mdev_user.daemon.run_dir import RunDir
from mdev_user.daemon.views import ClientView, MdevView


def user(client: ClientView | None) -> str | None:
    """Who has an mdev open: the program's name and its pid."""
    return None if client is None else f"{client.name} (pid {client.pid})"


def state(row: MdevView) -> str:
    """That of the bus, or that a state was loaded which waits for its user."""
    return "parked" if row.parked and row.state == "active" else row.state


COLUMNS: tuple[Column[MdevView], ...] = (
    ("UUID", lambda row: row.uuid),
    ("TYPE", lambda row: row.type),
    ("PARENT", lambda row: row.parent),
    ("STATE", state),
    ("GROUP", lambda row: row.group),
    ("USED BY", lambda row: user(row.client)),
)


def list_mdevs(run_dir: RunDirOption = None, output: OutputOption = Output.TABLE) -> None:
    """List the mdevs, and who uses them."""
    print_listing(output, Client(RunDir(run_dir)).mdevs(), COLUMNS, lambda row: row.uuid)
