"""The root folder in which the steps run: a busybox and the replay's own insmod, rmmod, lsmod and dmesg."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from mdev_user.sysfs.device_nodes import DEVICES

# One question at a time: the steps are.
_ASK = """#!/bin/sh
echo "$*" > /questions/ask
read rc text < /questions/answer
[ -z "$text" ] || echo "$text" >&2
exit $rc
"""

OWN = "; ".join(
    [
        'insmod() { ask insmod "$@"; }',
        'rmmod() { ask rmmod "$@" && { [ "$1" != mdev ] || umount -l /sys; }; }',
        "lsmod() { :; }",
        "dmesg() { :; }",
        "",
    ]
)
"""What stands before each shell step, instead of programs that change or show the recorder's kernel: see `modules`.

Functions, because this busybox prefers its own applets to every file.
"""


def build(root: Path, busybox: Path, applets: Sequence[str]) -> None:
    """Fill an empty folder."""
    for name in ("bin", "dev", "proc", "questions", "sys"):
        (root / name).mkdir()
    shutil.copy2(busybox, root / "bin/busybox")
    for applet in applets:
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    (root / "bin/ask").write_text(_ASK)
    (root / "bin/ask").chmod(0o755)
    (root / "dev/null").touch()
    for name in ("ask", "answer"):
        os.mkfifo(root / "questions" / name)


def enter(root: Path, sys: Path | None) -> None:
    """Make it this process's root, in a mount namespace of its own; for root.

    ``sys``, which is in the daemon's tree, is on its /sys, and the nodes are in its /dev.
    """
    _mount("--bind", "/dev/null", root / "dev/null")
    _mount("-t", "proc", "proc", root / "proc")
    if sys is not None:
        _mount("--bind", sys, root / "sys")
        (root / "dev/vfio").mkdir()
        (root / "dev/iommu").touch()
        for name in ("vfio", "iommu"):
            _mount("--bind", sys.parent / DEVICES / name, root / "dev" / name)
    os.chroot(root)
    os.chdir("/")


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)
