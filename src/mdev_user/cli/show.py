"""``mdev-user show``: all that is known of one mdev, or what is in it; or of the daemon and its parents."""

from typing import Annotated
from uuid import UUID

import typer
from rich.text import Text

from mdev_user.cli.list_mdevs import state, user
from mdev_user.cli.missing_registers import print_missing
from mdev_user.cli.output import (
    Column,
    Output,
    OutputOption,
    RunDirOption,
    print_json,
    print_line,
    print_listing,
    print_table,
    printable,
)
from mdev_user.cli.register_values import print_values
from mdev_user.daemon.client import Client
from mdev_user.daemon.run_dir import RunDir
from mdev_user.daemon.views import DaemonView, MdevDetail, ParentView

# The order in which counters are read; others follow.
_COUNTERS = (
    "opens",
    "reads",
    "writes",
    "interrupts",
    "dma_read_bytes",
    "dma_write_bytes",
    "guest_errors",
    "last_guest_error",
    "slow_steps",
    "slowest_step",
)
_NOBODY = {False: "nobody", True: "nobody yet: it was loaded, and goes on when it is opened"}
_STATE_STYLES = {"registered": "green", "active": "green", "failed": "bold red"}


def _state(state: str) -> Text:
    return Text(printable(state), _STATE_STYLES.get(state, "yellow"))


def _one_line(text: str) -> str:
    """The last line of a traceback says what happened; all of it is in ``-o json`` and in the daemon's log."""
    return text.strip().rpartition("\n")[2]


PARENT_COLUMNS: tuple[Column[ParentView], ...] = (
    ("PARENT", lambda row: row.name),
    ("STATE", lambda row: _state(row.state)),
    ("MDEVS", lambda row: row.mdevs),
    ("HOST PID", lambda row: row.host_pid),
    ("RESTARTS", lambda row: row.restarts),
    ("RELOADS", lambda row: row.reloads),
    ("SPECIFICATION", lambda row: row.specification),
    ("REASON", lambda row: _one_line(row.reason)),
)


def show(
    uuid: Annotated[UUID | None, typer.Argument(help="The mdev; without one, the daemon and its parents.")] = None,
    registers: Annotated[bool, typer.Option("--registers", help="The values of its registers, by name.")] = False,
    unmodelled: Annotated[
        bool, typer.Option("--unmodelled", help="What its guest accessed and its driver does not declare.")
    ] = False,
    run_dir: RunDirOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show one mdev: who uses it, its counters and warnings. Without UUID: the daemon and its parents.

    --registers reads what is stored and has no effect on the device; what the driver computes when the guest reads it
    is told as computed. --unmodelled prints registers to paste into the driver.
    """
    if registers and unmodelled:
        raise typer.BadParameter("expected one of --registers and --unmodelled, given both")
    if uuid is None and (registers or unmodelled):
        raise typer.BadParameter("expected the UUID of an mdev with --registers and --unmodelled")
    client = Client(RunDir(run_dir))
    if uuid is None:
        _print_daemon(client.status(), output)
    elif registers:
        print_values(client.values(uuid), output)
    elif unmodelled:
        print_missing(client.unmodelled(uuid), output)
    else:
        _print_mdev(client.mdev(uuid), output)


def _print_daemon(daemon: DaemonView, output: Output) -> None:
    if output is Output.JSON:
        print_json(daemon)
    elif output is Output.NAME:
        for parent in daemon.parents:
            print_line(parent.name)
    else:
        print_table(["", ""], _daemon_rows(daemon))
        print_line("")
        print_listing(output, daemon.parents, PARENT_COLUMNS, lambda parent: parent.name)


def _daemon_rows(daemon: DaemonView) -> list[list[object]]:
    tree = daemon.sysfs if daemon.sysfs is not None else f"not mounted: {daemon.sysfs_reason}"
    return [
        ["daemon", f"mdev-user {daemon.version} (pid {daemon.pid})"],
        ["run directory", daemon.run_dir],
        ["sysfs tree", tree],
    ]


def _print_mdev(mdev: MdevDetail, output: Output) -> None:
    if output is Output.JSON:
        print_json(mdev)
    elif output is Output.NAME:
        print_line(mdev.uuid)
    else:
        print_table(["", ""], [*_mdev_rows(mdev), *_counter_rows(mdev), *_warning_rows(mdev)])


def _mdev_rows(mdev: MdevDetail) -> list[list[object]]:
    rows: list[list[object]] = [
        ["uuid", mdev.uuid],
        ["type", mdev.type],
        ["parent", mdev.parent],
        ["state", _state(state(mdev))],
        ["iommu group", mdev.group],
        ["socket", mdev.socket],
        ["sysfs", mdev.sysfs],
        ["used by", user(mdev.client) or _NOBODY[mdev.parked]],
        ["last disconnect", _one_line(mdev.last_disconnect)],
        ["last move", _one_line(mdev.last_move)],
        ["not migratable", _one_line(mdev.unmigratable)],
    ]
    return [row for row in rows if row[1] is not None and row[1] != ""]


def _counter_rows(mdev: MdevDetail) -> list[list[object]]:
    counters = dict(mdev.counters)
    slowest = counters.pop("slowest_step_ns", 0)
    if isinstance(slowest, int) and slowest:
        counters["slowest_step"] = f"{counters.get('slowest_step', '')} {slowest / 1e6:.1f} ms".lstrip()
    names = sorted(counters, key=lambda name: _COUNTERS.index(name) if name in _COUNTERS else len(_COUNTERS))
    return [[name.replace("_", " "), _counter(counters[name])] for name in names if counters[name] != ""]


def _counter(value: int | str) -> str:
    return f"{value:,}" if isinstance(value, int) else _one_line(value)


def _warning_rows(mdev: MdevDetail) -> list[list[object]]:
    return [[Text("warning", "bold yellow"), warning] for warning in mdev.warnings]
