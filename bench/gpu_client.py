"""A guest of one vgpu, without the guest: fills its control queue with updates of a picture, and times them.

``gpu_client.py SOCKET WIDTH HEIGHT PIECE DEPTH`` sets a head and begins at once: an update is TRANSFER_TO_HOST_2D and
FLUSH of the whole picture. ``PIECE`` is the size of the pieces that its memory is in, in bytes (a guest's pages: 4096;
0: one piece), ``DEPTH`` how many updates it has under way. It prints a line with what it is asked for on stdin:
``count``: updates so far, and seconds since it began; ``end``: all of their milliseconds, and the end.
"""

import fcntl
import mmap
import os
import select
import struct
import sys
import time
from collections import deque

from mdev_user.units import PAGE, MiB
from mdev_user.vfio.requests import Irq, Region
from mdev_user.vfio_user.client import Client

SIZE = 64
DESCRIPTORS, AVAILABLE, USED, COMMANDS = 0x0000, 0x1000, 0x2000, 0x10000
ENTRIES, PICTURE = 0x100000, 16 * MiB
_CREATE, _SCANOUT, _FLUSH, _TRANSFER, _ATTACH = 0x101, 0x103, 0x104, 0x105, 0x106
_BGRX, _OK = 2, 0x1100
_ENABLE = 1 << 15
"""Of the control word of the MSI-X capability."""


