"""The tree beside the machine's own sysfs: what `mdev-user run` shows on /sys, served by the daemon.

Below `MERGED`, which no listing shows, the same nodes are found again, and where the machine has a directory too, its
names beside ours. Its links are links there; its directories and files are empty places, over which each `run` mounts
the machine's own. So whatever comes to the tree later is seen by every program that runs in one already.
"""

import os
import stat
from errno import EPERM
from pathlib import Path

from typing_extensions import override

from mdev_user.sysfs.merging import ALWAYS
from mdev_user.sysfs.tree import Attribute, Directory, Link, Node, Owner, Rule, Tree

MERGED = ".merged"
"""The name in the root of the tree."""

_THEIRS = 1 << 62
"""Added to the inode numbers of the machine's sysfs, which would be some of ours."""
_EMPTY: Rule[None] = Rule(0)


class MergedTree(Tree):
    """A tree that also answers for the paths below `MERGED`."""

    def __init__(self, owner: Owner = (0, 0), machine: Path = Path("/sys")) -> None:
        """``machine`` is where the machine's own sysfs is."""
        super().__init__(owner)
        self._machine = f"{machine}/"

    @override
    def lookup(self, path: str) -> Node | None:
        if not path.startswith(MERGED):
            return super().lookup(path)
        rest = path[len(MERGED) :]
        if rest and not rest.startswith("/"):
            return None
        return self._merged(rest[1:])

    def _merged(self, path: str) -> Node | None:
        ours = super().lookup(path)
        if (ours is not None and not isinstance(ours, Directory)) or not self._is_shared(path.rpartition("/")[0]):
            return ours
        theirs = self._stat(path)
        if theirs is None:
            return ours
        if stat.S_ISDIR(theirs.st_mode) and (ours is not None or path in ALWAYS):
            return _SharedDirectory(theirs, self._machine + path, ours)
        return _place(theirs, self._machine + path) if ours is None else ours

    def _is_shared(self, path: str) -> bool:
        """Whether this is a directory of the machine's in which there may be something of ours."""
        if not path:
            return True
        if path not in ALWAYS and not isinstance(super().lookup(path), Directory):
            return False
        theirs = self._stat(path)
        return theirs is not None and stat.S_ISDIR(theirs.st_mode)

    def _stat(self, path: str) -> os.stat_result | None:
        try:
            return os.lstat(self._machine + path)
        except OSError:
            return None


class _SharedDirectory(Directory):
    """The machine's names and ours; made anew whenever it is asked for, since the machine's come and go untold."""

    __slots__ = ("_ours", "_path")

    def __init__(self, theirs: os.stat_result, path: str, ours: Directory | None) -> None:
        super().__init__(theirs.st_ino + _THEIRS, (theirs.st_uid, theirs.st_gid))
        self.mode = stat.S_IMODE(theirs.st_mode)
        self._path = path
        self._ours = ours

    @property
    @override
    def nlink(self) -> int:
        """1, by which find(1) and others know that subdirectories are not counted (as in btrfs)."""
        return 1

    @override
    def chmod(self, mode: int) -> None:
        raise OSError(EPERM, f"{self._path} is the machine's own")

    @override
    def chown(self, uid: int, gid: int) -> None:
        raise OSError(EPERM, f"{self._path} is the machine's own")

    @override
    def entries(self) -> dict[str, Node]:
        with os.scandir(self._path) as found:
            theirs = {each.name: _listed(each) for each in found}
        return theirs | self._ours.entries() if self._ours is not None else theirs


class _TheirLink(Link):
    """A link of the machine's: relative, so it leads to the same place in the merged tree."""

    __slots__ = ("_path",)

    def __init__(self, st_ino: int, owner: Owner, path: str) -> None:
        super().__init__(st_ino, owner, "", "")
        self._path = path

    @property
    @override
    def target(self) -> str:
        return str(Path(self._path).readlink())


def _place(theirs: os.stat_result, path: str) -> Node:
    """What the machine has at ``path``: the link, or an empty directory or file to mount over."""
    number, owner = theirs.st_ino + _THEIRS, (theirs.st_uid, theirs.st_gid)
    if stat.S_ISLNK(theirs.st_mode):
        return _TheirLink(number, owner, path)
    if stat.S_ISDIR(theirs.st_mode):
        return Directory(number, owner)
    return Attribute(number, owner, _EMPTY, None)


def _listed(entry: os.DirEntry[str]) -> Node:
    """As much of a node as a listing shows: its type and its inode number."""
    number = entry.inode() + _THEIRS
    if entry.is_symlink():
        return _TheirLink(number, (0, 0), entry.path)
    return Directory(number, (0, 0)) if entry.is_dir(follow_symlinks=False) else Attribute(number, (0, 0), _EMPTY, None)
