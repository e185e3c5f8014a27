"""What the specification lets a server accept, written a second time and as plainly as possible.

Source: QEMU's ``docs/interop/vfio-user.rst`` and ``include/uapi/linux/vfio.h``. A decoder that accepts what a rule
refuses, or refuses what it accepts, is wrong; commands without a rule are only decoded and encoded again.
"""

from collections.abc import Callable

from mdev_user.vfio_user.framing import Command

MIB = 1 << 20
VECTORS = 2048
LARGEST_BITMAP = MIB
"""Of our own."""


def u32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def u64(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")


def _argsz(data: bytes, least: int) -> bool:
    """A structure that begins with argsz, of which a client may send less than argsz announces."""
    return len(data) >= least and u32(data, 0) >= least and len(data) <= u32(data, 0)


def _access(offset: int, count: int) -> bool:
    return 1 <= count <= MIB and offset + count <= 1 << 64


def dma_map(data: bytes) -> bool:
    return _argsz(data, 32) and u32(data, 4) in {1, 2, 3}


def set_irqs(data: bytes) -> bool:
    if len(data) < 20 or u32(data, 0) < 20:
        return False
    flags, start, count = u32(data, 4), u32(data, 12), u32(data, 16)
    kinds, actions = flags & 7, flags & 0x38
    one_each = kinds in {1, 2, 4} and actions in {8, 16, 32} and flags < 0x40
    return one_each and start + count <= VECTORS and len(data) - 20 == (count if kinds == 2 else 0)


def region_read(data: bytes) -> bool:
    return len(data) == 16 and _access(u64(data, 0), u32(data, 12))


def region_write(data: bytes) -> bool:
    return len(data) >= 16 and len(data) - 16 == u32(data, 12) and _access(u64(data, 0), u32(data, 12))


def region_write_multi(data: bytes) -> bool:
    if len(data) < 8 or len(data) - 8 != 24 * u64(data, 0):
        return False
    entries = [data[at : at + 24] for at in range(8, len(data), 24)]
    return all(u32(each, 12) in range(1, 9) and _access(u64(each, 0), u32(each, 12)) for each in entries)


def dma_unmap(data: bytes) -> bool:
    """Flag 1 brings 16 bytes more, flag 2 takes neither address nor size."""
    if not _argsz(data, 24):
        return False
    flags = u32(data, 4)
    if flags == 2:
        return u64(data, 8) == 0 and u64(data, 16) == 0
    return flags == 0 or (flags == 1 and unmap_bitmap(data))


def unmap_bitmap(data: bytes) -> bool:
    """A page size and a size of a bitmap, which has to fit into argsz and has a limit of its own."""
    return len(data) >= 40 and u64(data, 32) <= LARGEST_BITMAP and u32(data, 0) >= 40 + u64(data, 32)


def device_feature(data: bytes) -> bool:
    if not _argsz(data, 8):
        return False
    operations = u32(data, 4) >> 16
    return operations < 8 and operations != 3


def mig_data_read(data: bytes) -> bool:
    return _argsz(data, 8) and u32(data, 4) <= MIB and u32(data, 0) >= 8 + u32(data, 4)


def mig_data_write(data: bytes) -> bool:
    return len(data) >= 8 and len(data) - 8 == u32(data, 4) <= MIB


def dma_read(data: bytes) -> bool:
    return len(data) == 16 and _access(u64(data, 0), u64(data, 8))


def dma_write(data: bytes) -> bool:
    return len(data) >= 16 and len(data) - 16 == u64(data, 8) and _access(u64(data, 0), u64(data, 8))


ACCEPTED: dict[int, Callable[[bytes], bool]] = {
    Command.DMA_MAP: dma_map,
    Command.DEVICE_GET_INFO: lambda data: _argsz(data, 16),
    Command.DEVICE_GET_REGION_INFO: lambda data: _argsz(data, 32),
    Command.DEVICE_GET_IRQ_INFO: lambda data: _argsz(data, 16),
    Command.DEVICE_SET_IRQS: set_irqs,
    Command.REGION_READ: region_read,
    Command.REGION_WRITE: region_write,
    Command.DMA_READ: dma_read,
    Command.DMA_WRITE: dma_write,
    Command.REGION_WRITE_MULTI: region_write_multi,
    Command.DMA_UNMAP: dma_unmap,
    Command.DEVICE_FEATURE: device_feature,
    Command.MIG_DATA_READ: mig_data_read,
    Command.MIG_DATA_WRITE: mig_data_write,
    Command.DEVICE_RESET: lambda data: not data,
}
"""By command: whether a request's payload is one."""
