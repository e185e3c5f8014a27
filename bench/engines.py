"""What a device does beside answering accesses: its interrupts, its DMA, and keeping the guest's mappings."""

import fcntl
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from uuid import uuid4

import meter
from peer import libvfio_user
from programs import CannotMeasure, Program, Times, running
from roundtrips import KIND, MEASURED
from served import Daemon, pin

from mdev_user.vfio.requests import Region
from mdev_user.vfio_user.client import Client

BYTES, COPIES = 1 << 20, 100
PAGES = 256
"""What Linux maps for one buffer of 1 MiB behind an IOMMU: QEMU sends a DMA_MAP for each page."""
_ADDRESS = 1 << 20
_COMMAND, _MASTER = 4, 0x0006
_BEFORE, _WRITTEN = 0x5A, 0xA5
_SECONDS = 20.0


@dataclass(frozen=True)
class Copies:
    """Median nanoseconds of copying `BYTES` into the device ("read"), and out of it ("write")."""

    read: int
    write: int


@dataclass(frozen=True)
class Mapped:
    """Nanoseconds of mapping and of unmapping one page."""

    map: float
    unmap: float


@dataclass(frozen=True)
class Measured:
    """One round; ours by the loop's name."""

    interrupt_limit: Times
    interrupts: Mapping[str, Times]
    copy_limit: Copies
    copies: Mapping[str, Copies]
    libvfio_user_mapped: Mapped | None
    mapped: Mapping[str, Mapped]


class Engines:
    """The programs that take part, started; `round` has each of them do its work."""

    def __init__(
        self, stack: ExitStack, daemons: Mapping[str, Daemon], folder: Path, server: Path | None, cores: Sequence[int]
    ) -> None:
        """Everything runs on the first core, but for those who wait for interrupts, which are on the last.

        ``folder`` has the programs; ``server`` is a libvfio-user server's.
        """
        start, interrupt = stack.enter_context, str(folder / "interrupt")
        core, guest = cores[0], cores[-1]
        paths = {name: _paths(daemon, core) for name, daemon in daemons.items()}
        self._interrupt_limit = start(running([interrupt, str(core)], guest))
        self._interrupts = {
            name: start(running([interrupt, str(next(of)), str(meter.BELL)], guest)) for name, of in paths.items()
        }
        self._copy_limit = start(running([str(folder / "copy"), str(BYTES)], core))
        self._copies = {name: start(_copying(next(of))) for name, of in paths.items()}
        self._peer = start(_peer(folder, server, core)) if server else None
        self._mappings = {name: start(_mapping(folder, next(of), core)) for name, of in paths.items()}

    def round(self, interrupts: int) -> Measured:
        return Measured(
            self._interrupt_limit.round(interrupts)["write"],
            {name: each.round(interrupts)["write"] for name, each in self._interrupts.items()},
            _copied_by(self._copy_limit),
            {name: each.round() for name, each in self._copies.items()},
            _mapped_by(self._peer) if self._peer else None,
            {name: _mapped_by(each) for name, each in self._mappings.items()},
        )


class _Copier:
    """The client of a device that copies between its own memory and a sealed file of ours."""

    def __init__(self, client: Client, memory: mmap) -> None:
        self._client = client
        self._memory = memory

    def round(self) -> Copies:
        self._memory[:] = bytes([_BEFORE]) * BYTES
        read, write = self._copied(meter.READ), self._copied(meter.WRITE)
        if self._memory[:] != bytes([_WRITTEN]) * BYTES:
            raise CannotMeasure("the device did not write all of the memory that it was given")
        return Copies(read, write)

    def _copied(self, register: int) -> int:
        self._store(register, 1)
        deadline = time.monotonic() + _SECONDS
        while self._load(meter.RUNNING, 4):
            if time.monotonic() > deadline:
                raise CannotMeasure(f"the device has not copied {COPIES} times {BYTES} bytes in {_SECONDS:.0f} s")
            time.sleep(0.001)
        return self._load(meter.NANOSECONDS, 8)

    def _load(self, register: int, size: int) -> int:
        return int.from_bytes(self._client.region_read(meter.REGION, register, size), "little")

    def _store(self, register: int, value: int, size: int = 4) -> None:
        self._client.region_write(meter.REGION, register, value.to_bytes(size, "little"))

    def prepare(self, fd: int) -> None:
        self._client.dma_map(_ADDRESS, BYTES, fd)
        self._client.region_write(Region.CONFIG, _COMMAND, _MASTER.to_bytes(2, "little"))
        self._store(meter.ADDRESS, _ADDRESS, 8)
        self._store(meter.LENGTH, BYTES)
        self._store(meter.COPIES, COPIES)


def _paths(daemon: Daemon, core: int) -> Iterator[Path]:
    """Sockets of new mdevs whose host is on that core."""
    while True:
        path = daemon.create(MEASURED, uuid4(), KIND)
        pin(daemon.host_of(MEASURED), core)
        yield path


@contextmanager
def _copying(path: Path) -> Iterator[_Copier]:
    fd = os.memfd_create("memory", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, BYTES)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        with mmap(fd, BYTES) as memory, Client(path, timeout=_SECONDS) as client:
            copier = _Copier(client, memory)
            copier.prepare(fd)
            yield copier
    finally:
        os.close(fd)


@contextmanager
def _mapping(folder: Path, path: Path, core: int) -> Iterator[Program]:
    with running([str(folder / "mappings"), str(path)], core) as program:
        yield program


@contextmanager
def _peer(folder: Path, server: Path, core: int) -> Iterator[Program]:
    with libvfio_user(server, core) as path, _mapping(folder, path, core) as program:
        yield program


def _copied_by(program: Program) -> Copies:
    measured = program.round(COPIES)
    return Copies(measured["read"]["p50"], measured["write"]["p50"])


def _mapped_by(program: Program) -> Mapped:
    answer = program.ask(PAGES)
    return Mapped(answer["map"] / PAGES, answer["unmap"] / PAGES)
