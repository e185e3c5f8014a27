"""Our tree and the machine's sysfs as one: whose a name is where both have a directory.

In such a directory all names of both are seen, and ours where both have the same. Directories of both are merged in
turn. Everything else of the machine's is shown whole: a link as it is, a directory or a file by a bind mount.
"""

from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Protocol


class Kind(Enum):
    """What a name stands for."""

    DIRECTORY = "directory"
    LINK = "link"
    FILE = "file"


class Entry(Protocol):
    """What is used of os.DirEntry."""

    def is_symlink(self) -> bool: ...

    @property
    def is_dir(self) -> Callable[..., bool]: ...


def kind_of(entry: Entry) -> Kind:
    """Of a listing's entry; a node is a file."""
    if entry.is_symlink():
        return Kind.LINK
    return Kind.DIRECTORY if entry.is_dir(follow_symlinks=False) else Kind.FILE


Listing = Callable[[str], Mapping[str, Kind]]
"""What is in the directory at a path (below the root, without slashes at its ends); nothing where there is none."""

ALWAYS = frozenset({"bus/pci", "bus/pci/devices", "bus/pci/drivers", "devices/virtual/vfio"})
"""Directories in which names of ours may come later, while we have nothing there yet."""


def binds(machine: Listing, ours: Listing) -> Iterator[str]:
    """The paths of what is to be mounted over the merged tree: the machine's own directories and files in it.

    A directory comes before whatever could be in it.
    """
    yield from _binds("", machine, ours)


def _binds(path: str, machine: Listing, ours: Listing) -> Iterator[str]:
    known = ours(path)
    for name, kind in machine(path).items():
        below = f"{path}/{name}" if path else name
        if kind is Kind.DIRECTORY and (known.get(name) is kind or (name not in known and below in ALWAYS)):
            yield from _binds(below, machine, ours)
        elif kind is not Kind.LINK and name not in known:
            yield below
