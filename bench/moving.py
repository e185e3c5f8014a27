"""Moving an mdev with 64 MiB of memory to another daemon, while its guest writes into 1 % of it.

The guest is a process of its own: it maps the memory, writes a number into each of its busy pages, and then a register,
again and again; when the device stands still so does it. In the same round the same memory is compared once with a copy
of it, as the driver does while it moves: the device has to stand still for at least that long.
"""

import mmap
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from uuid import UUID, uuid4

from programs import CannotMeasure
from served import served

from mdev_user.daemon import mover
from mdev_user.daemon.client import Client
from mdev_user.daemon.mover import Moved
from mdev_user.daemon.run_dir import RunDir
from mdev_user.driver.saving.pages import Place
from mdev_user.driver.saving.shadow import Budget, Shadow
from mdev_user.units import PAGE, GiB, MiB
from mdev_user.vfio_user.client import Client as VfioUser

SIZE = 64 * MiB
BUSY = SIZE // PAGE // 100
"""Pages that the guest writes all the time."""
_STRIDE = 97
_VIDEO, _REGISTERS, _YRES = 0, 2, 0x504
_WHOLE = Budget(GiB, GiB)
_SECONDS = 60.0


@dataclass(frozen=True)
class Measured:
    """One round. ``compare_seconds`` is what comparing the memory once took, just before."""

    compare_seconds: float
    moved: Moved


def measure(rounds: int) -> list[Measured]:
    """There and back again, each time while the guest writes. CannotMeasure when the picture did not arrive."""
    with served(["mbochs"]) as first, served(["mbochs"]) as second:
        ends = [Client(RunDir(each.run_dir)) for each in (first, second)]
        return [_round(*(ends if number % 2 == 0 else ends[::-1])) for number in range(rounds)]


def _round(source: Client, destination: Client) -> Measured:
    uuid = uuid4()
    socket = source.create("mbochs-large", None, uuid).socket
    with _painter(socket) as memory:
        compare_seconds = _compare(memory)
        moved = mover.migrate(source, destination, uuid, "the other daemon", lambda _what, _moved: None)
    _check(destination, uuid)
    destination.remove(uuid, wait=_SECONDS, force=True)
    return Measured(compare_seconds, moved)


def _compare(memory: mmap.mmap) -> float:
    """Seconds; the median of three times."""
    with memoryview(memory) as view:
        shadow = Shadow(0, Place("video", view, lambda: [(0, SIZE)]), kept=True)
        _take(shadow)
        seconds = median(_take(shadow) for _ in range(3))
        del shadow
    return seconds


def _take(shadow: Shadow) -> float:
    began = time.perf_counter()
    for found in shadow.changed(_WHOLE):
        del found
    return time.perf_counter() - began


@contextmanager
def _painter(socket: str) -> Iterator[mmap.mmap]:
    """A guest that paints until its device goes; its memory, for us to look at."""
    command = [sys.executable, __file__, socket]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout is None or process.stdout.readline() != "painted\n":
            raise CannotMeasure("the guest of the moving mdev did not get ready")
        name = process.stdout.readline().strip()
        with Path(f"/proc/{process.pid}/fd/{name}").open("r+b") as file, mmap.mmap(file.fileno(), SIZE) as memory:
            yield memory
        process.communicate(timeout=_SECONDS)
        if process.returncode:
            raise CannotMeasure("the guest of the moving mdev failed")
    finally:
        process.kill()
        process.wait()


def _check(daemon: Client, uuid: UUID) -> None:
    """Each busy page has the number of the last round, or of the one before; all others have what was there first."""
    with VfioUser(daemon.mdev(uuid).socket, timeout=_SECONDS) as guest, _mapped(guest) as video:
        told = int.from_bytes(guest.region_read(_REGISTERS, _YRES, 2), "little")
        busy = {page * _STRIDE for page in range(BUSY)}
        for page in range(SIZE // PAGE):
            number = int.from_bytes(video[page * PAGE : page * PAGE + 8], "little")
            if page in busy and (number - told) % 0x10000 not in {0, 1}:
                raise CannotMeasure(f"page {page} of the moved mdev: expected the number {told} or the next")
            if page not in busy and number != page + 1:
                raise CannotMeasure(f"page {page} of the moved mdev is not as it was")


@contextmanager
def _mapped(guest: VfioUser) -> Iterator[mmap.mmap]:
    region = guest.region_info(_VIDEO)
    try:
        with mmap.mmap(region.fd, region.size, offset=region.offset) as video:
            yield video
    finally:
        os.close(region.fd)


def _paint(socket: str) -> None:
    """The guest's program."""
    with VfioUser(socket, timeout=_SECONDS) as guest, _mapped(guest) as video:
        video[:] = b"".join((page + 1).to_bytes(8, "little") * (PAGE // 8) for page in range(SIZE // PAGE))
        print("painted", flush=True)
        print(guest.region_info(_VIDEO).fd, flush=True)
        number = 0
        while True:
            number += 1
            for page in range(BUSY):
                at = page * _STRIDE * PAGE
                video[at : at + 8] = number.to_bytes(8, "little")
            try:
                guest.region_write(_REGISTERS, _YRES, (number % 0x10000).to_bytes(2, "little"))
            except ConnectionError:
                sys.stdin.read()  # to end takes time, and a core; nobody measures that
                return


if __name__ == "__main__":
    _paint(sys.argv[1])
