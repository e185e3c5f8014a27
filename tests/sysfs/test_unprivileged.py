"""An ordinary user's daemon: mounted by fusermount3, and owned by the user from top to bottom."""

import os
import shutil
import subprocess
import sys

import pytest

from core import core_skip
from sysfs.mounted import temporary_mountpoint
from unit.sysfs.scene import PATIENCE

pytestmark = pytest.mark.fuse

NOBODY = 65534
OPEN_DEVICE = """
mount -t tmpfs none "$1" && mknod -m 0666 "$1/fuse" c 10 229 && mount --bind "$1/fuse" /dev/fuse || exit 77
shift; exec "$@"
"""
"""In a mount namespace of its own: /dev/fuse as udev makes it (some containers have it for root only)."""
DAEMON = """
import os, sys
from pathlib import Path
os.environ["FUSE_LIBRARY_NAME"] = "fuse3"
import mfusepy  # while its files may still be read
from mdev_user.sysfs.mount import Mount
from mdev_user.sysfs.tree import Tree
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
root = Path(sys.argv[1])
tree = Tree((os.getuid(), os.getgid()))
tree.add_directory("served")
mount = Mount(tree, root)
mount.mount()
found = (root / "served").stat()
print(found.st_uid, found.st_gid)
mount.unmount()
print(list(root.iterdir()))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_an_ordinary_user_can_mount_and_owns_the_tree() -> None:
    if shutil.which("fusermount3") is None:
        core_skip("fusermount3 is absent: apt install fuse3")
    if not os.path.lexists("/etc/mtab"):
        pytest.skip("fusermount3 unmounts nothing without /etc/mtab: ln -s /proc/self/mounts /etc/mtab")
    with temporary_mountpoint() as root, temporary_mountpoint() as device:
        os.chown(root, NOBODY, NOBODY)
        daemon = [sys.executable, "-c", DAEMON, str(root)]
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", OPEN_DEVICE, "sh", str(device), *daemon],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if done.returncode == 77:
            pytest.skip(f"this container makes no device nodes: {done.stderr}")
        assert (done.stdout, done.returncode) == (f"{NOBODY} {NOBODY}\n[]\n", 0), done.stderr
