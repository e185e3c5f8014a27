"""What parents, drivers, types and attributes may be called: each name is that of a file, or a part of one."""

from mdev_user.errors import DriverError

LONGEST = 255
"""Bytes of a file's name (NAME_MAX)."""

_DRIVERS_OF_LINUX = frozenset({"mdev", "mdev_bus", "vfio", "vfio-dev"})
"""Its module is module/mdev, the others are classes: a driver of such a name would be in their place."""


def is_file_name(text: str) -> bool:
    """Whether a file can have the name, and a uevent and a line of text can tell of it."""
    return (
        text not in {"", ".", ".."}
        and "/" not in text
        and text.isprintable()  # neither NUL nor newline, nor what has no UTF-8
        and len(text.encode()) <= LONGEST
    )


def check_driver_name(owner: str, name: str) -> None:
    """DriverError for what is no file name, and for a name that the framework has; ``owner`` is for the message."""
    if not is_file_name(name):
        raise DriverError(f"{owner}: driver_name begins the names of its types, given {name!r}")
    if name in _DRIVERS_OF_LINUX:
        raise DriverError(f"{owner}: the driver name {name} is Linux's own; give the driver another one")
