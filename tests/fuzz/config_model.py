"""A config space written a second time, bit by bit, from the specifications: what the real one is compared with.

Sources: PCI 3.0 sections 6.1, 6.2 and 6.8, PCI PM 1.2 section 3.2.4, PCIe 5.0 section 7.5.3.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mdev_user.pci.bars import Bar, IoBar, MemoryBar
from mdev_user.pci.capabilities import Capability, Msi, Msix, PciExpress, PowerManagement, VendorSpecific
from mdev_user.pci.identity import PciId

ID = PciId(0x1DE5, 0x0C3C, 0x120000, 1, 0x1AF4, 0x1100)


@dataclass(frozen=True)
class Shape:
    """One function's declarations."""

    bars: Mapping[int, Bar]
    capabilities: Sequence[Capability] = ()
    pin: int = 1
    size: int = 256


SHAPES = (
    Shape(
        {0: MemoryBar(4096), 2: MemoryBar(1 << 20, prefetchable=True, wide=True), 4: IoBar(8)},
        (PowerManagement(), Msi(4), Msix(8, 0), VendorSpecific(b"mdev!"), PciExpress()),
    ),
    Shape({0: MemoryBar(16)}, (Msi(32, wide=False),)),
    Shape({0: MemoryBar(1 << 32, wide=True), 5: IoBar(256)}, (Msi(1, maskable=False),), pin=4),
    Shape({1: MemoryBar(8192)}, (Msix(70, 1, 0, 1, 4096), PowerManagement()), pin=0),
    Shape({}, (), size=4096),
    Shape({0: MemoryBar(4096)}, (PciExpress(), Msix(3, 0, 64)), size=4096),
)


class Model:
    """The bytes as they must be; ``power`` is where the control register of power management lies, 0 for nowhere."""

    def __init__(self, shape: Shape, image: bytes) -> None:
        self.values = bytearray(image)
        self.writable, self.w1c = bytearray(len(image)), bytearray(len(image))
        self.power = 0
        self.areas: dict[str, range] = {"COMMAND": range(4, 6), "BARS": range(0x10, 0x28)}
        self._header(shape)
        for index, bar in shape.bars.items():
            self._bar(index, bar)
        at = 0x40
        for capability in shape.capabilities:
            size = self._capability(at, capability)
            at += (size + 3) // 4 * 4

    def _set(self, masks: bytearray, at: int, size: int, bits: int) -> None:
        masks[at : at + size] = bits.to_bytes(size, "little")

    def _header(self, shape: Shape) -> None:
        command = 0x4 | 0x40 | 0x100
        command |= 0x1 if any(isinstance(bar, IoBar) for bar in shape.bars.values()) else 0
        command |= 0x2 if any(isinstance(bar, MemoryBar) for bar in shape.bars.values()) else 0
        command |= 0x400 if shape.pin else 0
        express = any(isinstance(each, PciExpress) for each in shape.capabilities)
        self._set(self.writable, 4, 2, command)
        self._set(self.w1c, 6, 2, 0xF900)
        self._set(self.writable, 0x0C, 2, 0xFF if express else 0xFFFF)
        self._set(self.writable, 0x3C, 1, 0xFF)

    def _bar(self, index: int, bar: Bar) -> None:
        size = 8 if isinstance(bar, MemoryBar) and bar.wide else 4
        self._set(self.writable, 0x10 + 4 * index, size, -bar.size % (1 << 8 * size))

    def _capability(self, at: int, capability: Capability) -> int:
        """Its size."""
        match capability:
            case PowerManagement():
                self.power = at + 4
                self._set(self.writable, at + 4, 1, 3)
                self.areas["POWER"] = range(at, at + 8)
                return 8
            case Msi(vectors, wide, maskable):
                return self._msi(at, vectors, wide=wide, maskable=maskable)
            case Msix():
                self._set(self.writable, at + 2, 2, 0xC000)
                self.areas["MSIX"] = range(at, at + 12)
                return 12
            case PciExpress():
                self._set(self.writable, at + 8, 2, 0x78FF)
                self._set(self.w1c, at + 10, 2, 0x000F)
                self._set(self.writable, at + 16, 2, 0x00C8)
                return 0x3C
            case VendorSpecific(data):
                return 3 + len(data)
            case _:
                raise TypeError(capability)

    def _msi(self, at: int, vectors: int, *, wide: bool, maskable: bool) -> int:
        self._set(self.writable, at + 2, 2, 0x71)
        self._set(self.writable, at + 4, 4, 0xFFFF_FFFC)
        data = at + 8
        if wide:
            self._set(self.writable, at + 8, 4, 0xFFFF_FFFF)
            data = at + 12
        self._set(self.writable, data, 2, 0xFFFF)
        if maskable:
            self._set(self.writable, data + 4, 4, (1 << vectors) - 1)
        end = data + 12 if maskable else data + 2
        self.areas["MSI"] = range(at, end)
        return end - at

    def write(self, offset: int, data: bytes) -> set[str]:
        """Which areas it changed."""
        before = bytes(self.values)
        for at, byte in enumerate(data, offset):
            for bit in (1 << n for n in range(8)):
                if self.writable[at] & bit:
                    self.values[at] = self.values[at] & ~bit | byte & bit
                elif self.w1c[at] & byte & bit:
                    self.values[at] &= ~bit
        if self.power and self.values[self.power] & 3 in {1, 2}:
            self.values[self.power] = self.values[self.power] & ~3 | before[self.power] & 3
        return {
            name
            for name, area in self.areas.items()
            if before[area.start : area.stop] != self.values[area.start : area.stop]
        }
