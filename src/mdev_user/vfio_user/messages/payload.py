"""What every payload is checked for: its size, the argsz that it begins with, the range of an access.

All of it comes from a peer, so what is wrong is a GuestError (EINVAL).
"""

from struct import Struct

from mdev_user.errors import GuestError
from mdev_user.vfio_user.framing import LARGEST_DATA

TOP = 1 << 64


def wrong_size(expected: int, payload: bytes) -> str:
    return f"payload of {len(payload)} bytes: expected {expected}"


def fixed_part(layout: Struct, payload: bytes) -> tuple[int, ...]:
    """A structure that begins with argsz. A client may send what argsz announces (libvfio-user) or less (QEMU)."""
    if len(payload) < layout.size:
        raise GuestError(wrong_size(layout.size, payload))
    values: tuple[int, ...] = layout.unpack_from(payload)
    argsz = values[0]
    if argsz < layout.size:
        raise GuestError(f"argsz {argsz}: expected at least {layout.size}")
    if len(payload) > argsz:
        raise GuestError(f"payload of {len(payload)} bytes is more than its argsz {argsz}")
    return values


def check_access(offset: int, count: int) -> None:
    if not 0 < count <= LARGEST_DATA:
        raise GuestError(f"access of {count} bytes: expected 1 to {LARGEST_DATA}")
    if offset + count > TOP:
        raise GuestError(f"access at {offset:#x} of {count} bytes leaves the 64-bit range")
