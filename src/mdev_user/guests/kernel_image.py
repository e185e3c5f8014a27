"""What is inside a bzImage: the ELF kernel that a virtual machine monitor can enter directly (PVH).

Source: Linux, Documentation/arch/x86/boot.rst (fields of the real-mode kernel header).
"""

import struct

from mdev_user.errors import MdevUserError

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

_SETUP_SECTS = 0x1F1
_HEADER_MAGIC = 0x202  # "HdrS", then the protocol's version
_PAYLOAD = 0x248  # u32 payload_offset from the protected-mode code, u32 payload_length
_SIZE_TRAILER = 4  # the build appends the unpacked size to the compressed payload


class NotABzImage(MdevUserError):
    """The bytes are not a bzImage of boot protocol 2.08 or later."""


def payload(image: bytes) -> bytes:
    """The compressed ELF kernel in ``image``, without the size that the build puts behind it."""
    if len(image) < _PAYLOAD + 8 or image[_HEADER_MAGIC : _HEADER_MAGIC + 4] != b"HdrS":
        message = f"expected a bzImage (HdrS at {_HEADER_MAGIC:#x}), got {len(image)} bytes of something else"
        raise NotABzImage(message)
    (version,) = struct.unpack_from("<H", image, _HEADER_MAGIC + 4)
    if version < 0x0208:
        message = f"expected boot protocol 2.08 or later, got {version >> 8}.{version & 0xFF:02}"
        raise NotABzImage(message)
    offset, length = struct.unpack_from("<II", image, _PAYLOAD)
    start = ((image[_SETUP_SECTS] or 4) + 1) * 512 + offset
    if length <= _SIZE_TRAILER or start + length > len(image):
        message = f"expected a payload of {length} bytes at {start:#x}, got an image of {len(image)} bytes"
        raise NotABzImage(message)
    return image[start : start + length - _SIZE_TRAILER]
