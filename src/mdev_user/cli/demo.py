"""``mdev-user demo``: one parent, cut into two mdevs, used by two guests at the same time."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Protocol
from uuid import UUID, uuid4

import typer
from rich.console import Console
from rich.table import Table
from typing_extensions import override

from mdev_user.cli.streams import writing
from mdev_user.daemon.client import Client, NoDaemon
from mdev_user.daemon.run_dir import RunDir, mounts_below
from mdev_user.errors import AlreadyExists, ConfigError, MdevUserError
from mdev_user.guests import serial
from mdev_user.guests.archive import RigError
from mdev_user.guests.arguments import run_command, vfio_arguments
from mdev_user.guests.builtin import BuiltinGuest
from mdev_user.guests.qemu import VFIO_PCI, VFIO_USER_PCI
from mdev_user.guests.rig import Rig, build_rig
from mdev_user.guests.serial import Exchange
from mdev_user.guests.vm import Guest
from mdev_user.host import PYTHON

_TYPE = "mtty-1"
_TIMES = 100
_START_SECONDS = 30.0


class SerialGuest(Protocol):
    """What the scenario asks of a guest, be it a real one or the built-in one."""

    def describe(self) -> str: ...

    def converse(self, line: str, times: int) -> Exchange: ...


class RealGuest:
    """A Linux guest in QEMU; its stock 8250 driver drives the mdev."""

    def __init__(self, guest: Guest) -> None:
        guest.boot()
        self._guest = guest
        self._port = serial.ports(guest)[0]

    def describe(self) -> str:
        status = serial.status(self._guest, self._port)
        return f"{self._port}: {status.uart}, irq {status.irq} (stock 8250 driver)"

    def converse(self, line: str, times: int) -> Exchange:
        return serial.converse(self._guest, self._port, line, times)


@dataclass(frozen=True)
class Proof:
    """A row of the table at the end."""

    fact: str
    seen: str
    holds: bool


class _Stdout(Console):
    """OutputError, and so the end of the demo, where it cannot be written."""

    @override
    def print(self, *objects: Any, **options: Any) -> None:  # Any: as rich declares them
        with writing():
            super().print(*objects, **options)


def demo() -> None:
    """Cut one parent device into two mdevs and let two guests use them at the same time."""
    console = _Stdout()
    console.soft_wrap = True
    with _daemon() as daemon:
        rig = _rig(console, daemon.devices())
        console.print(_way(rig))
        proofs = _scenario(console, daemon, rig)
    console.print(_table(proofs))
    failed = [each.fact for each in proofs if not each.holds]
    if failed:
        console.print(f"[red]not shown:[/red] {', '.join(failed)}")
        raise typer.Exit(1)


def _rig(console: Console, devices: Sequence[str]) -> Rig | None:
    try:
        return build_rig(lambda line: console.print(line, style="dim"), devices=devices)
    except RigError as error:
        console.print(f"No QEMU with {' or '.join(devices)} here ({error}).")
        return None


def _way(rig: Rig | None) -> str:
    """By which way the guests have their mdevs."""
    if rig is None:
        return "The guests: the built-in vfio-user client."
    if rig.device == VFIO_PCI:
        return f"The guests: this machine's QEMU {rig.qemu_version}, by vfio-pci under `mdev-user run`."
    return f"The guests: QEMU {rig.qemu_version}, by vfio-user-pci."


@dataclass(frozen=True)
class _Daemon:
    """The demo's own daemon."""

    place: RunDir
    client: Client

    def devices(self) -> list[str]:
        """Which of QEMU's devices an mdev can be here, the preferred one first."""
        return [VFIO_USER_PCI, *([VFIO_PCI] if self._runs() else [])]

    def _runs(self) -> bool:
        command = [*run_command(self.place.path), "test", "-c", "/dev/vfio/vfio"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        return done.returncode == 0

    def guest(self, rig: Rig, uuid: UUID) -> Guest:
        """A guest with an mdev, by the way that its QEMU has."""
        if rig.device == VFIO_PCI:
            return Guest(rig, arguments=vfio_arguments(uuid), launcher=run_command(self.place.path))
        return Guest(rig, [self.socket(uuid)])

    def socket(self, uuid: UUID) -> Path:
        return Path(self.client.mdev(uuid).socket)


@contextmanager
def _daemon() -> Iterator[_Daemon]:
    """A daemon of our own, with a run directory of its own, so that one that is running is left alone."""
    with _terminable(), _folder() as folder, _serving(folder) as daemon:
        yield daemon


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that nothing is left behind."""
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


@contextmanager
def _folder() -> Iterator[Path]:
    """A new folder, removed at the end unless something is still mounted in it."""
    folder = Path(tempfile.mkdtemp(prefix="mdev-demo-"))
    try:
        _check_length(folder)
        yield folder
    finally:
        if not mounts_below(folder.resolve()):  # never delete through a mount
            shutil.rmtree(folder)


def _check_length(folder: Path) -> None:
    try:
        RunDir(folder).check_length()
    except ConfigError:
        raise ConfigError(
            f"the sockets' paths in {folder} would be too long: expected a short folder for temporary files, given "
            f"{str(folder.parent)!r}; try `TMPDIR=/tmp mdev-user demo`"
        ) from None


@contextmanager
def _serving(folder: Path) -> Iterator[_Daemon]:
    command = [*PYTHON, "mdev_user", "serve", "--run-dir", str(folder), "--log-level", "warning", "mtty"]
    with subprocess.Popen(command) as process:
        try:
            place = RunDir(folder)
            daemon = _Daemon(place, Client(place))
            _wait_until_ready(daemon.client, process)
            yield daemon
        finally:
            process.terminate()
            process.wait()  # after Ctrl-C, Popen itself does not


def _wait_until_ready(client: Client, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if any(each.state == "registered" for each in client.status().parents):
                return
        except NoDaemon:
            pass
        time.sleep(0.05)
    raise MdevUserError("the daemon did not start; its log is above")


def _scenario(console: Console, daemon: _Daemon, rig: Rig | None) -> list[Proof]:
    """Create, use at the same time, look, remove; every step leaves its proof."""
    tree = _Tree(daemon.client)
    before = tree.available()
    console.print(f"\nOne parent, [bold]mtty[/bold]: {before} ports to share. The tree: {tree.root}")
    uuids = [uuid4(), uuid4()]
    for uuid in uuids:
        tree.create(uuid)
        console.print(f"  echo {uuid} > {tree.shown('create')}")
    during = tree.available()
    proofs = [
        Proof("one parent is cut into two mdevs", f"available_instances {before} -> {during}", during == before - 2),
        Proof("a UUID exists once", f"a second create: {tree.create_again(uuids[0])}", tree.refused),
    ]
    with ExitStack() as guests:
        console.print("\nStarting two guests" + (" (Linux in QEMU, emulated: some ten seconds) ..." if rig else " ..."))
        pair = _start(guests, rig, daemon, uuids)
        for name, guest in zip("AB", pair, strict=True):
            console.print(f"  guest {name}: {guest.describe()}")
        proofs += _use(console, daemon.client, uuids, pair)
    for uuid in uuids:
        tree.remove(uuid)
    after = tree.available()
    proofs.append(Proof("both removed, nothing is left", f"available_instances {after}", after == before))
    return proofs


def _start(guests: ExitStack, rig: Rig | None, daemon: _Daemon, uuids: list[UUID]) -> list[SerialGuest]:
    if rig is None:
        return [guests.enter_context(BuiltinGuest(daemon.socket(uuid))) for uuid in uuids]
    booting = [daemon.guest(rig, uuid) for uuid in uuids]
    for guest in booting:
        guests.callback(guest.close)
        guest.start()
    return [RealGuest(guest) for guest in booting]


def _use(console: Console, client: Client, uuids: list[UUID], pair: list[SerialGuest]) -> list[Proof]:
    """Both guests talk to their ports at the same time."""
    lines = ["I am guest A", "guest B here"]
    counted = [_interrupts(client, uuid) for uuid in uuids]
    console.print(f"\nEach guest sends its line {_TIMES} times and reads it back, both at the same time ...")
    with ThreadPoolExecutor(len(pair)) as pool:
        exchanges = list(pool.map(lambda guest, line: guest.converse(line, _TIMES), pair, lines))
    proofs = []
    for name, uuid, exchange, before in zip("AB", uuids, exchanges, counted, strict=True):
        device = _interrupts(client, uuid) - before
        proofs += [
            Proof(
                f"guest {name}: its own bytes came back, and no other",
                f"{len(exchange.received)} of {len(exchange.sent)} bytes, {exchange.received[:13].decode()!r} ...",
                exchange.identical,
            ),
            Proof(
                f"guest {name}: by interrupt",
                f"the guest counted {exchange.interrupts}, the device raised {device} (about as many is right: "
                "a level that stays up is counted by each in its own way)",
                _agree(exchange, device),
            ),
        ]
        detail = client.mdev(uuid)
        user = f"{detail.client.name} (pid {detail.client.pid})" if detail.client else "nobody"
        counters = detail.counters
        console.print(
            f"  mdev {uuid}: used by {user}; {counters['reads']} reads, {counters['writes']} writes, "
            f"{counters['interrupts']} interrupts, {counters['guest_errors']} guest errors"
        )
    return proofs


def _agree(exchange: Exchange, device: int) -> bool:
    """At least one interrupt for a full FIFO, and both sides count in the same order of magnitude.

    Not equal: QEMU asserts a level again at each of the guest's accesses while it is up, and an assertion that comes
    too late is counted by the guest; a slow guest finds new work in its interrupt, which the device counts.
    Idle, both are within a tenth.
    """
    return exchange.interrupts >= len(exchange.sent) / 16 and device / 2 <= exchange.interrupts <= device * 2


def _interrupts(client: Client, uuid: UUID) -> int:
    return int(client.mdev(uuid).counters["interrupts"])


class _Tree:
    """Management as a person does it: by the files in sysfs, or by the control API where nothing is mounted."""

    def __init__(self, client: Client) -> None:
        self._client = client
        sysfs = client.status().sysfs
        self._sys = Path(sysfs) if sysfs else None
        self.root = sysfs or "not mounted (no FUSE); the control socket does the same"
        self.refused = False

    def shown(self, attribute: str) -> str:
        return f"class/mdev_bus/mtty/mdev_supported_types/{_TYPE}/{attribute}"

    def available(self) -> int:
        if self._sys is not None:
            return int((self._sys / self.shown("available_instances")).read_text())
        return next(each.available_instances for each in self._client.types() if each.type == _TYPE)

    def create(self, uuid: UUID) -> None:
        if self._sys is not None:
            (self._sys / self.shown("create")).write_text(f"{uuid}\n")
        else:
            self._client.create(_TYPE, None, uuid)

    def create_again(self, uuid: UUID) -> str:
        try:
            self.create(uuid)
        except (OSError, MdevUserError) as error:
            self.refused = isinstance(error, FileExistsError) or error.errno == AlreadyExists.errno
            return os.strerror(error.errno or 0)
        return "accepted"

    def remove(self, uuid: UUID) -> None:
        if self._sys is not None:
            (self._sys / "bus/mdev/devices" / str(uuid) / "remove").write_text("1\n")
        else:
            self._client.remove(uuid, wait=0, force=False)


def _table(proofs: list[Proof]) -> Table:
    table = Table(title="What was proven", title_justify="left")
    for heading in ("", "fact", "seen"):
        table.add_column(heading)
    for each in proofs:
        table.add_row("[green]yes[/green]" if each.holds else "[red]NO[/red]", each.fact, each.seen)
    return table
