"""A guest's driver for virtio-gpu, in memory: commands by name, and pictures that it draws."""

from collections.abc import Sequence
from random import Random
from struct import pack, unpack, unpack_from

from mdev_user.driver.virtio.ring import Feature
from mdev_user.drivers.vgpu.commands import Answered
from mdev_user.drivers.vgpu.function import Vgpu
from mdev_user.drivers.vgpu.resources import Places
from mdev_user.testing import Guest
from mdev_user.vfio.screens import shown
from unit.driver.virtio.ring_driver import BUFFERS, Piece, VirtioDriver

CREATE, UNREF, SCANOUT, FLUSH, TRANSFER, ATTACH, DETACH = range(0x101, 0x108)
DISPLAY_INFO, EDID, UPDATE, MOVE = 0x100, 0x10A, 0x300, 0x301
BGRA, BGRX, RGBA = 1, 2, 67
FENCE = 1
ANSWER = BUFFERS + 0x20000
PICTURES = 0x1000_0000
"""Memory for pictures, that is mapped when one is drawn."""
OK = Answered.OK_NODATA


class GpuDriver(VirtioDriver):
    """The driver of one mdev. What it asks is done when the answer is returned."""

    FEATURES = Feature.VERSION_1 | Feature.RING_INDIRECT_DESC | Feature.RING_EVENT_IDX | 2
    PATIENCE = 1.0
    """Seconds that it waits for each answer, by the guest's clock."""

    def __init__(self, guest: Guest) -> None:
        super().__init__(guest, 64, queues=2)
        self.start(self.FEATURES)
        self._next = PICTURES

    @property
    def gpu(self) -> Vgpu:
        function = self.guest.device.function
        assert isinstance(function, Vgpu)
        return function

    def send(self, data: bytes, *, queue: int = 0, room: int = 0x1000) -> bytes:
        """Any bytes as a command, and all of the answer."""
        self.begin(data, queue=queue, room=room)
        ((_head, written),) = self.came(queue)
        return self.guest.memory[ANSWER : ANSWER + written]

    def begin(self, data: bytes, *, queue: int = 0, room: int = 0x1000) -> None:
        """As `send`, without the answer."""
        self.guest.memory[BUFFERS : BUFFERS + len(data)] = data
        pieces = [Piece(BUFFERS, len(data), 0), *([Piece(ANSWER, room)] if room else [])]
        ring = self.rings[queue]
        ring.chain(range(len(pieces)), pieces).offer(0)
        self.kick(queue)

    def came(self, queue: int = 0) -> list[tuple[int, int]]:
        """What came back, waited for as long as the driver's patience lasts."""
        self.guest.advance(self.PATIENCE)
        return self.rings[queue].taken()

    def command(self, kind: int, form: str = "", *values: int, more: bytes = b"", fence: int | None = None) -> bytes:
        flags, number = (0, 0) if fence is None else (FENCE, fence)
        return pack("<IIQII", kind, flags, number, 7, 0) + pack(f"<{form}", *values) + more

    def do(self, kind: int, form: str = "", *values: int, more: bytes = b"") -> Answered:
        """A command of which only the answer's kind is of interest."""
        answer = self.send(self.command(kind, form, *values, more=more), queue=int(kind in {UPDATE, MOVE}))
        return Answered(unpack_from("<I", answer)[0])

    # --- what a driver does with resources -------------------------------------------------------------------

    def create(self, number: int, width: int, height: int, pixels: int = BGRX) -> Answered:
        return self.do(CREATE, "4I", number, pixels, width, height)

    def unref(self, number: int) -> Answered:
        return self.do(UNREF, "I4x", number)

    def attach(self, number: int, pieces: Sequence[tuple[int, int]]) -> Answered:
        return self.do(ATTACH, "2I", number, len(pieces), more=b"".join(pack("<QI4x", *each) for each in pieces))

    def transfer(self, number: int, x: int, y: int, width: int, height: int, offset: int = 0) -> Answered:
        return self.do(TRANSFER, "4IQI4x", x, y, width, height, offset, number)

    def scanout(self, head: int, number: int, x: int = 0, y: int = 0, width: int = 0, height: int = 0) -> Answered:
        return self.do(SCANOUT, "6I", x, y, width, height, head, number)

    def flush(self, number: int, x: int, y: int, width: int, height: int) -> Answered:
        return self.do(FLUSH, "5I4x", x, y, width, height, number)

    def update(self, head: int, x: int, y: int, number: int, hot_x: int = 0, hot_y: int = 0) -> Answered:
        return self.do(UPDATE, "Iii4xIII4x", head, x, y, number, hot_x, hot_y)

    def move(self, head: int, x: int, y: int) -> Answered:
        return self.do(MOVE, "Iii4x16x", head, x, y)

    # --- pictures -------------------------------------------------------------------------------------------

    def memory(self, size: int) -> int:
        """So many bytes of new memory, in pages."""
        at = self._next
        self._next += -(-size // 0x1000) * 0x1000
        self.guest.map(at, self._next - at)
        return at

    def scattered(self, size: int) -> list[tuple[int, int]]:
        """Memory in pages that do not follow each other."""
        pages = [self.memory(0x1000) for _ in range(-(-size // 0x1000))]
        Random(1).shuffle(pages)
        return [(page, 0x1000) for page in pages]

    def fill(self, pieces: Sequence[tuple[int, int]], data: bytes) -> None:
        for address, length in pieces:
            self.guest.memory[address : address + len(data[:length])] = data[:length]
            data = data[length:]

    def show(self, number: int, width: int, height: int, seed: int, head: int = 0) -> bytes:
        """A resource with random pixels, on a head: its bytes."""
        data = Random(seed).randbytes(4 * width * height)
        pieces = self.scattered(len(data))
        self.fill(pieces, data)
        assert self.create(number, width, height) == OK
        assert self.attach(number, pieces) == OK
        assert self.transfer(number, 0, 0, width, height) == OK
        assert self.scanout(head, number, 0, 0, width, height) == OK
        assert self.flush(number, 0, 0, width, height) == OK
        return data

    def on_head(self, head: int = 0) -> bytes | None:
        """The pixels of a head's picture, line by line."""
        picture = shown(self.gpu, head)
        if picture is None:
            return None
        rows = (row * picture.stride for row in range(picture.height))
        return b"".join(bytes(picture.pixels[row : row + 4 * picture.width]) for row in rows)

    def is_sound(self) -> bool:
        """Whether the quota holds, accounts are right, no resources overlap, and every head can be looked at."""
        end, size, places = 0, self.gpu.profile.low_gm, Places()
        for each in sorted(self.gpu.resources.values(), key=lambda each: each.at):
            if each.at < end:
                return False
            places.add(each)
            end = each.at + each.charged
        for head in range(self.gpu.heads):
            self.on_head(head)
        return end <= size and places.used <= size and vars(self.gpu.places) == vars(places)


def heads_of(answer: bytes) -> list[tuple[int, ...]]:
    """x, y, width, height of the heads with a monitor."""
    heads = [unpack_from("<6I", answer, 24 + 24 * head) for head in range(16)]
    return [each[:4] for each in heads if each[4]]


def fence_of(answer: bytes) -> tuple[int, int, int]:
    """Flags, fence and context."""
    _type, flags, fence, context = unpack("<IIQI", answer[:20])
    return flags, fence, context
