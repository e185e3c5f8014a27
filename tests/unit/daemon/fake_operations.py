"""A daemon without hosts: one parent with one type, as ``Operations``, served on a real control socket."""

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID, uuid4

from mdev_user.daemon.control import ControlServer
from mdev_user.daemon.events import EventLog, EventReader
from mdev_user.daemon.png import Png
from mdev_user.daemon.run_dir import RunDir
from mdev_user.daemon.views import (
    ClientView,
    DaemonView,
    MdevDetail,
    MdevView,
    MoveView,
    ParentView,
    SnapshotView,
    TypeView,
    ValuesView,
)
from mdev_user.errors import AlreadyExists, Busy, ConfigError, InvalidValue, NoDevice, NoSpace
from mdev_user.host.purpose import Purpose
from mdev_user.vfio.inspection import (
    Decoded,
    FieldValue,
    MissingRegisters,
    NamedValue,
    Suggestion,
    TouchedRegister,
    TraceLine,
    Unmodelled,
)

USED = UUID("11111111-2222-4333-8444-555555555555")
"""The mdev that a guest has open; removing it waits until ``let_go``."""

COUNTERS: dict[str, int | str] = {
    "writes": 2,
    "reads": 1234567,
    "interrupts": 3,
    "dma_read_bytes": 4096,
    "dma_write_bytes": 0,
    "guest_errors": 1,
    "last_guest_error": "read of 3 bytes at 0x10",
    "slow_steps": 1,
    "slowest_step": "write of BAR0",
    "slowest_step_ns": 1500000,
    "frobs": 5,
}

VALUES = [
    NamedValue(
        "regs.status", 0x81, size=4, region=0, offset=4,
        fields=(FieldValue("busy", 1), FieldValue("mode", 1, "FAST"), FieldValue("level", None)), computed=0xF00,
    ),
    NamedValue("regs.clock", None, size=8, region=0, offset=8, computed=(1 << 64) - 1),
    NamedValue("regs.divisor", 12, size=1, region=0, offset=16, bank="lcr.dlab", hidden=True),
    NamedValue("queued\x1b[31m", "two\nlines"),
]  # fmt: skip
MISSING = Unmodelled(
    [
        MissingRegisters(
            "Regs",
            [
                Suggestion("unknown_0x40", 0x40, 4, 12, 0),
                Suggestion("unknown_0x44", 0x44, 2, 0, 1),
                Suggestion("unknown_0x48", 0x48, 8, 3, 1000),
            ],
            left_out=True,
        )
    ],
    1016,
    forgotten=True,
)
LINES = [
    TraceLine(kind="opened", time=0.25, text="pid 7 (\x1b[31mqemu\n)"),
    TraceLine(
        kind="write", time=1.5, region=0, offset=4, size=4, data="81000000", interrupts=1,
        decoded=Decoded(registers=(TouchedRegister("regs.status", 0x81, 4, 0, VALUES[0].fields[:2]),)),
    ),
]  # fmt: skip


class FakeTrace:
    """Has its lines at once and is then quiet, until what it traces is gone."""

    def __init__(self) -> None:
        self.lines = list(LINES)
        self.gone = threading.Event()
        self.closed = threading.Event()

    def read(self) -> list[TraceLine]:
        if self.gone.wait(0 if self.lines else 0.05):
            raise NoDevice("the mdev is gone")
        lines, self.lines = self.lines, []
        return lines

    def close(self) -> None:
        self.closed.set()


