"""Who a PCI function says it is: the read-only ids of its header."""

from dataclasses import dataclass

from mdev_user.errors import DriverError
from mdev_user.pci.masked import ImageBuilder


@dataclass(frozen=True, slots=True)
class PciId:
    """The ids of a function (PCI 3.0 section 6.2.1 and 6.2.4).

    ``class_code`` has 24 bits: base class, sub-class, programming interface (``0x070002``: a 16550 serial port).
    The subsystem ids default to the ids themselves. A value out of range is a DriverError.
    """

    vendor: int
    device: int
    class_code: int
    revision: int = 0
    subsystem_vendor: int | None = None
    subsystem: int | None = None

    def __post_init__(self) -> None:
        for name, width in _WIDTHS.items():
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1 << width:
                message = f"PciId.{name}: expected 0 to {(1 << width) - 1:#x} ({width} bits), given {value:#x}"
                raise DriverError(message)
        if self.vendor == 0xFFFF:
            raise DriverError("PciId.vendor: 0xffff is what an empty slot reads as; use a vendor's id")

    @property
    def subsystem_ids(self) -> tuple[int, int]:
        """The subsystem vendor and the subsystem, as a guest reads them."""
        return (
            self.vendor if self.subsystem_vendor is None else self.subsystem_vendor,
            self.device if self.subsystem is None else self.subsystem,
        )

    def draw(self, space: ImageBuilder) -> None:
        """Draw the id registers into config space."""
        subsystem_vendor, subsystem = self.subsystem_ids
        space.field(0x00, 4, self.vendor | self.device << 16)
        space.field(0x08, 4, self.revision | self.class_code << 8)
        space.field(0x2C, 4, subsystem_vendor | subsystem << 16)


_WIDTHS = {
    "vendor": 16,
    "device": 16,
    "class_code": 24,
    "revision": 8,
    "subsystem_vendor": 16,
    "subsystem": 16,
}
