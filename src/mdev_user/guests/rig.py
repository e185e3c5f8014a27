"""The rig: a QEMU with ``vfio-user-pci``, a guest kernel and a static busybox, in a cache outside the tree.

The machine's own QEMU is used where it has the device (>= 10.1). Otherwise QEMU comes from Debian's archive with the
libraries it was built for and runs through their own ELF interpreter, so neither root nor a chroot is needed. The
kernel is Debian's cloud flavour: a third of the full one's size, with the PCI 8250 driver built in.
"""

import platform
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mdev_user.guests import kernel_image
from mdev_user.guests.archive import Archive, RigError, debian_mirror, missing_tool, unpack
from mdev_user.guests.cached import CachedFolder, Progress, cache_folder, cost, read_stamp, write_stamp
from mdev_user.guests.foreign import LIBRARIES, interpreter, libraries, program_output

DEVICE = "vfio-user-pci"
RELEASE = "trixie"  # kernel, busybox and QEMU's libraries
QEMU_RELEASE = "trixie-backports"  # the first to have QEMU >= 10.1
KERNEL_METAPACKAGE = "linux-image-cloud-amd64"

_FOLDER = "rig-1"  # the number is the layout's version: raise it when what lies in the folder changes
_UNPACK_SECONDS = 60


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


class Stamp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a complete rig folder says of itself. It is written last, so a folder without one is no rig."""

    qemu_version: str | None
    """None where the folder has no QEMU because the machine's own was used."""
    kernel: str
    kernel_release: str
    applets: tuple[str, ...]


def find_rig(cache: Path | None = None) -> Rig | None:
    """The rig if this machine has one already; the network is never asked."""
    folder = (cache or cache_folder()) / _FOLDER
    stamp = read_stamp(folder, Stamp)
    if stamp is None:
        return None
    qemu = host_qemu()
    if qemu is None and stamp.qemu_version is not None:
        qemu = _bundled_qemu(folder), stamp.qemu_version
    if qemu is None:
        return None
    return Rig(
        qemu=qemu[0],
        qemu_version=qemu[1],
        kernel=folder / stamp.kernel,
        kernel_release=stamp.kernel_release,
        modules=folder / "modules",
        busybox=folder / "busybox",
        applets=stamp.applets,
    )


def build_rig(progress: Progress, cache: Path | None = None) -> Rig:
    """The rig, built now if it is not there; ``progress`` gets a line for each long step.

    Safe against a second builder (it waits for the first) and against interruption (the next build sweeps up).

    Raises:
        RigError: it cannot be had here; the text says why.
    """
    return CachedFolder(_FOLDER, "the guest rig", find_rig, _fill).build(progress, cache)


def host_qemu() -> tuple[tuple[str, ...], str] | None:
    """The argv prefix and the version of the machine's own QEMU, if that has the device we need."""
    path = shutil.which("qemu-system-x86_64")
    if path is None or not has_device(program_output([path, "-device", "help"])):
        return None
    return (path,), parse_version(program_output([path, "--version"]))


def has_device(help_text: str) -> bool:
    """Whether the output of ``-device help`` lists vfio-user-pci."""
    return f'name "{DEVICE}"' in help_text


def parse_version(text: str) -> str:
    """``11.1.3`` of ``QEMU emulator version 11.1.3 (Debian ...)``."""
    words = text.split()
    return words[words.index("version") + 1] if "version" in words[:-1] else "unknown"


def check_machine() -> None:
    """RigError where the rig, or another folder made of Debian packages, cannot be built."""
    if platform.machine() != "x86_64":
        message = f"the rig is made for x86_64, this machine is {platform.machine()}"
        raise RigError(message)
    tool = missing_tool()
    if tool is not None:
        message = f"no {tool} here: the rig is made of Debian packages (or install QEMU >= 10.1 from your distribution)"
        raise RigError(message)


def _fill(work: Path, progress: Progress) -> None:
    check_machine()
    started = time.monotonic()
    rig = work / "rig"
    rig.mkdir()
    archive = Archive(work / "apt", debian_mirror(), (RELEASE, QEMU_RELEASE))
    progress(f"guest rig: reading the package lists of {RELEASE} and {QEMU_RELEASE}")
    archive.update()
    host = host_qemu()
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
    version = stamp.qemu_version or (host[1] if host else "")
    progress(f"guest rig ready: QEMU {version}, Linux {stamp.kernel_release}, {cost(rig, started)}")


def _install_busybox(unpacked: Path, rig: Path) -> Path:
    return Path(shutil.copy2(unpacked / "usr/bin/busybox", rig / "busybox"))


def _install_qemu(unpacked: Path, rig: Path) -> str:
    """Copy QEMU with exactly the libraries and the firmware it loads, and see that it has our device."""
    target = rig / "qemu"
    for part in ("lib", "share"):
        (target / part).mkdir(parents=True)
    binary = shutil.copy2(unpacked / "usr/bin/qemu-system-x86_64", target)
    for library in libraries([unpacked / LIBRARIES], Path(binary)):
        shutil.copy2(library, target / "lib")
    firmware = ((unpacked / "usr/share/qemu").glob("*.bin"), (unpacked / "usr/share/seabios").glob("*.bin"))
    for blob in (blob for folder in firmware for blob in folder):
        shutil.copy2(blob, target / "share")
    command = _bundled_qemu(rig)
    version = parse_version(program_output([*command, "--version"]))
    if not has_device(program_output([*command, "-device", "help"])):
        message = f"QEMU {version} of {QEMU_RELEASE} has no {DEVICE} device, or cannot run here"
        raise RigError(message)
    return version


def _bundled_qemu(rig: Path) -> tuple[str, ...]:
    qemu = rig / "qemu"
    return (*interpreter(qemu / "lib"), str(qemu / "qemu-system-x86_64"), "-L", str(qemu / "share"))


def _install_kernel(unpacked: Path, rig: Path) -> str:
    """The name of the kernel to boot: unpacked here, once, which each emulated boot would spend two seconds on."""
    (rig / "modules").mkdir()
    (next((unpacked / "usr/lib/modules").iterdir()) / "kernel").rename(rig / "modules" / "kernel")
    image = next((unpacked / "boot").glob("vmlinuz-*")).read_bytes()
    packed = kernel_image.payload(image)
    if not packed.startswith(kernel_image.ZSTD_MAGIC):  # another packer: QEMU boots the bzImage as well
        (rig / "vmlinuz").write_bytes(image)
        return "vmlinuz"
    (rig / "vmlinux").write_bytes(_unpack_zstd(unpacked, packed))
    return "vmlinux"


def _unpack_zstd(unpacked: Path, packed: bytes) -> bytes:
    # Python has zstd from 3.14 on; until then the archive's own program, run like its QEMU
    command = interpreter(unpacked / LIBRARIES)
    done = subprocess.run(
        [*command, str(unpacked / "usr/bin/zstd"), "-dcq"],
        input=packed,
        capture_output=True,
        timeout=_UNPACK_SECONDS,
        check=False,
    )
    if done.returncode:
        message = f"the guest kernel cannot be unpacked: {done.stderr.decode(errors='replace').strip()}"
        raise RigError(message)
    return done.stdout
