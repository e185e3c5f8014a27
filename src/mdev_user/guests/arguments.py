"""The QEMU arguments that give a guest an mdev: over vfio-user, or over the kernel's VFIO under ``mdev-user run``.

Over vfio-user the guest's memory must be shared, or the mdev sees it by messages alone; QEMU >= 10.1 is the first to
have that. ``vfio-pci`` is in every QEMU, ``iommufd`` from 9.0 on. Pure text: ``mdev-user qemu-args`` prints what
``qemu_arguments`` returns.
"""

import json
import os
from uuid import UUID

from mdev_user.host import PYTHON
from mdev_user.units import MiB

MEMORY_ID = "mem"  # the id of the memory backend, which -machine names
IOMMUFD_ID = "iommufd0"  # not iommufd, which is a property of each device: QEMU takes it for ambiguous
MDEVS = "/sys/bus/mdev/devices"


def memory_arguments(size: int) -> list[str]:
    """Guest RAM of ``size`` bytes that the mdev's process can map.

    QEMU passes a DMA mapping's fd to a vfio-user server only for RAM that is shared; private RAM would make every DMA
    a message on the socket. No ``-m`` is needed beside it: QEMU takes the RAM's size from the backend.
    """
    if size <= 0 or size % MiB:
        message = f"guest memory must be a whole number of MiB, got {size} bytes"
        raise ValueError(message)
    backend = f"memory-backend-memfd,id={MEMORY_ID},size={size // MiB}M,share=on"
    return ["-object", backend, "-machine", f"memory-backend={MEMORY_ID}"]


def private_memory_arguments(size: int) -> list[str]:
    """Guest RAM of ``size`` bytes as QEMU has it by default: anonymous memory of its own."""
    backend = f"memory-backend-ram,id=private,size={size // MiB}M"
    return ["-object", backend, "-machine", "memory-backend=private"]


def device_arguments(socket: str | os.PathLike[str]) -> list[str]:
    """The ``vfio-user-pci`` device whose server listens on ``socket``.

    JSON, since QEMU's ``key=value`` form cannot express the device's ``socket`` (a SocketAddress object).
    """
    device = {"driver": "vfio-user-pci", "socket": {"type": "unix", "path": os.fspath(socket)}}
    return ["-device", json.dumps(device, separators=(",", ":"))]


def qemu_arguments(socket: str | os.PathLike[str], memory: int = 1024 * MiB) -> list[str]:
    """All that a QEMU command line needs for the mdev at ``socket``, in a guest with ``memory`` bytes of RAM."""
    return [*memory_arguments(memory), *device_arguments(socket)]


def vfio_arguments(uuid: UUID) -> list[str]:
    """The ``vfio-pci`` device of an mdev, by the legacy API: groups and a container."""
    return ["-device", _vfio_device(uuid)]


def iommufd_arguments(*uuids: UUID) -> list[str]:
    """The ``vfio-pci`` devices of mdevs that share one iommufd."""
    devices = (("-device", f"{_vfio_device(uuid)},iommufd={IOMMUFD_ID}") for uuid in uuids)
    return ["-object", f"iommufd,id={IOMMUFD_ID}", *(word for device in devices for word in device)]


def run_command(run_dir: str | os.PathLike[str]) -> list[str]:
    """The beginning of an argv: the program behind it finds the kernel's VFIO for the mdevs of a daemon."""
    return [*PYTHON, "mdev_user", "run", "--run-dir", os.fspath(run_dir), "--"]


def _vfio_device(uuid: UUID) -> str:
    # QEMU 11.1 with iommufd crashes on a vfio-pci that has no id.
    return f"vfio-pci,id=mdev-{uuid},sysfsdev={MDEVS}/{uuid}"
