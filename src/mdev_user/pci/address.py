"""Where a PCI function is: domain, bus, device and function number, in the text form that Linux gives it."""

import re
from dataclasses import dataclass

from typing_extensions import override

from mdev_user.errors import DriverError

_LOOKS_LIKE_ONE = re.compile(r"([0-9A-Fa-f]{4,}):([0-9A-Fa-f]{2}):([0-9A-Fa-f]{2})\.([0-9A-Fa-f]+)")
_LAST_DOMAIN = 0x7FFF_FFFF
_LAST_DEVICE, _LAST_FUNCTION = 0x1F, 7


@dataclass(frozen=True, slots=True)
class PciAddress:
    """``str()`` of it is the function's name in sysfs: ``4d44:00:01.0``."""

    domain: int
    bus: int
    device: int
    function: int

    @property
    def bus_name(self) -> str:
        """Of the bus that the function is on, behind ``pci`` in the name of the host bridge's directory."""
        return f"{self.domain:04x}:{self.bus:02x}"

    @override
    def __str__(self) -> str:
        return f"{self.bus_name}:{self.device:02x}.{self.function:x}"


def parse_address(text: str) -> PciAddress | None:
    """The address that ``text`` is; None for what does not look like one (DDDD:BB:SS.F in hexadecimal digits).

    What looks like one and is none, or is not written as Linux writes it, is a DriverError.
    """
    found = _LOOKS_LIKE_ONE.fullmatch(text)
    if found is None:
        return None
    domain, bus, device, function = (int(part, 16) for part in found.groups())
    if domain > _LAST_DOMAIN or device > _LAST_DEVICE or function > _LAST_FUNCTION:
        raise DriverError(
            f"{text!r} is no PCI address DDDD:BB:SS.F: expected a domain up to {_LAST_DOMAIN:x}, a device up to "
            f"{_LAST_DEVICE:x} and a function up to {_LAST_FUNCTION}, given {domain:x}, {device:x} and {function:x}"
        )
    address = PciAddress(domain, bus, device, function)
    if str(address) != text:
        raise DriverError(f"expected a PCI address as Linux writes it, {address}, given {text!r}")
    return address
