"""Become an ordinary user who may open /dev/fuse and has nothing else: ``python ordinary.py UID FOLDER... -- COMMAND``.

Started by root, in a mount namespace of its own: /dev/fuse is as udev makes it (some containers have it for root only),
and each FOLDER can be reached, which may be in a home that is closed to others. Exit status 77: not here.
"""

import os
import stat
import subprocess
import sys
from pathlib import Path

from mdev_user.sysfs.syscalls import AT_FDCWD, CLONE_NEWNS, bind, make_slave, unshare

NOT_HERE = 77
_SPARE = Path("/mnt")
"""Where a file system is mounted that nobody sees."""


def _open_device() -> None:
    _mount_tmpfs(_SPARE)
    device = _SPARE / "fuse"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(10, 229))
        device.chmod(0o666)
        os.close(os.open(device, os.O_RDWR))
    except OSError as error:
        print(f"no device can be made here: {error}", file=sys.stderr)
        raise SystemExit(NOT_HERE) from None
    bind((AT_FDCWD, str(device)), (AT_FDCWD, "/dev/fuse"))


def _make_reachable(folders: list[Path]) -> None:
    """Each folder above one of these that is closed to others is replaced by one that is not, with nothing else in."""
    opened = {folder: os.open(folder, os.O_PATH | os.O_DIRECTORY) for folder in folders}
    for folder, fd in opened.items():
        for above in reversed(folder.parents):
            if not above.exists():  # within one that was replaced for another folder
                break
            if not above.stat().st_mode & stat.S_IXOTH:
                _mount_tmpfs(above)
                break
        folder.mkdir(parents=True, exist_ok=True)
        bind((fd, "."), (AT_FDCWD, str(folder)))


def _mount_tmpfs(place: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "none", str(place)], check=True)


def main() -> None:
    uid, split = int(sys.argv[1]), sys.argv.index("--")
    unshare(CLONE_NEWNS)
    make_slave("/")
    _open_device()
    _make_reachable([Path(each).resolve() for each in sys.argv[2:split]])
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    os.chdir("/")
    command = sys.argv[split + 1 :]
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
