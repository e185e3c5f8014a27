"""What a parent driver offers: its mdev types and the attributes of its mdevs, as values."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MdevType:
    """One kind of mdev that a parent can be cut into.

    ``name`` is the driver's part of the type id ("1" in "mtty-1"); ``pretty_name`` is what people read (the name
    where empty); no ``description`` means that the file is absent, as in Linux.
    """

    name: str
    pretty_name: str = ""
    description: str | None = None
    device_api: str = "vfio-pci"


@dataclass(frozen=True, slots=True)
class MdevAttribute:
    """A file of the driver's in the directory of an mdev or a parent: ``group/name``, or ``name`` without a group."""

    group: str
    name: str
    readable: bool = True
    writable: bool = False
