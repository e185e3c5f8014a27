"""The QEMU arguments that give a guest one mdev, and the shared memory without which the mdev cannot see it.

Written for QEMU >= 10.1, the first with ``vfio-user-pci``. Pure text: ``mdev-user qemu-args`` prints what these return.
"""

import json
import os

from mdev_user.units import MiB

MEMORY_ID = "mem"  # the id of the memory backend, which -machine names


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


def device_arguments(socket: str | os.PathLike[str]) -> list[str]:
    """The ``vfio-user-pci`` device whose server listens on ``socket``.

    JSON, since QEMU's ``key=value`` form cannot express the device's ``socket`` (a SocketAddress object).
    """
    device = {"driver": "vfio-user-pci", "socket": {"type": "unix", "path": os.fspath(socket)}}
    return ["-device", json.dumps(device, separators=(",", ":"))]


def qemu_arguments(socket: str | os.PathLike[str], memory: int = 1024 * MiB) -> list[str]:
    """All that a QEMU command line needs for the mdev at ``socket``, in a guest with ``memory`` bytes of RAM."""
    return [*memory_arguments(memory), *device_arguments(socket)]
