"""The ioctls of <linux/vfio.h>: numbers, flags and structures, native byte order. Sizes are in bytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Self

_FIRST = ord(";") << 8 | 100


class Command:
    """ioctl numbers, ``_IO(';', 100 + n)``. Some mean one thing for a container and another one for a device."""

    GET_API_VERSION = _FIRST
    CHECK_EXTENSION = _FIRST + 1
    SET_IOMMU = _FIRST + 2

    GROUP_GET_STATUS = _FIRST + 3
    GROUP_SET_CONTAINER = _FIRST + 4
    GROUP_UNSET_CONTAINER = _FIRST + 5
    GROUP_GET_DEVICE_FD = _FIRST + 6

    DEVICE_GET_INFO = _FIRST + 7
    DEVICE_GET_REGION_INFO = _FIRST + 8
    DEVICE_GET_IRQ_INFO = _FIRST + 9
    DEVICE_SET_IRQS = _FIRST + 10
    DEVICE_RESET = _FIRST + 11
    DEVICE_GET_PCI_HOT_RESET_INFO = _FIRST + 12
    DEVICE_PCI_HOT_RESET = _FIRST + 13
    DEVICE_QUERY_GFX_PLANE = _FIRST + 14
    DEVICE_GET_GFX_DMABUF = _FIRST + 15
    DEVICE_IOEVENTFD = _FIRST + 16
    DEVICE_FEATURE = _FIRST + 17
    DEVICE_BIND_IOMMUFD = _FIRST + 18
    DEVICE_ATTACH_IOMMUFD_PT = _FIRST + 19
    DEVICE_DETACH_IOMMUFD_PT = _FIRST + 20

    IOMMU_GET_INFO = _FIRST + 12
    IOMMU_MAP_DMA = _FIRST + 13
    IOMMU_UNMAP_DMA = _FIRST + 14
    IOMMU_ENABLE = _FIRST + 15
    IOMMU_DISABLE = _FIRST + 16
    IOMMU_DIRTY_PAGES = _FIRST + 17


API_VERSION = 0

TYPE1, TYPE1_V2, UNMAP_ALL = 1, 3, 9
"""Extensions: the two kinds of IOMMU, and that UNMAP_DMA takes the flag ALL."""

GROUP_VIABLE, GROUP_CONTAINER_SET = 1, 2

DMA_MAP_READ, DMA_MAP_WRITE, DMA_MAP_VADDR = 1, 2, 4
DMA_UNMAP_GET_DIRTY_BITMAP, DMA_UNMAP_ALL, DMA_UNMAP_VADDR = 1, 2, 4
DIRTY_PAGES_START, DIRTY_PAGES_STOP, DIRTY_PAGES_GET_BITMAP = 1, 2, 4

IRQ_DATA_NONE, IRQ_DATA_BOOL, IRQ_DATA_EVENTFD = 1, 2, 4
IRQ_DATA = IRQ_DATA_NONE | IRQ_DATA_BOOL | IRQ_DATA_EVENTFD
IRQ_ACTION = 0x38
IRQ_FLAGS = IRQ_DATA | IRQ_ACTION

_IOMMU_INFO_PGSIZES, _IOMMU_INFO_CAPS = 1, 2
_CAP_IOVA_RANGE, _CAP_MIGRATION, _CAP_DMA_AVAILABLE = 1, 2, 3

ARGSZ = Struct("=I")
GROUP_STATUS = Struct("=II")
"""argsz, flags."""
DEVICE_INFO = Struct("=IIII")
"""argsz, flags, num_regions, num_irqs: the part that every version has."""
REGION_INFO = Struct("=IIIIQQ")
"""argsz, flags, index, cap_offset, size, offset."""
IRQ_INFO = Struct("=IIII")
"""argsz, flags, index, count."""
IRQ_SET = Struct("=IIIII")
"""argsz, flags, index, start, count."""
IOMMU_INFO = Struct("=IIQII")
"""argsz, flags, iova_pgsizes, cap_offset, padding."""
IOMMU_INFO_LEAST = 16
DMA_MAP = Struct("=IIQQQ")
"""argsz, flags, vaddr, iova, size."""
DMA_UNMAP = Struct("=IIQQ")
"""argsz, flags, iova, size; with GET_DIRTY_BITMAP a `BITMAP` follows."""
BITMAP = Struct("=QQQ")
"""pgsize, size, data."""
DIRTY_PAGES = Struct("=II")
"""argsz, flags; with GET_BITMAP a `DIRTY_RANGE` follows."""
DIRTY_RANGE = Struct("=QQQQQ")
"""iova, size, and a `BITMAP`."""

_CAP_HEADER = Struct("=HHI")
_RANGE = Struct("=QQ")


@dataclass(frozen=True, slots=True)
class SetIrqs:
    """struct vfio_irq_set without its data."""

    argsz: int
    flags: int
    index: int
    start: int
    count: int

    @classmethod
    def decode(cls, data: bytes) -> Self:
        return cls(*IRQ_SET.unpack(data))

    @property
    def item_size(self) -> int | None:
        """Bytes of data for each vector; None when the flags name no kind of data, or more than one."""
        return {IRQ_DATA_NONE: 0, IRQ_DATA_BOOL: 1, IRQ_DATA_EVENTFD: 4}.get(self.flags & IRQ_DATA)

    @property
    def action(self) -> int:
        return self.flags & IRQ_ACTION


def iommu_info(page_sizes: int, ranges: Sequence[tuple[int, int]], mappings_left: int, bitmap_size: int) -> bytes:
    """VFIO_IOMMU_GET_INFO with all of its capabilities.

    ``page_sizes`` has a bit for each; ``ranges`` are the first and the last usable address of each stretch;
    ``mappings_left`` is how many more DMA mappings are taken, ``bitmap_size`` the most bytes of a dirty bitmap.
    """
    bodies = [
        (_CAP_MIGRATION, 1, Struct("=IIQQ").pack(0, 0, page_sizes & -page_sizes, bitmap_size)),
        (_CAP_DMA_AVAILABLE, 1, Struct("=II").pack(mappings_left, 0)),
        (_CAP_IOVA_RANGE, 1, Struct("=II").pack(len(ranges), 0) + b"".join(_RANGE.pack(*each) for each in ranges)),
    ]
    chain = b""
    for left, (identity, version, body) in zip(range(len(bodies) - 1, -1, -1), bodies, strict=True):
        following = IOMMU_INFO.size + len(chain) + _CAP_HEADER.size + len(body) if left else 0
        chain += _CAP_HEADER.pack(identity, version, following) + body
    flags = _IOMMU_INFO_PGSIZES | _IOMMU_INFO_CAPS
    return IOMMU_INFO.pack(IOMMU_INFO.size + len(chain), flags, page_sizes, IOMMU_INFO.size, 0) + chain


def fitted_iommu_info(full: bytes, argsz: int) -> bytes:
    """What of `iommu_info` is copied to a program that has room for ``argsz``, 16 or more.

    Too little for the capabilities: argsz then says how much there must be, and they have no offset.
    """
    needed, flags, page_sizes, offset, padding = IOMMU_INFO.unpack_from(full)
    if argsz >= needed:
        return IOMMU_INFO.pack(argsz, flags, page_sizes, offset, padding) + full[IOMMU_INFO.size :]
    return IOMMU_INFO.pack(needed, flags, page_sizes, 0, 0)[: min(argsz, IOMMU_INFO.size)]
