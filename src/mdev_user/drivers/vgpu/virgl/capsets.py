"""Capability sets: what the renderer tells a guest that it can do, less what it cannot do for this one."""

from struct import pack_into, unpack_from
from typing import NamedTuple

from mdev_user.drivers.vgpu.virgl.formats import BLOCKS

VIRGL, VIRGL2 = 1, 2
OFFERED = (VIRGL, VIRGL2)
"""The sets of OpenGL, in the order in which a guest asks for them (section 5.7.6.8, GET_CAPSET_INFO)."""

_FORMAT_MASKS = (4, 68, 132, 196)
"""Where the masks of formats lie, of 512 bits: to be sampled, drawn, for depths, for vertices."""
_MORE_MASKS = (560, 624)
"""Those of the second set only: to be read back, to be shown."""
_MASK = 64
_BITS, _VIDEO_MEMORY = 688, 692
_HAS_VIDEO_MEMORY = 1 << 2
_END = 760


class Capset(NamedTuple):
    """A capability set: its number, its version and its contents."""

    number: int
    version: int
    contents: bytes


def told(capset: Capset, memory: int) -> Capset:
    """A set as a guest gets it: with formats of which the size is known, and ``memory`` bytes to draw with."""
    contents = bytearray(capset.contents)
    second = capset.number == VIRGL2 and len(contents) >= _END
    for at in _FORMAT_MASKS + (_MORE_MASKS if second else ()):
        contents[at : at + _MASK] = _known(contents[at : at + _MASK])
    if second:
        pack_into("<I", contents, _BITS, unpack_from("<I", contents, _BITS)[0] | _HAS_VIDEO_MEMORY)
        pack_into("<I", contents, _VIDEO_MEMORY, memory >> 20)
    return capset._replace(contents=bytes(contents))


_KNOWN = sum(1 << number for number in BLOCKS)


def _known(mask: bytes | bytearray) -> bytes:
    return (int.from_bytes(mask, "little") & _KNOWN).to_bytes(len(mask), "little")
