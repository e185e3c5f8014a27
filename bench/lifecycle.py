"""Creating and removing many mdevs through the mounted sysfs, and what one costs while nobody uses it."""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

from programs import CannotMeasure
from served import Daemon, count_fds, count_threads, pss_kib, served

_WARM_UP = 20


@dataclass(frozen=True)
class Cost:
    """What the daemon and its host use together."""

    memory_kib: int
    fds: int
    threads: int


@dataclass(frozen=True)
class Measured:
    """One run. ``before`` and ``with_all`` are with no mdev and with all of them."""

    mdevs: int
    create_seconds: float
    remove_seconds: float
    slowest_create_seconds: float
    slowest_remove_seconds: float
    before: Cost
    with_all: Cost


def measure(mdevs: int) -> Measured:
    """Create ``mdevs`` mdevs one after the other, and remove them oldest first."""
    with served([f"mtty,ports={mdevs + _WARM_UP}"]) as daemon:
        tree = daemon.sysfs()
        folder = tree / "devices/virtual/mtty/mtty"
        create_file = folder / "mdev_supported_types/mtty-1/create"

        def create(uuid: UUID) -> None:
            _write(create_file, str(uuid))

        def remove(uuid: UUID) -> None:
            _write(folder / str(uuid) / "remove", "1")

        _warm_up(create, remove)
        before = _cost(daemon)
        uuids = [uuid4() for _ in range(mdevs)]
        create_seconds, slowest_create = _timed(create, uuids)
        _check(daemon, tree, mdevs)
        with_all = _cost(daemon)
        remove_seconds, slowest_remove = _timed(remove, uuids)
        _check(daemon, tree, 0)
    return Measured(mdevs, create_seconds, remove_seconds, slowest_create, slowest_remove, before, with_all)


def _write(path: Path, text: str) -> None:
    """As a shell's echo does: open, write, close."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _warm_up(create: Callable[[UUID], None], remove: Callable[[UUID], None]) -> None:
    """Threads that are kept and code that is loaded once are no cost of an mdev."""
    uuids = [uuid4() for _ in range(_WARM_UP)]
    for operation in (create, remove):
        for uuid in uuids:
            operation(uuid)


def _timed(operation: Callable[[UUID], None], uuids: Iterable[UUID]) -> tuple[float, float]:
    """Seconds of all, and of the slowest one."""
    slowest = 0.0
    began = last = time.perf_counter()
    for uuid in uuids:
        operation(uuid)
        now = time.perf_counter()
        slowest, last = max(slowest, now - last), now
    return last - began, slowest


def _check(daemon: Daemon, tree: Path, expected: int) -> None:
    """What was timed was done: the nodes are there, and a socket for each."""
    listed = sum(1 for _ in (tree / "bus/mdev/devices").iterdir())
    sockets = sum(1 for _ in (daemon.run_dir / "devices").glob("*/vfio-user.sock"))
    if (listed, sockets) != (expected, expected):
        raise CannotMeasure(f"expected {expected} mdevs, found {listed} in sysfs and {sockets} sockets")


def _cost(daemon: Daemon) -> Cost:
    pids = daemon.pid, daemon.host_of("mtty")
    return Cost(sum(map(pss_kib, pids)), sum(map(count_fds, pids)), sum(map(count_threads, pids)))
