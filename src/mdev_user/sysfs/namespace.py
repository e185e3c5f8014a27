"""A mount namespace of this process's own, in which /sys and /dev show ours beside the machine's.

Whoever enters stays: the process goes on in it, and so do the programs that it becomes or starts. With the last of them
the namespace ends, and what was mounted in it. Linux >= 5.19.
"""

import fcntl
import os
import platform
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from errno import EACCES, EINVAL, ENOSYS, EPERM
from pathlib import Path

from mdev_user.errors import MountError
from mdev_user.sysfs import mountpoint
from mdev_user.sysfs.dev_folder import place_device_nodes
from mdev_user.sysfs.merged import MERGED
from mdev_user.sysfs.merging import Kind, Listing, binds, kind_of
from mdev_user.sysfs.syscalls import (
    AT_FDCWD,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    bind,
    bind_if_there,
    make_slave,
    unshare,
)

_SYS = Path("/sys")
_DEFINITIONS = Path("/etc/mdevctl.d")
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1  # <linux/sockios.h>, <linux/if.h>
_IFREQ = struct.Struct("16sH22x")  # struct ifreq with ifr_flags, netdevice(7)
_FORBIDDING = (
    ("/proc/sys/user/max_user_namespaces", "0"),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
    ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
)
"""Where a machine forbids user namespaces to ordinary users (Linux; Debian's kernels; Ubuntu's), and how."""


@dataclass(frozen=True)
class Surroundings:
    """What the process will see. ``tree`` is where the daemon's sysfs tree is mounted."""

    tree: Path
    definitions: Path
    """The folder that mdevctl is to find at /etc/mdevctl.d, where that is there."""
    own_network: bool = False
    """A network namespace with nothing but ``lo``. An ordinary user is uid 0 in it, whom alone libudev believes."""
    listens: bool = False
    """Programs there are to hear uevents by libudev."""


def enter(wanted: Surroundings) -> None:
    """Move this process, which has one thread, into namespaces of its own and compose /sys and /dev there.

    Without privileges that takes a user namespace, in which the process has its own uid and gid and nobody else's.
    In the namespace of another `enter` with the same tree, /sys stays as it is. MountError says what is in the way.
    """
    with _explained():
        composed = _shows(wanted.tree)
        if composed and not wanted.own_network:
            return
        _unshare(CLONE_NEWNET if wanted.own_network else 0, as_root=wanted.own_network)
        if wanted.own_network:
            _bring_up("lo")
        if composed:
            return
        make_slave("/")
        _compose(wanted.tree)
        place_device_nodes(wanted.tree, listens=wanted.listens)
        _place_definitions(wanted.definitions)
    with suppress(OSError):  # a folder of /sys that is not in the new one, or one that is gone
        os.chdir(Path.cwd())


def _shows(tree: Path) -> bool:
    """Whether /sys shows this tree already; MountError when it shows another one's."""
    if mountpoint.mounted(_SYS)[:1] != [mountpoint.FSTYPE]:
        return False
    if _SYS.stat().st_dev != tree.stat().st_dev:
        raise MountError("/sys shows the tree of another daemon (see $MDEV_USER_RUN_DIR): leave that `run` first")
    return True


# --- namespaces --------------------------------------------------------------------------------------------------


def _unshare(more: int, *, as_root: bool) -> None:
    uid, gid = os.geteuid(), os.getegid()
    try:
        unshare(CLONE_NEWNS | more)
    except PermissionError:
        unshare(CLONE_NEWNS | more | CLONE_NEWUSER)
        _write("/proc/self/setgroups", "deny")  # or the kernel refuses a gid_map of an ordinary user
        _write("/proc/self/uid_map", f"{0 if as_root else uid} {uid} 1")
        _write("/proc/self/gid_map", f"{0 if as_root else gid} {gid} 1")


def _write(path: str, text: str) -> None:
    Path(path).write_text(text, encoding="ascii")


def _bring_up(interface: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asked:
        request = _IFREQ.pack(interface.encode(), 0)
        name, flags = _IFREQ.unpack(fcntl.ioctl(asked, _SIOCGIFFLAGS, request))
        fcntl.ioctl(asked, _SIOCSIFFLAGS, _IFREQ.pack(name, flags | _IFF_UP))


# --- mounts ------------------------------------------------------------------------------------------------------


def _compose(tree: Path) -> None:
    """The merged tree over /sys, and over that all that is the machine's own, which so stays as writable as it was."""
    plan = list(binds(_listing(_SYS), _listing(tree)))
    machine = os.open(_SYS, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    bind((AT_FDCWD, str(tree / MERGED)), (AT_FDCWD, str(_SYS)))
    opened: dict[str, int] = {}
    for path in plan:
        above, _, name = path.rpartition("/")
        if above not in opened:
            opened[above] = os.open(_SYS / above, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        bind_if_there((machine, path), (opened[above], name))  # left out, too, is what the daemon does not see
    for fd in (machine, *opened.values()):
        os.close(fd)


def _listing(root: Path) -> Listing:
    def listing(path: str) -> Mapping[str, Kind]:
        try:
            with os.scandir(root / path) as found:
                return {each.name: kind_of(each) for each in found}
        except (FileNotFoundError, NotADirectoryError, PermissionError):  # what is closed stays so: its mode is kept
            return {}

    return listing


def _place_definitions(folder: Path) -> None:
    if folder.is_dir() and _DEFINITIONS.is_dir() and not folder.samefile(_DEFINITIONS):
        bind((AT_FDCWD, str(folder)), (AT_FDCWD, str(_DEFINITIONS)))


# --- what can be in the way ----------------------------------------------------------------------------------------


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MountError(f"/sys cannot be composed here: {_reason(error)}; {_INSTEAD}") from None


_INSTEAD = (
    "without `run` the tree is RUN/root/sys, and QEMU 10.1 or later uses an mdev by its socket (`mdev-user qemu-args`)"
)


def _reason(error: OSError) -> str:
    called = (error.strerror or "").partition(":")[0]
    if error.errno == ENOSYS:
        return f"expected Linux 5.19 or later, and its system calls allowed; {platform.release()} says {error.strerror}"
    if error.errno == EINVAL and called == "mount":
        return "expected / to be a mount point, which the root of a chroot is not: mount it on itself before"
    if error.errno in {EPERM, EACCES} or called == "unshare":
        return f"expected root, or user namespaces for ordinary users, given {error.strerror}: {_cure()}"
    return str(error)


def _cure() -> str:
    for path, value in _FORBIDDING:
        with suppress(OSError):
            if Path(path).read_text(encoding="ascii").strip() == value:
                return f"as root, write something else than {value} to {path}"
    return "a container needs CAP_SYS_ADMIN, or a seccomp profile that allows unshare(2) and mount(2)"
