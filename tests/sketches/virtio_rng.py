"""virtio-rng: an entropy source by the virtio 1.2 specification, modern, over PCI (section 4.1), one split virtqueue.

Linux's stock driver uses its pin; `Vectored` is the same device with MSI-X.
"""

import os
from dataclasses import dataclass
from struct import Struct
from typing import ClassVar

from mdev_user.driver import (
    INTX,
    MSIX,
    RC,
    RO,
    U8,
    U16,
    U32,
    U64,
    WO,
    Bar,
    Flag,
    Function,
    GuestError,
    Message,
    Parent,
    PciId,
    Pool,
    Profile,
    Register,
    Saved,
    VendorSpecific,
    on_write,
    worker,
)  # fmt: skip

VERSION_1 = 1
"""VIRTIO_F_VERSION_1 is bit 32: bit 0 of the upper word."""
QUEUE_SIZE, NO_VECTOR = 64, 0xFFFF
NEXT, WRITE, INDIRECT = 1, 2, 4
USED_BUFFERS, CONFIGURATION = 1, 2
DESCRIPTOR, USED, INDEX = Struct("<QIHH"), Struct("<II"), Struct("<H")
ISR, NOTIFY = 0x40, 0x80


def capability(kind: int, offset: int, length: int, more: bytes = b"") -> VendorSpecific:
    """Where in BAR 0 a structure lies (section 4.1.4)."""
    return VendorSpecific(Struct("<BBB2xII").pack(kind, 0, 0, offset, length) + more)


class Status(Register, size=1):
    acknowledge, driver, driver_ok, features_ok = Flag(0), Flag(1), Flag(2), Flag(3)
    needs_reset, failed = Flag(6, RO), Flag(7)


class Regs(Bar, index=0, size=4096):
    device_feature_select, driver_feature_select = U32(0x00), U32(0x08)
    device_features = U32(0x04, RO)
    device_features_high = U32(0x04, RO, reset=VERSION_1, bank=device_feature_select.equals(1))
    driver_features = U32(0x0C)
    driver_features_high = U32(0x0C, bank=driver_feature_select.equals(1))
    config_vector, queue_count = U16(0x10, reset=NO_VECTOR), U16(0x12, RO, reset=1)
    status, generation, queue_select = Status.at(0x14), U8(0x15, RO), U16(0x16)
    queue_size = U16(0x18, reset=QUEUE_SIZE, bank=queue_select.equals(0))
    queue_vector = U16(0x1A, reset=NO_VECTOR, bank=queue_select.equals(0))
    queue_enable = U16(0x1C, bank=queue_select.equals(0))
    notify_offset = U16(0x1E, RO, bank=queue_select.equals(0))
    descriptors = U64(0x20, bank=queue_select.equals(0))
    available = U64(0x28, bank=queue_select.equals(0))
    used = U64(0x30, bank=queue_select.equals(0))
    isr, notify = U8(ISR, RC), U16(NOTIFY, WO)


@dataclass(frozen=True)
class Share(Profile):
    chunk: int
    """Bytes for one request."""


class Rng(Function[Share]):
    identity = PciId(vendor=0x1AF4, device=0x1044, class_code=0x00FF00, revision=1, subsystem=0x0044)
    capabilities = (
        capability(1, 0, 0x38), capability(2, NOTIFY, 2, bytes(4)), capability(3, ISR, 1), capability(4, 0xC0, 4)
    )  # fmt: skip
    vectors: ClassVar[INTX | MSIX] = INTX()
    regs = Regs()
    served, told = Saved(0), Saved(0)
    """Requests that were answered, and those that the guest knows of: the used ring's index."""
    signal = Message(pin=Regs.isr.any)

    @on_write(Regs.status)
    def set_status(self, written: Status) -> None:
        if not int(written):
            self.reset_device()
        elif (self.regs.driver_features_high, self.regs.driver_features) != (VERSION_1, 0):
            self.regs.status.features_ok = False

    @on_write(Regs.config_vector)
    def set_config_vector(self, vector: int) -> None:
        self.regs.config_vector = self.granted(vector)

    @on_write(Regs.queue_vector)
    def set_queue_vector(self, vector: int) -> None:
        self.regs.queue_vector = self.granted(vector)

    def granted(self, vector: int) -> int:
        return vector if isinstance(self.vectors, MSIX) and vector < self.vectors.vectors else NO_VECTOR

    @on_write(Regs.notify)
    def kick(self, queue: int) -> None:
        self.serve()

    @worker()
    async def serve(self) -> None:
        try:
            await self.tell()  # of what was answered before a migration
            while self.regs.status.driver_ok and self.regs.queue_enable and await self.waiting():
                at = self.served % self.size
                (head,) = INDEX.unpack(await self.dma.read(self.regs.available + 4 + 2 * at, INDEX.size))
                length = await self.fill(head)
                await self.dma.write(self.regs.used + 4 + 8 * at, USED.pack(head, length))
                self.served = (self.served + 1) % 0x10000
                await self.tell()
        except GuestError:
            self.regs.status.needs_reset, self.regs.queue_enable = True, 0
            self.interrupt(CONFIGURATION, self.regs.config_vector)
            raise

    async def waiting(self) -> int:
        """How many requests the guest has put into the ring that were not answered."""
        (index,) = INDEX.unpack(await self.dma.read(self.regs.available + 2, INDEX.size))
        waiting = (int(index) - self.served) % 0x10000
        if waiting > self.size:
            raise GuestError(f"{waiting} requests in a ring of {self.size}")
        return waiting

    async def fill(self, index: int) -> int:
        """Fill the buffers of one chain; how many bytes were stored."""
        total: int = 0
        for _ in range(self.size):
            if index >= self.size:
                raise GuestError(f"descriptor {index} of {self.size}")
            place = self.regs.descriptors + DESCRIPTOR.size * index
            address, length, flags, index = DESCRIPTOR.unpack(await self.dma.read(place, DESCRIPTOR.size))
            if flags & INDIRECT or not flags & WRITE:
                raise GuestError(f"descriptor with flags {flags}: expected a buffer to write to")
            length = min(length, self.profile.chunk - total)
            await self.dma.write(address, os.urandom(length))
            total += length
            if not int(flags) & NEXT:
                return total
        raise GuestError(f"a chain of more than {self.size} descriptors")

    async def tell(self) -> None:
        """Let the guest know what was answered. Doing it twice does no harm: a migrated job begins with it."""
        if self.told != self.served:
            await self.dma.write(self.regs.used + 2, INDEX.pack(self.served))
            self.told = self.served
            self.interrupt(USED_BUFFERS, self.regs.queue_vector)

    def interrupt(self, cause: int, vector: int) -> None:
        self.regs.isr |= cause
        if vector != NO_VECTOR:
            self.signal.send(vector)

    @property
    def size(self) -> int:
        size = int(self.regs.queue_size)
        if not 0 < size <= QUEUE_SIZE or size & (size - 1):
            raise GuestError(f"a queue of {size}: expected a power of two up to {QUEUE_SIZE}")
        return size


class Vectored(Rng):
    vectors = MSIX(2)


class Card(Parent[Share]):
    function = Rng
    chunk = Pool(4096)
    types = {"small": Share(chunk=64), "large": Share(chunk=1024)}


class VectoredCard(Card):
    function = Vectored
