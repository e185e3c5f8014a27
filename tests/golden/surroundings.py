"""What else the recorder's machine had in its /sys: the tree is shown beside it, as `mdev-user run` shows it."""

from pathlib import Path

from mdev_user.sysfs.merged import MERGED

_MISC = (
    "cpu_dma_latency",
    "fuse",
    "hpet",
    "hw_random",
    "psaux",
    "snapshot",
    "udmabuf",
    "userfaultfd",
    "vga_arbiter",
)
_VIRTUAL = (
    *("dma_heap", "dmi", "graphics", "input", "mem", "memory_tiering", "misc", "net", "thermal", "tty", "vc"),
    *("vtconsole", "workqueue"),
)
_SEEN_INTO = ("class/iommu", "class/misc")
"""`run` mounts the machine's own folders over empty places. Here the daemon is made to list these two itself, since no
file system that could be mounted there says, as sysfs does, that a link has no size."""
_FOLDERS = (*_SEEN_INTO, "kernel/debug", *(f"devices/virtual/{name}" for name in _VIRTUAL))


def build(machine: Path) -> None:
    """Fill an empty folder with what steps see of it. What the vfio modules brought is not the machine's."""
    for name in _FOLDERS:
        (machine / name).mkdir(parents=True)
    for name in _MISC:
        (machine / "class/misc" / name).symlink_to(f"../../devices/virtual/misc/{name}")


def preamble(machine: Path) -> str:
    """What makes a `RunningDaemon` take the folder for the machine's /sys."""
    return f"""
from functools import partial
from pathlib import Path
from mdev_user.daemon import front
from mdev_user.sysfs import merged
front.MergedTree = partial(front.MergedTree, machine=Path({str(machine)!r}))
merged.ALWAYS |= set({_SEEN_INTO!r})
"""


def shown(tree: Path) -> Path:
    """The folder that is bound on /sys."""
    return tree / MERGED
