"""The ioctls of <linux/iommufd.h>: numbers, flags and structures, native byte order. Sizes are in bytes.

Each structure begins with its size as the program knows it. A program may know a shorter one (an older header), down
to ``least``, or a longer one, of which the part that we do not know must be zero.
"""

from dataclasses import dataclass
from struct import Struct

_FIRST = ord(";") << 8 | 0x80


class Command:
    """ioctl numbers, ``_IO(';', 0x80 + n)``."""

    DESTROY = _FIRST
    IOAS_ALLOC = _FIRST + 0x01
    IOAS_ALLOW_IOVAS = _FIRST + 0x02
    IOAS_COPY = _FIRST + 0x03
    IOAS_IOVA_RANGES = _FIRST + 0x04
    IOAS_MAP = _FIRST + 0x05
    IOAS_UNMAP = _FIRST + 0x06
    OPTION = _FIRST + 0x07
    VFIO_IOAS = _FIRST + 0x08
    HWPT_ALLOC = _FIRST + 0x09
    GET_HW_INFO = _FIRST + 0x0A
    HWPT_SET_DIRTY_TRACKING = _FIRST + 0x0B
    HWPT_GET_DIRTY_BITMAP = _FIRST + 0x0C
    HWPT_INVALIDATE = _FIRST + 0x0D
    IOAS_MAP_FILE = _FIRST + 0x0F
    IOAS_CHANGE_PROCESS = _FIRST + 0x12


MAP_FIXED_IOVA, MAP_WRITEABLE, MAP_READABLE = 1, 2, 4
MAP_FLAGS = MAP_FIXED_IOVA | MAP_WRITEABLE | MAP_READABLE

OPTION_RLIMIT_MODE, OPTION_HUGE_PAGES = 0, 1
OPTION_SET, OPTION_GET = 0, 1

VFIO_IOAS_GET, VFIO_IOAS_SET, VFIO_IOAS_CLEAR = 0, 1, 2

HWPT_FLAGS = 0xF
"""NEST_PARENT, DIRTY_TRACKING, FAULT_ID_VALID, PASID."""


@dataclass(frozen=True, slots=True)
class Layout:
    """One structure: its fields, the size word first; ``least`` bytes have been there in every version."""

    fields: Struct
    least: int


SIZE = Struct("=I")
DESTROY = Layout(Struct("=II"), 8)
"""size, id."""
IOAS_ALLOC = Layout(Struct("=III"), 12)
"""size, flags, out_ioas_id."""
IOAS_ALLOW_IOVAS = Layout(Struct("=IIIIQ"), 24)
"""size, ioas_id, num_iovas, reserved, allowed_iovas."""
IOAS_COPY = Layout(Struct("=IIIIQQQ"), 40)
"""size, flags, dst_ioas_id, src_ioas_id, length, dst_iova, src_iova."""
IOAS_IOVA_RANGES = Layout(Struct("=IIIIQQ"), 32)
"""size, ioas_id, num_iovas, reserved, allowed_iovas, out_iova_alignment."""
IOAS_MAP = Layout(Struct("=IIIIQQQ"), 40)
"""size, flags, ioas_id, reserved, user_va, length, iova."""
IOAS_MAP_FILE = Layout(Struct("=IIIiQQQ"), 40)
"""size, flags, ioas_id, fd, start, length, iova."""
IOAS_UNMAP = Layout(Struct("=IIQQ"), 24)
"""size, ioas_id, iova, length."""
OPTION = Layout(Struct("=IIHHIQ"), 24)
"""size, option_id, op, reserved, object_id, val64."""
VFIO_IOAS = Layout(Struct("=IIHH"), 12)
"""size, ioas_id, op, reserved."""
HWPT_ALLOC = Layout(Struct("=IIIIIIIIQII"), 24)
"""size, flags, dev_id, pt_id, out_hwpt_id, reserved, data_type, data_len, data_uptr, fault_id, reserved."""
GET_HW_INFO = Layout(Struct("=IIIIQIIQ"), 32)
"""size, flags, dev_id, data_len, data_uptr, out_data_type, reserved, out_capabilities."""
HWPT_SET_DIRTY_TRACKING = Layout(Struct("=IIII"), 16)
"""size, flags, hwpt_id, reserved."""
HWPT_GET_DIRTY_BITMAP = Layout(Struct("=IIIIQQQQ"), 48)
"""size, hwpt_id, flags, reserved, iova, length, page_size, data."""
HWPT_INVALIDATE = Layout(Struct("=IIQIIII"), 32)
"""size, hwpt_id, data_uptr, data_type, entry_len, entry_num, reserved."""

RANGE = Struct("=QQ")
"""The first and the last address."""

BIND = Struct("=IIiI")
"""struct vfio_device_bind_iommufd: argsz, flags, iommufd, out_devid."""
OUT_DEVID = 12
"""Where in it."""
ATTACH_PT = Struct("=III")
"""struct vfio_device_attach_iommufd_pt: argsz, flags, pt_id."""
PT_ID = 8
"""Where in it."""
DETACH_PT = Struct("=II")
"""struct vfio_device_detach_iommufd_pt: argsz, flags."""
PASID = 1
"""Flag of ATTACH and DETACH: for one process address space ID of the device's only."""
