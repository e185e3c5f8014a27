"""The rig: a QEMU with ``vfio-user-pci``, a guest kernel and a static busybox, in a cache outside the tree.

The machine's own QEMU is used where it has the device (>= 10.1). Otherwise QEMU comes from Debian's archive with the
libraries it was built for and runs through their own ELF interpreter, so neither root nor a chroot is needed. The
kernel is Debian's cloud flavour: a third of the full one's size, with the PCI 8250 driver built in.
"""

import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mdev_user.guests.archive import Archive, RigError, debian_mirror, missing_tool, unpack
from mdev_user.guests.boot_image import install_kernel
from mdev_user.guests.cached import CachedFolder, Progress, cache_folder, cost, read_stamp, write_stamp
from mdev_user.guests.foreign import program_output
from mdev_user.guests.qemu import (
    VFIO_USER_PCI,
    Qemu,
    has_device,
    host_qemu,
    install_qemu,
    installed_qemu,
    parse_version,
)

RELEASE = "trixie"  # kernel, busybox and QEMU's libraries
QEMU_RELEASE = "trixie-backports"  # the first to have QEMU >= 10.1
KERNEL_METAPACKAGE = "linux-image-cloud-amd64"

_FOLDER = "rig-2"  # the number is the layout's version: raise it when what lies in the folder changes


@dataclass(frozen=True, slots=True)
class Rig:
    """What guests are made of. ``qemu`` is the beginning of an argv; everything else is a path or a version."""

    qemu: tuple[str, ...]
    qemu_version: str
    kernel: Path
    kernel_release: str
    modules: Path
    """The folder of the kernel's modules (``kernel/drivers/...``, each .ko.xz)."""
    busybox: Path
    applets: tuple[str, ...]
    device: str = VFIO_USER_PCI
    """Which of QEMU's devices an mdev is."""


class Stamp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a complete rig folder says of itself. It is written last, so a folder without one is no rig."""

    qemu_version: str | None
    """None where the folder has no QEMU because the machine's own was used."""
    kernel: str
    kernel_release: str
    applets: tuple[str, ...]


def find_rig(cache: Path | None = None, devices: Sequence[str] = (VFIO_USER_PCI,)) -> Rig | None:
    """The rig if this machine has one already; the network is never asked.

    The machine's own QEMU does where it has one of ``devices``, the first of which is taken.
    """
    folder = (cache or cache_folder()) / _FOLDER
    stamp = read_stamp(folder, Stamp)
    if stamp is None:
        return None
    qemu = host_qemu(devices)
    if qemu is None and stamp.qemu_version is not None:
        qemu = Qemu(installed_qemu(folder / "qemu"), stamp.qemu_version, VFIO_USER_PCI)
    if qemu is None:
        return None
    return Rig(
        qemu=qemu.command,
        qemu_version=qemu.version,
        device=qemu.device,
        kernel=folder / stamp.kernel,
        kernel_release=stamp.kernel_release,
        modules=folder / "modules",
        busybox=folder / "busybox",
        applets=stamp.applets,
    )


def build_rig(progress: Progress, cache: Path | None = None, devices: Sequence[str] = (VFIO_USER_PCI,)) -> Rig:
    """The rig, built now if it is not there; ``progress`` gets a line for each long step.

    Safe against a second builder (it waits for the first) and against interruption (the next build sweeps up).

    Raises:
        RigError: it cannot be had here; the text says why.
    """

    def find(place: Path) -> Rig | None:
        return find_rig(place, devices)

    def fill(work: Path, told: Progress) -> None:
        _fill(work, told, host_qemu(devices))

    return CachedFolder(_FOLDER, "the guest rig", find, fill).build(progress, cache)


def check_machine() -> None:
    """RigError where the rig, or another folder made of Debian packages, cannot be built."""
    if platform.machine() != "x86_64":
        message = f"the rig is made for x86_64, this machine is {platform.machine()}"
        raise RigError(message)
    tool = missing_tool()
    if tool is not None:
        message = f"no {tool} here: the rig is made of Debian packages (or install QEMU >= 10.1 from your distribution)"
        raise RigError(message)


def _fill(work: Path, progress: Progress, host: Qemu | None) -> None:
    check_machine()
    started = time.monotonic()
    rig = work / "rig"
    rig.mkdir()
    archive = Archive(work / "apt", debian_mirror(), (RELEASE, QEMU_RELEASE))
    progress(f"guest rig: reading the package lists of {RELEASE} and {QEMU_RELEASE}")
    archive.update()
    wanted = ["busybox-static", "zstd", *([] if host else ["qemu-system-x86"])]
    progress(f"guest rig: fetching {'busybox' if host else 'QEMU, its libraries and busybox (about 40 MB)'}")
    packages = archive.fetch(wanted, QEMU_RELEASE)
    progress("guest rig: fetching a guest kernel (about 35 MB)")
    kernel = archive.fetch_alone(archive.dependency(KERNEL_METAPACKAGE, "linux-image-"))
    progress(f"guest rig: unpacking {len(packages) + 1} packages")
    unpacked = work / "unpacked"
    unpack([*packages, kernel], unpacked)
    busybox = _install_busybox(unpacked, rig)
    stamp = Stamp(
        qemu_version=None if host else _install_qemu(unpacked, rig),
        kernel=_install_kernel(unpacked, rig),
        kernel_release=next((unpacked / "usr/lib/modules").iterdir()).name,
        applets=tuple(program_output([str(busybox), "--list"]).split()),
    )
    write_stamp(rig, stamp)
    version = stamp.qemu_version or (host.version if host else "")
    progress(f"guest rig ready: QEMU {version}, Linux {stamp.kernel_release}, {cost(rig, started)}")


def _install_busybox(unpacked: Path, rig: Path) -> Path:
    return Path(shutil.copy2(unpacked / "usr/bin/busybox", rig / "busybox"))


def _install_qemu(unpacked: Path, rig: Path) -> str:
    """Put QEMU into the rig, and see that it has our device; its version."""
    command = install_qemu(unpacked, rig / "qemu")
    version = parse_version(program_output([*command, "--version"]))
    if not has_device(program_output([*command, "-device", "help"])):
        message = f"QEMU {version} of {QEMU_RELEASE} has no {VFIO_USER_PCI} device, or cannot run here"
        raise RigError(message)
    return version


def _install_kernel(unpacked: Path, rig: Path) -> str:
    (rig / "modules").mkdir()
    (next((unpacked / "usr/lib/modules").iterdir()) / "kernel").rename(rig / "modules" / "kernel")
    return install_kernel(unpacked, rig)
