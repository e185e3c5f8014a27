"""The 3D commands of virtio-gpu, as values and as bytes (virtio 1.2, sections 5.7.6.8 and 5.7.6.10)."""

from collections.abc import Mapping
from struct import Struct
from typing import Any, NamedTuple

from mdev_user.drivers.vgpu.virgl.capsets import Capset

LONGEST_NAME = 64

_CAPSET_INFO = Struct("<3I4x")


class GetCapsetInfo(NamedTuple):
    """Which capability set is the one at this place."""

    place: int


class GetCapset(NamedTuple):
    """What the renderer can do, by a set and its version."""

    capset: int
    version: int


class CreateContext(NamedTuple):
    """A program of the guest's that draws: its number is the header's."""

    name_length: int
    init: int
    """The kind of context, where VIRTIO_GPU_F_CONTEXT_INIT was negotiated."""
    name: bytes


class DestroyContext(NamedTuple):
    """That of the header has ended."""


class AttachResource(NamedTuple):
    """The header's context may use a resource."""

    resource: int


class DetachResource(NamedTuple):
    """The header's context may not use a resource any more."""

    resource: int


class Create3d(NamedTuple):
    """A resource: textures and buffers of the renderer's."""

    resource: int
    target: int
    format: int
    bind: int
    width: int
    height: int
    depth: int
    array_size: int
    last_level: int
    samples: int
    flags: int


class TransferToHost3d(NamedTuple):
    """Copy a part of a resource from its backing."""

    x: int
    y: int
    z: int
    width: int
    height: int
    depth: int
    offset: int
    resource: int
    level: int
    stride: int
    layer_stride: int


class TransferFromHost3d(NamedTuple):
    """Copy a part of a resource to its backing."""

    x: int
    y: int
    z: int
    width: int
    height: int
    depth: int
    offset: int
    resource: int
    level: int
    stride: int
    layer_stride: int


class Submit3d(NamedTuple):
    """Perform so many bytes of commands of the renderer's own, which follow, in the header's context."""

    size: int


# Any: one of the classes above, which are made of whatever numbers the form has.
FORMS: Mapping[int, tuple[Struct, type[Any]]] = {  # Any: as above
    0x0108: (Struct("<I4x"), GetCapsetInfo),
    0x0109: (Struct("<2I"), GetCapset),
    0x0200: (Struct(f"<2I{LONGEST_NAME}s"), CreateContext),
    0x0201: (Struct("<"), DestroyContext),
    0x0202: (Struct("<I4x"), AttachResource),
    0x0203: (Struct("<I4x"), DetachResource),
    0x0204: (Struct("<11I4x"), Create3d),
    0x0205: (Struct("<6IQ4I"), TransferToHost3d),
    0x0206: (Struct("<6IQ4I"), TransferFromHost3d),
    0x0207: (Struct("<I4x"), Submit3d),
}
"""What follows the header, by the command's type."""


def capset_info(capset: Capset) -> bytes:
    """The answer to GET_CAPSET_INFO, behind the header."""
    return _CAPSET_INFO.pack(capset.number, capset.version, len(capset.contents))


NO_CAPSET = _CAPSET_INFO.pack(0, 0, 0)
"""For a place that no set has."""
