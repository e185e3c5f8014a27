"""A QEMU for guests: the machine's own, or one of Debian's archive with exactly the libraries that it loads."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mdev_user.guests.foreign import INTERPRETER, LIBRARIES, interpreter, libraries, program_output

VFIO_USER_PCI = "vfio-user-pci"
"""The device that is a vfio-user client (QEMU >= 10.1)."""
VFIO_PCI = "vfio-pci"
"""The device for the kernel's VFIO, which our mdevs have under ``mdev-user run``."""
_MODULES = ("accel-tcg-x86_64.so", "hw-display-virtio-gpu.so", "hw-display-virtio-gpu-pci.so")
"""Parts of QEMU that are files of their own: in Debian 12 the emulator, and the device that vgpu is measured by."""
_BUNDLE = "qemu-bundle"
"""What QEMU takes for the root folder, where it has one beside its executable, which is here the ELF interpreter."""


@dataclass(frozen=True, slots=True)
class Qemu:
    """The beginning of an argv, its version, and which of its devices an mdev is."""

    command: tuple[str, ...]
    version: str
    device: str


def host_qemu(devices: Sequence[str] = (VFIO_USER_PCI,)) -> Qemu | None:
    """The machine's own QEMU with the first of ``devices`` that it has; None where it has none of them."""
    path = shutil.which("qemu-system-x86_64")
    if path is None:
        return None
    help_text = program_output([path, "-device", "help"])
    for device in devices:
        if has_device(help_text, device):
            return Qemu((path,), parse_version(program_output([path, "--version"])), device)
    return None


def has_device(help_text: str, device: str = VFIO_USER_PCI) -> bool:
    """Whether the output of ``-device help`` lists the device."""
    return f'name "{device}"' in help_text


def parse_version(text: str) -> str:
    """``11.1.3`` of ``QEMU emulator version 11.1.3 (Debian ...)``."""
    words = text.split()
    return words[words.index("version") + 1] if "version" in words[:-1] else "unknown"


def install_qemu(unpacked: Path, folder: Path) -> tuple[str, ...]:
    """Copy QEMU with exactly the libraries and the firmware it loads; the beginning of its argv."""
    for part in ("lib", "share"):
        (folder / part).mkdir(parents=True)
    binary = shutil.copy2(unpacked / "usr/bin/qemu-system-x86_64", folder)
    for library in libraries(_library_folders(unpacked), Path(binary)):
        shutil.copy2(library, folder / "lib")
    firmware = ((unpacked / "usr/share/qemu").glob("*.bin"), (unpacked / "usr/share/seabios").glob("*.bin"))
    for blob in (blob for each in firmware for blob in each):
        shutil.copy2(blob, folder / "share")
    modules = folder / "lib" / _BUNDLE / LIBRARIES / "qemu"
    modules.mkdir(parents=True)
    for module in (module for name in _MODULES for module in (unpacked / LIBRARIES / "qemu").glob(name)):
        shutil.copy2(module, modules)
    return installed_qemu(folder)


def installed_qemu(folder: Path) -> tuple[str, ...]:
    """The beginning of the argv of what ``install_qemu`` put there."""
    return (*interpreter(folder / "lib"), str(folder / "qemu-system-x86_64"), "-L", str(folder / "share"))


def _library_folders(unpacked: Path) -> list[Path]:
    """The folder with the ELF interpreter first: before Debian 13 a package has it in ``/lib``, not in ``/usr``."""
    folders = [unpacked / name for name in (LIBRARIES, LIBRARIES.removeprefix("usr/"))]
    return sorted(filter(Path.is_dir, folders), key=lambda folder: not (folder / INTERPRETER).exists())