class FakeOperations:
    """Keeps what it is told in memory."""

    def __init__(self) -> None:
        self.run_dir = ""
        self.registered: dict[str, str] = {"mtty": "mtty"}
        self.created: dict[UUID, MdevView] = {
            USED: self.view(USED, ClientView(pid=42, name="qemu", uid=0, unshared_memory=0))
        }
        self.removes: list[tuple[UUID, float, bool]] = []
        self.moved: list[tuple[UUID, str]] = []
        self.waiting = threading.Semaphore(0)
        """Released once by each remove that begins to wait."""
        self.let_go = threading.Event()
        self.traces: list[FakeTrace] = []
        self.log = EventLog(kept=100)
        self.fault: Exception | None = None
        """What ``types`` raises."""

    def view(self, uuid: UUID, client: ClientView | None = None) -> MdevView:
        socket = f"{self.run_dir}/devices/{uuid}/vfio-user.sock"
        return MdevView(
            uuid=str(uuid),
            parent="mtty",
            type="mtty-1",
            state="active",
            group=7,
            socket=socket,
            sysfs=None,
            client=client,
        )

    def status(self) -> DaemonView:
        return DaemonView(
            version="0.1.0", pid=99, run_dir=self.run_dir, sysfs=None, sysfs_reason="no libfuse", parents=self.parents()
        )

    def parents(self) -> list[ParentView]:
        return [self._parent(name, text) for name, text in self.registered.items()]

    def types(self) -> list[TypeView]:
        if self.fault is not None:
            raise self.fault
        return [
            TypeView(
                parent="mtty",
                type="mtty-1",
                name="Single port serial",
                description="one\nport",
                device_api="vfio-pci",
                available_instances=24 - len(self.created),
            )
        ]

    def mdevs(self) -> list[MdevView]:
        return list(self.created.values())

    def mdev(self, uuid: UUID) -> MdevDetail:
        view = self._find(uuid)
        return MdevDetail(
            **{field: getattr(view, field) for field in view.__struct_fields__},
            counters=COUNTERS,
            last_disconnect="Traceback:\n  ...\nValueError: boom",
            warnings=["the guest's RAM is not shared"],
        )

    def values(self, uuid: UUID) -> ValuesView:
        return ValuesView(uuid=self._find(uuid).uuid, opened=True, values=VALUES)

    def unmodelled(self, uuid: UUID) -> Unmodelled:
        self._find(uuid)
        return MISSING

    def screenshot(self, uuid: UUID, head: int, level: int, *, pointer: bool) -> Png:
        """The request, for what a PNG would be."""
        self._find(uuid)
        if head > 1:
            raise InvalidValue(f"head {head}: expected 0 to 1")
        pieces = b"\x89PNG", f" {head} {level} {pointer}".encode()
        return Png(sum(map(len, pieces)), iter(pieces))

    def trace(self, uuid: UUID) -> FakeTrace:
        self._find(uuid)
        self.traces.append(FakeTrace())
        return self.traces[-1]

    def uevents(self, after: int | None, daemon: str | None, *, attend: bool) -> EventReader:
        return self.log.reader(after, daemon)

    def snapshot(self) -> SnapshotView:
        return self.log.snapshot()

    def register_parent(self, specification: str) -> ParentView:
        if specification in self.registered:
            raise AlreadyExists(f"parent {specification} is registered")
        self.registered[specification] = specification
        return self._parent(specification, specification)

    def unregister_parent(self, name: str) -> None:
        if self.registered.pop(name, None) is None:
            raise NoDevice(f"no parent {name}")

    def create(self, type_id: str, parent: str | None, uuid: UUID | None) -> MdevView:
        if type_id != "mtty-1":
            raise ConfigError(f"no type {type_id}; there is mtty-1")
        uuid = uuid or uuid4()
        if uuid in self.created:
            raise AlreadyExists(f"mdev {uuid} exists")
        if len(self.created) >= 24:
            raise NoSpace("no port is left")
        self.created[uuid] = self.view(uuid)
        return self.created[uuid]

    def remove(self, uuid: UUID, *, wait: float, force: bool) -> None:
        self.removes.append((uuid, wait, force))
        view = self._find(uuid)
        if view.client is not None and not force:
            self.waiting.release()
            if not self.let_go.wait(wait):
                raise Busy(f"mdev {uuid} is in use by {view.client.name} (pid {view.client.pid})")
        self.created.pop(uuid, None)

    def begin_move(self, uuid: UUID, purpose: Purpose) -> MoveView:
        if self._find(uuid).client is None and purpose is Purpose.SAVE:
            raise NoDevice(f"nobody has {uuid} open")
        return MoveView(socket=f"{self.run_dir}/{purpose}.sock")

    def hand_over(self, uuid: UUID, place: str) -> None:
        if self._find(uuid).client is None:
            raise Busy(f"{uuid} is not stopped")
        self.moved.append((uuid, place))

    def _find(self, uuid: UUID) -> MdevView:
        if uuid not in self.created:
            raise NoDevice(f"no mdev {uuid}")
        return self.created[uuid]

    def _parent(self, name: str, text: str) -> ParentView:
        return ParentView(
            name=name,
            specification=text,
            driver="mtty",
            state="registered",
            reason="",
            host_pid=7,
            restarts=0,
            reloads=0,
            mdevs=1,
        )


@contextmanager
def served(operations: FakeOperations) -> Iterator[RunDir]:
    """A run directory whose control socket answers; its path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="mdev-user-") as folder:
        run_dir = RunDir(folder)
        operations.run_dir = folder
        server = ControlServer(operations, run_dir.control)
        server.start()
        try:
            yield run_dir
        finally:
            operations.let_go.set()
            server.stop()
