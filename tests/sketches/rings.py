"""A guest's driver for split virtqueues, in memory: what the tests of a virtio device drive it with."""

from struct import pack, unpack

from mdev_user.testing import Guest
from sketches.virtio_rng import NEXT, NO_VECTOR, QUEUE_SIZE, VERSION_1, WRITE, Regs

DESCRIPTORS, AVAILABLE, USED, BUFFERS = 0x1000, 0x2000, 0x3000, 0x10000


class Ring:
    """The one queue of a device, with ``size`` entries; the guest's side of it."""

    def __init__(self, guest: Guest, size: int = QUEUE_SIZE) -> None:
        self.guest, self.size = guest, size
        self.added = self.seen = 0

    def start(self, vector: int = NO_VECTOR) -> None:
        """As section 3.1.1 says, from the reset to DRIVER_OK."""
        guest = self.guest
        self.added = self.seen = 0
        guest.memory[DESCRIPTORS : DESCRIPTORS + 0x3000] = bytes(0x3000)
        guest.write(Regs.status, 0)
        assert int(guest.read(Regs.status)) == 0
        for status in (1, 3):
            guest.write(Regs.status, status)
        guest.write(Regs.driver_feature_select, 1)
        guest.write_bytes(0, 0x0C, pack("<I", VERSION_1))
        guest.write(Regs.status, 11)
        assert guest.read(Regs.status.features_ok)
        guest.write(Regs.queue_size, self.size)
        guest.write(Regs.queue_vector, vector)
        for register, address in ((0x20, DESCRIPTORS), (0x28, AVAILABLE), (0x30, USED)):  # as Linux: two halves
            guest.write_bytes(0, register, pack("<I", address))
            guest.write_bytes(0, register + 4, bytes(4))
        guest.write(Regs.queue_enable, 1)
        guest.write(Regs.status, 15)

    def describe(self, index: int, address: int, length: int, flags: int = WRITE, following: int = 0) -> None:
        at = DESCRIPTORS + 16 * index
        self.guest.memory[at : at + 16] = pack("<QIHH", address, length, flags, following)

    def offer(self, head: int) -> None:
        """Make a chain available, without telling the device."""
        at = AVAILABLE + 4 + 2 * (self.added % self.size)
        self.guest.memory[at : at + 2] = pack("<H", head)
        self.added = (self.added + 1) % 0x10000
        self.guest.memory[AVAILABLE + 2 : AVAILABLE + 4] = pack("<H", self.added)

    def kick(self) -> None:
        self.guest.write(Regs.notify, 0)

    def taken(self) -> list[tuple[int, int]]:
        """The chains that came back since the last time: head and bytes."""
        (index,) = unpack("<H", self.guest.memory[USED + 2 : USED + 4])
        found: list[tuple[int, int]] = []
        while self.seen != index:
            at = USED + 4 + 8 * (self.seen % self.size)
            head, length = unpack("<II", self.guest.memory[at : at + 8])
            found.append((head, length))
            self.seen = (self.seen + 1) % 0x10000
        return found

    def request(self, length: int, chained: int = 1) -> bytes:
        """Ask with a chain of ``chained`` buffers, wait, and give what the device put into them."""
        for index in range(chained):
            flags = WRITE if index + 1 == chained else WRITE | NEXT
            self.describe(index, BUFFERS + index * length, length, flags, index + 1)
        self.guest.memory[BUFFERS : BUFFERS + length * chained] = bytes(length * chained)
        self.offer(0)
        self.kick()
        self.guest.run()
        ((head, count),) = self.taken()
        assert head == 0
        return self.guest.memory[BUFFERS : BUFFERS + count]
