"""Numbers and structures of <linux/vfio.h>, apart from the product's: tests share no mistake with it."""

import struct

_BASE = 0x3B64


def number(index: int) -> int:
    """``_IO(';', 100 + index)``."""
    return _BASE + index


GET_API_VERSION, CHECK_EXTENSION, SET_IOMMU = number(0), number(1), number(2)
GROUP_GET_STATUS, GROUP_SET_CONTAINER, GROUP_UNSET_CONTAINER, GROUP_GET_DEVICE_FD = (
    number(index) for index in range(3, 7)
)
DEVICE_GET_INFO, DEVICE_GET_REGION_INFO, DEVICE_GET_IRQ_INFO, DEVICE_SET_IRQS, DEVICE_RESET = (
    number(index) for index in range(7, 12)
)
DEVICE_GET_PCI_HOT_RESET_INFO, DEVICE_QUERY_GFX_PLANE, DEVICE_GET_GFX_DMABUF, DEVICE_IOEVENTFD, DEVICE_FEATURE = (
    number(index) for index in (12, 14, 15, 16, 17)
)
IOMMU_GET_INFO, IOMMU_MAP_DMA, IOMMU_UNMAP_DMA = number(12), number(13), number(14)
MIG_GET_PRECOPY_INFO = number(21)

TYPE1V2 = 3
MAP_READ_WRITE = 3

FEATURE_GET, FEATURE_SET, FEATURE_PROBE = 1 << 16, 1 << 17, 1 << 18
MIGRATION, MIG_DEVICE_STATE, DMA_LOGGING_START, DMA_LOGGING_STOP, DMA_LOGGING_REPORT, MIG_DATA_SIZE = 1, 2, 6, 7, 8, 9
STATES = ("ERROR", "STOP", "RUNNING", "STOP_COPY", "RESUMING", "RUNNING_P2P", "PRE_COPY", "PRE_COPY_P2P")

DEVICE_INFO = struct.Struct("<IIIII")
REGION_INFO = struct.Struct("<IIIIQQ")
"""argsz, flags, index, cap_offset, size, offset."""
IRQ_INFO = struct.Struct("<IIII")
IRQ_SET = struct.Struct("<IIIII")
"""argsz, flags, index, start, count."""
TYPE1_INFO = struct.Struct("<IIQI")
DMA_MAP = struct.Struct("<IIQQQ")
"""argsz, flags, vaddr, iova, size."""
DMA_UNMAP = struct.Struct("<IIQQ")
FEATURE = struct.Struct("<II")
MIG_STATE = struct.Struct("<Ii")
PRECOPY_INFO = struct.Struct("<IIQQ")
GFX_PLANE = struct.Struct("<IIIIQ9I4x")
"""argsz, flags, drm_plane_type, drm_format, modifier, width, height, stride, size, x, y, xhot, yhot, region/dmabuf."""