class Guest:
    """The memory that a guest shares, its control queue, and the interrupt of it."""

    features = context = 0
    """Of its driver, the lower half; of its commands."""

    def __init__(self, path: str, pixels: int, piece: int) -> None:
        size = PICTURE + 2 * -(-pixels // PAGE) * PAGE
        fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        self.memory, self._piece = mmap.mmap(fd, size), piece
        self._client = Client(path)
        self._client.dma_map(0, size, fd)
        self._event = os.eventfd(0)
        self._added = self._seen = 0
        self._start()

    def _start(self) -> None:
        write = self._client.region_write
        write(Region.CONFIG, 4, struct.pack("<H", 6))
        self._client.arm(Irq.MSIX, [self._event])
        write(Region.CONFIG, self._msix() + 2, struct.pack("<H", _ENABLE))
        for value in (0, 1, 3):
            write(0, 0x14, bytes([value]))
        for half, features in ((0, self.features), (1, 1)):
            write(0, 0x08, struct.pack("<I", half))
            write(0, 0x0C, struct.pack("<I", features))
        write(0, 0x14, bytes([11]))
        write(0, 0x16, struct.pack("<H", 0))
        write(0, 0x18, struct.pack("<H", SIZE))
        write(0, 0x1A, struct.pack("<H", 0))
        for register, area in ((0x20, DESCRIPTORS), (0x28, AVAILABLE), (0x30, USED)):
            write(0, register, struct.pack("<Q", area))
        write(0, 0x1C, struct.pack("<H", 1))
        write(0, 0x14, bytes([15]))

    def _msix(self) -> int:
        at = self._client.region_read(Region.CONFIG, 0x34, 1)[0]
        while self._client.region_read(Region.CONFIG, at, 1)[0] != 0x11:
            at = self._client.region_read(Region.CONFIG, at + 1, 1)[0]
        return at

    def offer(self, kind: int, form: str, *values: int, more: int = 0) -> None:
        """Make a command available; ``more`` bytes of it lie at `ENTRIES`."""
        slot = 3 * (self._added % (SIZE // 4))
        at = COMMANDS + 256 * slot
        command = struct.pack("<IIQII", kind, 1, self._added, self.context, 0) + struct.pack(f"<{form}", *values)
        self.memory[at : at + len(command)] = command
        pieces = [(at, len(command), 0), *([(ENTRIES, more, 0)] if more else []), (at + 128, 24, 2)]
        for number, (address, length, flags) in enumerate(pieces):
            last = number + 1 == len(pieces)
            entry = struct.pack("<QIHH", address, length, flags | (0 if last else 1), slot + number + 1)
            self.memory[DESCRIPTORS + 16 * (slot + number) : DESCRIPTORS + 16 * (slot + number + 1)] = entry
        place = AVAILABLE + 4 + 2 * (self._added % SIZE)
        self.memory[place : place + 2] = struct.pack("<H", slot)
        self._added += 1
        self.memory[AVAILABLE + 2 : AVAILABLE + 4] = struct.pack("<H", self._added & 0xFFFF)

    def kick(self) -> None:
        self._client.region_write(0, 0x80, bytes(2), posted=True)

    def taken(self) -> int:
        """How many commands have come back since the last time. One that was refused ends it all."""
        (index,) = struct.unpack_from("<H", self.memory, USED + 2)
        came: int = (index - self._seen) & 0xFFFF
        for at in range(self._seen, self._seen + came):
            (answer,) = struct.unpack_from("<I", self.memory, COMMANDS + 256 * 3 * (at % (SIZE // 4)) + 128)
            if answer != _OK:
                raise SystemExit(f"command {at} was answered with {answer:#x}")
        self._seen += came
        return came

    def do(self, kind: int, form: str, *values: int, more: int = 0) -> None:
        self.offer(kind, form, *values, more=more)
        self.kick()
        while not self.taken():
            os.read(self._event, 8)

    def show(self, width: int, height: int) -> None:
        """A picture on head 0."""
        size = 4 * width * height
        pieces = [(PICTURE, size)]
        if self._piece:
            step = 2 * self._piece  # they do not follow each other
            pieces = [
                (PICTURE + step * number, min(self._piece, size - at))
                for number, at in enumerate(range(0, size, self._piece))
            ]
        entries = b"".join(struct.pack("<QI4x", *each) for each in pieces)
        self.memory[ENTRIES : ENTRIES + len(entries)] = entries
        self.do(_CREATE, "4I", 1, _BGRX, width, height)
        self.do(_ATTACH, "2I", 1, len(pieces), more=len(entries))
        self.do(_SCANOUT, "6I", 0, 0, width, height, 0, 1)

    @property
    def wakes(self) -> int:
        """Becomes readable when commands came back."""
        return self._event


class Updates:
    """Updates of the picture, so many under way."""

    def __init__(self, guest: Guest, width: int, height: int, depth: int) -> None:
        self.times: list[float] = []
        """Milliseconds of each, from where it was offered to where its answer was seen."""
        self.start = time.monotonic()
        self._guest, self._size, self._half = guest, (width, height), 0
        self._begun: deque[float] = deque()
        for _ in range(depth):
            self._begin()
        guest.kick()

    def _begin(self) -> None:
        width, height = self._size
        self._begun.append(time.monotonic())
        self._guest.offer(_TRANSFER, "4IQI4x", 0, 0, width, height, 0, 1)
        self._guest.offer(_FLUSH, "5I4x", 0, 0, width, height, 1)

    def go_on(self) -> None:
        """Something came back: begin as many anew."""
        os.read(self._guest.wakes, 8)
        done, self._half = divmod(self._half + self._guest.taken(), 2)
        now = time.monotonic()
        for _each in range(done):
            self.times.append(1000 * (now - self._begun.popleft()))
            self._begin()
        if done:
            self._guest.kick()


def main() -> None:
    path, *numbers = sys.argv[1:]
    width, height, piece, depth = map(int, numbers)
    guest = Guest(path, 4 * width * height, piece)
    guest.show(width, height)
    updates = Updates(guest, width, height, depth)
    while True:
        ready, _, _ = select.select([guest.wakes, sys.stdin], [], [])
        if guest.wakes in ready:
            updates.go_on()
        if sys.stdin not in ready:
            continue
        if sys.stdin.readline().strip() != "count":
            print(*(f"{each:.3f}" for each in updates.times), flush=True)
            return
        print(len(updates.times), time.monotonic() - updates.start, flush=True)


if __name__ == "__main__":
    main()
