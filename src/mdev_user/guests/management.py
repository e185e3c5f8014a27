"""The management root: Debian 13's libvirt, mdevctl and lspci in a small folder, for a chroot that sees our ``/sys``.

They are newer than those of Debian 12: what works with both does not work by luck. A program that needs no more than
its libraries (virsh, lspci, mdevctl with MDEVCTL_ENV_ROOT) also runs without a chroot, by ``ManagementRoot.command``.
"""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mdev_user.guests.archive import Archive, RigError, debian_mirror, unpack
from mdev_user.guests.cached import CachedFolder, Progress, cache_folder, cost, read_stamp, write_stamp
from mdev_user.guests.foreign import LIBRARIES, interpreter, libraries, program_output
from mdev_user.guests.rig import RELEASE, check_machine

_FOLDER = "management-3"
_PACKAGES = (
    "libvirt-daemon",
    "libvirt-daemon-driver-nodedev",
    "libvirt-daemon-driver-qemu",
    "libvirt-clients",
    "mdevctl",
    "pciutils",
    "udev",
    "dash",
)
# libvirtd runs udevadm to wait for udev's events, before it looks for what it has created.
_PROGRAMS = (
    *("usr/sbin/libvirtd", "usr/bin/virsh", "usr/bin/mdevctl"),
    *("usr/bin/lspci", "usr/bin/udevadm", "usr/bin/dash"),
)
_NODE_DEVICES = f"{LIBRARIES}/libvirt/connection-driver/libvirt_driver_nodedev.so"
QEMU_DRIVERS = f"{LIBRARIES}/libvirt/qemu-driver"
"""Where the driver of domains is, apart from the others: libvirtd loads all that it finds in one folder, and this one
takes users and folders that the small root has not. For a libvirtd with LIBVIRT_DRIVER_DIR."""
_DOMAINS = f"{LIBRARIES}/libvirt/connection-driver/libvirt_driver_qemu.so"
_CPUS = "usr/share/libvirt"
_OWN_LIBRARIES = f"{LIBRARIES}/systemd"
"""Those of udevadm, which it finds itself."""
_LOADED_LATER = (f"{LIBRARIES}/libgcc_s.so.1",)  # by the C library, when a thread is cancelled
_DATA = ("usr/share/misc/pci.ids",)
_EMPTY = (
    *("dev", "proc", "run", "sys", "tmp", "var", "etc/mdevctl.d"),
    *("usr/lib/mdevctl/scripts.d/callouts", "usr/lib/mdevctl/scripts.d/notifiers"),
)
_LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": LIBRARIES, "usr/bin/sh": "dash"}
_FILES = {
    "etc/passwd": "root:x:0:0:root:/:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\n",
    # Its own default asks polkit who may do what, over a bus that is not here.
    "etc/libvirt/libvirtd.conf": 'auth_unix_ro = "none"\nauth_unix_rw = "none"\nlog_outputs = "2:stderr"\n',
}


@dataclass(frozen=True, slots=True)
class ManagementRoot:
    """A root folder with ``/usr/sbin/libvirtd``, ``virsh``, ``mdevctl`` and ``lspci``; not to be written to."""

    path: Path
    libvirt_version: str
    mdevctl_version: str

    def command(self, program: str) -> tuple[str, ...]:
        """The beginning of an argv that runs a program (``mdevctl``) with its own libraries and without a chroot."""
        return (*interpreter(self.path / LIBRARIES), str(self.path / "usr/bin" / program))


class Stamp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a complete folder says of itself; written last."""

    libvirt_version: str
    mdevctl_version: str


def find_management_root(cache: Path | None = None) -> ManagementRoot | None:
    """The root if this machine has one already; the network is never asked."""
    folder = (cache or cache_folder()) / _FOLDER
    stamp = read_stamp(folder, Stamp)
    if stamp is None:
        return None
    return ManagementRoot(folder, stamp.libvirt_version, stamp.mdevctl_version)


def build_management_root(progress: Progress, cache: Path | None = None) -> ManagementRoot:
    """The root, built now if it is not there (see ``CachedFolder.build``).

    Raises:
        RigError: it cannot be had here; the text says why.
    """
    return CachedFolder(_FOLDER, "the management root", find_management_root, _fill).build(progress, cache)


def _fill(work: Path, progress: Progress) -> None:
    check_machine()
    started = time.monotonic()
    archive = Archive(work / "apt", debian_mirror(), (RELEASE,))
    progress(f"management root: reading the package lists of {RELEASE}")
    archive.update()
    progress("management root: fetching libvirt, mdevctl, lspci and their libraries (about 56 MB)")
    packages = archive.fetch(_PACKAGES, RELEASE)
    progress(f"management root: unpacking {len(packages)} packages")
    unpacked = work / "unpacked"
    unpack(packages, unpacked)
    root = work / "management"
    _install(unpacked, root)
    made = ManagementRoot(root, "", "")
    stamp = Stamp(libvirt_version=_version(made, "virsh"), mdevctl_version=_version(made, "mdevctl"))
    write_stamp(root, stamp)
    progress(
        f"management root ready: libvirt {stamp.libvirt_version}, mdevctl {stamp.mdevctl_version}, "
        f"{cost(root, started)}"
    )


def _install(unpacked: Path, root: Path) -> None:
    """Copy the programs and exactly what they load."""
    for name in _EMPTY:
        (root / name).mkdir(parents=True)
    for name in (*_PROGRAMS, _NODE_DEVICES, *_LOADED_LATER, *_DATA, *_libraries(unpacked)):
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(unpacked / name, target)
    (root / QEMU_DRIVERS).mkdir()
    shutil.copy2(unpacked / _DOMAINS, root / QEMU_DRIVERS)
    shutil.copytree(unpacked / _CPUS, root / _CPUS)
    for name, text in _FILES.items():
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    for name, place in _LINKS.items():
        (root / name).symlink_to(place)


def _libraries(unpacked: Path) -> Iterator[str]:
    folders = [unpacked / LIBRARIES, unpacked / _OWN_LIBRARIES]
    wanted = (libraries(folders, unpacked / program) for program in (*_PROGRAMS, _NODE_DEVICES, _DOMAINS))
    for library in set().union(*wanted):
        yield str(library.relative_to(unpacked))


def _version(root: ManagementRoot, program: str) -> str:
    # mdevctl looks for its folders of scripts whatever it is asked
    environment = ("env", f"MDEVCTL_ENV_ROOT={root.path}")
    words = program_output([*environment, *root.command(program), "--version"]).split()
    if not words:
        message = f"{program} of {RELEASE} does not run here"
        raise RigError(message)
    return words[-1]
