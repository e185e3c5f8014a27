"""Capabilities as typed values: each one draws its own registers, config space chains them.

An image here starts with the two bytes every capability has, its id and the next one's offset, which the chain
fills in. Layouts: PCI 3.0 section 6.8 (MSI, MSI-X) and appendix H (ids), PCI PM 1.2 section 3.2,
PCIe 5.0 section 7.5.3.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from mdev_user.errors import DriverError
from mdev_user.pci.bars import BAR_SLOTS
from mdev_user.pci.masked import Image, ImageBuilder
from mdev_user.units import align_up, is_power_of_two


class Capability(Protocol):
    """A list entry of config space."""

    capability_id: ClassVar[int]

    def image(self) -> Image:
        """The registers, from the id byte on; the next-pointer byte is zero."""
        ...


@dataclass(frozen=True, slots=True)
class Msi:
    """Message signalled interrupts: 1, 2, 4, 8, 16 or 32 vectors."""

    vectors: int = 1
    wide: bool = True
    """A 64-bit message address."""
    maskable: bool = True
    """Per-vector mask and pending registers."""

    capability_id: ClassVar[int] = 0x05

    def __post_init__(self) -> None:
        if not is_power_of_two(self.vectors) or self.vectors > 32:
            message = f"Msi.vectors: expected 1, 2, 4, 8, 16 or 32, given {self.vectors}"
            raise DriverError(message)

    @property
    def data_offset(self) -> int:
        return 0x0C if self.wide else 0x08

    @property
    def mask_offset(self) -> int:
        """The mask register; the pending register follows it. Meaningful when ``maskable``."""
        return self.data_offset + 4

    def image(self) -> Image:
        builder = ImageBuilder(self.mask_offset + 8 if self.maskable else self.data_offset + 2)
        builder.field(0x00, 1, self.capability_id)
        control = (self.vectors.bit_length() - 1) << 1 | self.wide << 7 | self.maskable << 8
        builder.field(0x02, 2, control, writable=MSI_ENABLE | MSI_MULTIPLE_ENABLE)
        builder.field(0x04, 4, 0, writable=0xFFFF_FFFC)
        if self.wide:
            builder.field(0x08, 4, 0, writable=0xFFFF_FFFF)
        builder.field(self.data_offset, 2, 0, writable=0xFFFF)
        if self.maskable:
            vectors = (1 << self.vectors) - 1
            builder.field(self.mask_offset, 4, 0, writable=vectors)
            builder.field(self.mask_offset + 4, 4, 0, live=vectors)
        return builder.image()


MSI_ENABLE = 0x0001
MSI_MULTIPLE_ENABLE = 0x0070


@dataclass(frozen=True, slots=True)
class Msix:
    """MSI-X: 1 to 2048 vectors, whose table and pending bits lie in memory BARs of the function.

    Offsets are bytes into the BAR, multiples of 8. The BARs must exist and be large enough: config space checks.
    """

    vectors: int
    table_bar: int
    table_offset: int = 0
    pba_bar: int | None = None
    """The BAR of the pending bit array; by default the table's."""
    pba_offset: int | None = None
    """By default right behind the table in its BAR."""

    capability_id: ClassVar[int] = 0x11

    def __post_init__(self) -> None:
        if not 1 <= self.vectors <= 2048:
            message = f"Msix.vectors: expected 1 to 2048, given {self.vectors}"
            raise DriverError(message)
        if self.pba_bar is not None and self.pba_offset is None:
            raise DriverError("Msix.pba_offset: say where in its own BAR the pending bit array lies")
        for name, (bar, offset, _size) in {"table": self.table, "pba": self.pba}.items():
            _check_place(name, bar, offset)
        table, pba = self.table, self.pba
        if table[0] == pba[0] and table[1] < pba[1] + pba[2] and pba[1] < table[1] + table[2]:
            message = f"Msix: the table at {table[1]:#x} and the pba at {pba[1]:#x} of BAR {pba[0]} overlap"
            raise DriverError(message)

    @property
    def table(self) -> tuple[int, int, int]:
        """BAR, offset and size in bytes of the vector table."""
        return self.table_bar, self.table_offset, 16 * self.vectors

    @property
    def pba(self) -> tuple[int, int, int]:
        """BAR, offset and size in bytes of the pending bit array (whole quadwords)."""
        bar = self.table_bar if self.pba_bar is None else self.pba_bar
        offset = self.table_offset + 16 * self.vectors if self.pba_offset is None else self.pba_offset
        return bar, offset, align_up(self.vectors, 64) // 8

    def image(self) -> Image:
        builder = ImageBuilder(12)
        builder.field(0x00, 1, self.capability_id)
        builder.field(0x02, 2, self.vectors - 1, writable=MSIX_ENABLE | MSIX_FUNCTION_MASK)
        builder.field(0x04, 4, self.table[1] | self.table[0])
        builder.field(0x08, 4, self.pba[1] | self.pba[0])
        return builder.image()


