"""The place where the tree is mounted: what is mounted there already, and taking a mount away."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from errno import ECONNABORTED, EINVAL, ENOENT, ENOTCONN
from pathlib import Path
from typing import NamedTuple

from mdev_user.errors import MountError

SUBTYPE = "mdev-user"
FSTYPE = f"fuse.{SUBTYPE}"
_MNT_FORCE, _MNT_DETACH = 1, 2  # <sys/mount.h>
_ESCAPES = (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\"))
"""proc_pid_mountinfo(5): how a path with such characters is written; the backslash comes last."""


def detach_stale(mountpoint: Path) -> bool:
    """Detach what a dead daemon left mounted here. True if there was something.

    Raises MountError when a living daemon serves this place, or when something else is mounted on it. It is found in
    /proc/self/mountinfo, since a dead mount looks to stat(2) as if there were nothing.
    """
    found = False
    for fstype in mounted(mountpoint):
        if fstype != FSTYPE:
            raise MountError(f"a {fstype} is mounted on {mountpoint}: unmount it or choose another --run-dir")
        if not _is_dead(mountpoint):
            raise MountError(f"another mdev-user serves {mountpoint}: stop it or choose another --run-dir")
        detach(mountpoint)
        found = True
    return found


def detach(mountpoint: Path) -> None:
    """Take the mount away, also while it is in use; whoever waits in it gets an error. Nothing if absent."""
    if os.geteuid() == 0:
        _umount(mountpoint)
        return
    fusermount = shutil.which("fusermount3")
    if fusermount is None:
        raise MountError(f"cannot unmount {mountpoint}: fusermount3 is absent; install it: apt install fuse3")
    subprocess.run([fusermount, "-u", "-z", "-q", "--", mountpoint], check=False)


def _umount(mountpoint: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(mountpoint), _MNT_FORCE | _MNT_DETACH) == 0:
        return
    number = ctypes.get_errno()
    if number not in {EINVAL, ENOENT}:
        raise MountError(f"cannot unmount {mountpoint}: {os.strerror(number)}")


def mounted(mountpoint: Path) -> list[str]:
    """The types of the file systems mounted exactly here, the one on top first."""
    return [each.fstype for each in _mounts() if each.place == str(mountpoint)][::-1]


def places_of(shown: Path) -> list[Path]:
    """Where the whole of the daemon's tree is mounted of which ``shown`` is on top here; none where it is no tree."""
    mounts = list(_mounts())
    on_top = [each for each in mounts if each.place == str(shown)][-1:]
    devices = {each.device for each in on_top if each.fstype == FSTYPE}
    return [Path(each.place) for each in mounts if each.device in devices and each.root == "/"]


def below(folder: Path) -> list[str]:
    """The paths of what is mounted below a folder."""
    return [each.place for each in _mounts() if each.place.startswith(f"{folder}/")]


class _Mount(NamedTuple):
    """A line of /proc/self/mountinfo."""

    device: str
    root: str
    place: str
    fstype: str


def _mounts() -> Iterator[_Mount]:
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields, _, source = line.partition(" - ")
        _number, _above, device, root, place, *_rest = fields.split(" ")
        for escape, character in _ESCAPES:
            place = place.replace(escape, character)
        yield _Mount(device, root, place, source.split(" ")[0])


def _is_dead(mountpoint: Path) -> bool:
    try:
        os.statvfs(mountpoint)  # which is always asked of the server; what stat(2) says the kernel may remember
    except OSError as error:
        return error.errno in {ENOTCONN, ECONNABORTED}
    return False
