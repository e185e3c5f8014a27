"""A QEMU without vfio-user: Debian 12's own 7.2, which takes an mdev as ``vfio-pci`` and nothing else.

Under ``mdev-user run`` it finds the kernel's VFIO for our mdevs. The machine's own is used where it is a 7.2; otherwise
it comes from Debian's archive as the rig's QEMU does. Kernel and busybox are the rig's.
"""

import time
from dataclasses import replace
from pathlib import Path

import msgspec

from mdev_user.guests.archive import Archive, RigError, debian_mirror, unpack
from mdev_user.guests.cached import CachedFolder, Progress, cache_folder, cost, read_stamp, write_stamp
from mdev_user.guests.foreign import program_output
from mdev_user.guests.qemu import (
    VFIO_PCI,
    VFIO_USER_PCI,
    Qemu,
    has_device,
    host_qemu,
    install_qemu,
    installed_qemu,
    parse_version,
)
from mdev_user.guests.rig import Rig, check_machine

RELEASE = "bookworm"
VERSION = "7.2."

_FOLDER = "plain-qemu-1"


class Stamp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a complete folder says of itself; written last."""

    version: str


def find_plain_qemu(cache: Path | None = None) -> Qemu | None:
    """The QEMU if this machine has it already; the network is never asked."""
    return _host() or _cached((cache or cache_folder()) / _FOLDER)


def build_plain_qemu(progress: Progress, cache: Path | None = None) -> Qemu:
    """The QEMU, fetched now if it is not there (see ``CachedFolder.build``).

    Raises:
        RigError: it cannot be had here; the text says why.
    """
    return CachedFolder(_FOLDER, "the plain QEMU", find_plain_qemu, _fill).build(progress, cache)


def with_qemu(rig: Rig, qemu: Qemu) -> Rig:
    """The rig with this QEMU in place of its own."""
    return replace(rig, qemu=qemu.command, qemu_version=qemu.version, device=qemu.device)


def _host() -> Qemu | None:
    qemu = host_qemu((VFIO_PCI,))
    return qemu if qemu is not None and qemu.version.startswith(VERSION) else None


def _cached(folder: Path) -> Qemu | None:
    stamp = read_stamp(folder, Stamp)
    return None if stamp is None else Qemu(installed_qemu(folder), stamp.version, VFIO_PCI)


def _fill(work: Path, progress: Progress) -> None:
    check_machine()
    started = time.monotonic()
    archive = Archive(work / "apt", debian_mirror(), (RELEASE,))
    progress(f"plain QEMU: reading the package lists of {RELEASE}")
    archive.update()
    progress("plain QEMU: fetching QEMU and its libraries (about 40 MB)")
    unpack(archive.fetch(("qemu-system-x86",), RELEASE), work / "unpacked")
    folder = work / "plain-qemu"
    command = install_qemu(work / "unpacked", folder)
    version = parse_version(program_output([*command, "--version"]))
    help_text = program_output([*command, "-device", "help"])
    if not has_device(help_text, VFIO_PCI) or has_device(help_text, VFIO_USER_PCI):
        message = f"expected of {RELEASE} a QEMU with {VFIO_PCI} and without {VFIO_USER_PCI}, given {version}"
        raise RigError(message)
    write_stamp(folder, Stamp(version=version))
    progress(f"plain QEMU ready: {version}, {cost(folder, started)}")
