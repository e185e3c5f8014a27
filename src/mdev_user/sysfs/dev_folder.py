"""/dev in a mount namespace of `run`: the machine's, with our nodes at /dev/vfio and /dev/iommu.

Where the machine has both places too, ours are mounted over them. Where it lacks one (nothing is made in its own /dev),
/dev becomes a tmpfs: its links are copied, and its nodes and what is mounted below it are mounted in it again. Folders
are made anew, so that whoever empties this /dev does not empty the machine's. A node that comes to that later is not
seen. Where that would make libudev's listeners deaf, and they are to hear, what has no place is not shown.
"""

import os
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path

from mdev_user.sysfs import mountpoint
from mdev_user.sysfs.device_nodes import DEVICES
from mdev_user.sysfs.merging import Kind, kind_of
from mdev_user.sysfs.syscalls import AT_FDCWD, MS_NOSUID, attach, bind, bind_if_there, copy_mounts, mount

_WHOLE = ".machine"
"""The machine's /dev as it is, for who may neither open /dev/pts/ptmx (its mode is often 0000) nor change anything
there. To open ptmx the kernel looks for ``pts`` in the folder of the node itself (fs/namei.c: path_pts), which for a
node that is mounted alone is none."""
_DEV = Path("/dev")
_PTMX = "ptmx"
_OURS = ("vfio", "iommu")
_WHOSE_PLACE = {"vfio": Path.is_dir, "iommu": Path.exists}
_UDEVD = Path("/run/udev/control")


def place_device_nodes(tree: Path, *, listens: bool) -> None:
    """In a mount namespace of this process's own. ``tree`` is where the daemon's sysfs tree is mounted.

    ``listens``: programs are to hear uevents by libudev.
    """
    if _places() != _OURS and not (listens and _devtmpfs_is_needed()):
        _rebuild()
    for name in _places():
        bind((AT_FDCWD, str(tree / DEVICES / name)), (AT_FDCWD, str(_DEV / name)))


def _places() -> tuple[str, ...]:
    return tuple(name for name in _OURS if _WHOSE_PLACE[name](_DEV / name))


def _devtmpfs_is_needed() -> bool:
    """Without udevd libudev lets nobody listen, unless /dev is a devtmpfs, of which there is one.

    systemd: src/libsystemd/sd-device/device-monitor.c.
    """
    return not _UDEVD.exists() and mountpoint.mounted(_DEV)[:1] == ["devtmpfs"]


def _rebuild() -> None:
    """A tmpfs that shows what /dev showed, and has places for ours."""
    mounted = {each.removeprefix(f"{_DEV}/") for each in mountpoint.below(_DEV)}
    machine = os.open(_DEV, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    found = [each for each in _entries(_DEV, "", mounted) if each[0].partition("/")[0] not in {*_OURS, _WHOLE}]
    ptmx = _way_to_ptmx()
    whole = copy_mounts((AT_FDCWD, str(_DEV))) if ptmx.startswith(_WHOLE) else None
    mount("tmpfs", str(_DEV), "tmpfs", MS_NOSUID, "mode=0755")
    dev = os.open(_DEV, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if whole is not None:
        os.mkdir(_WHOLE, dir_fd=dev)
        attach(whole, (dev, _WHOLE))
    for path, kind in found:
        if path == _PTMX and kind is Kind.FILE:
            os.symlink(ptmx, path, dir_fd=dev)
        else:
            _show(path, kind, mounted, machine, dev)
    os.mkdir("vfio", 0o755, dir_fd=dev)
    _touch("iommu", dev)
    os.close(machine)
    os.close(dev)


def _way_to_ptmx() -> str:
    """What /dev/ptmx leads to. `_WHOLE` is not for who could write there: that would be the machine's."""
    if os.access(_DEV / "pts/ptmx", os.R_OK | os.W_OK) or os.access(_DEV, os.W_OK):
        return "pts/ptmx"
    return f"{_WHOLE}/{_PTMX}"


def _entries(folder: Path, prefix: str, mounted: AbstractSet[str]) -> Iterator[tuple[str, Kind]]:
    """All below, a folder before what is in it; what is in one that is mounted comes with the mount."""
    with suppress(PermissionError), os.scandir(folder) as listed:
        for each in sorted(listed, key=lambda each: each.name):
            path, kind = prefix + each.name, kind_of(each)
            yield path, kind
            if kind is Kind.DIRECTORY and path not in mounted:
                yield from _entries(folder / each.name, f"{path}/", mounted)


def _show(path: str, kind: Kind, mounted: AbstractSet[str], machine: int, dev: int) -> None:
    if kind is Kind.LINK:
        os.symlink(os.readlink(path, dir_fd=machine), path, dir_fd=dev)
        return
    if kind is Kind.DIRECTORY:
        os.mkdir(path, dir_fd=dev)
    else:
        _touch(path, dev)
    if path in mounted or kind is Kind.FILE:
        bind_if_there((machine, path), (dev, path))


def _touch(name: str, folder: int) -> None:
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=folder))