MSIX_ENABLE = 0x8000
MSIX_FUNCTION_MASK = 0x4000


def _check_place(name: str, bar: int, offset: int) -> None:
    if not 0 <= bar < BAR_SLOTS:
        message = f"Msix.{name}_bar: expected 0 to {BAR_SLOTS - 1}, given {bar}"
        raise DriverError(message)
    if offset % 8 or not 0 <= offset < 1 << 32:
        message = f"Msix.{name}_offset: expected a multiple of 8 below 4 GiB, given {offset:#x}"
        raise DriverError(message)


@dataclass(frozen=True, slots=True)
class PowerManagement:
    """Power states D0 and D3hot; no PME, and the state of the function survives D3hot (No_Soft_Reset)."""

    capability_id: ClassVar[int] = 0x01

    def image(self) -> Image:
        builder = ImageBuilder(8)
        builder.field(0x00, 1, self.capability_id)
        builder.field(0x02, 2, 0x0003)
        builder.field(0x04, 2, 0x0008, writable=POWER_STATE)
        return builder.image()


POWER_STATE = 0x0003


@dataclass(frozen=True, slots=True)
class PciExpress:
    """An endpoint, version 2, on a 2.5 GT/s x1 link: what software needs to see a PCI Express function.

    No function-level reset, no ASPM, 128-byte payloads. QEMU turns it into a root-complex integrated endpoint by
    itself where the slot demands one.
    """

    capability_id: ClassVar[int] = 0x10

    def image(self) -> Image:
        builder = ImageBuilder(0x3C)
        builder.field(0x00, 1, self.capability_id)
        builder.field(0x02, 2, 0x0002)
        builder.field(0x04, 4, 0x0000_8000)  # device capabilities: role-based error reporting
        # Device control: the error enables, relaxed ordering, payload size, no-snoop, read request size (512).
        builder.field(0x08, 2, 0x2810, writable=0x78FF)
        builder.field(0x0A, 2, 0, w1c=0x000F)
        builder.field(0x0C, 4, 0x0000_0011)  # link capabilities: 2.5 GT/s, x1
        builder.field(0x10, 2, 0, writable=0x00C8)
        builder.field(0x12, 2, 0x0011)
        builder.field(0x2C, 4, 0x0000_0002)  # supported link speeds: 2.5 GT/s
        builder.field(0x30, 2, 0x0001)
        return builder.image()


@dataclass(frozen=True, slots=True)
class VendorSpecific:
    """Read-only bytes of the vendor's own: ``data`` follows the id, the next pointer and the length byte."""

    data: bytes

    capability_id: ClassVar[int] = 0x09

    def __post_init__(self) -> None:
        if len(self.data) > 0xC0 - 3:
            message = f"VendorSpecific.data: expected at most {0xC0 - 3} bytes, given {len(self.data)}"
            raise DriverError(message)

    def image(self) -> Image:
        size = 3 + len(self.data)
        values = bytes((self.capability_id, 0, size)) + self.data
        return Image(values, bytes(size), bytes(size), bytes(size))
