"""The commands of virtio-gpu, as bytes and as values (virtio 1.2, section 5.7.6)."""

from collections.abc import Iterable, Mapping
from enum import IntEnum, IntFlag
from struct import Struct
from typing import Any, NamedTuple

from mdev_user.driver import Rect

MOST_HEADS = 16
"""Scanouts of which GET_DISPLAY_INFO tells."""
LARGEST_EDID = 1024
FENCE = 1
"""A flag of a command: its answer says that its effect is there."""

_HEADER = Struct("<IIQIB3x")
_HEAD, _EDID, _ENTRY = Struct("<6I"), Struct("<I4x1024s"), Struct("<QI4x")
HEADER_SIZE, ENTRY_SIZE = _HEADER.size, _ENTRY.size


class Features(IntFlag):
    """Section 5.7.3."""

    VIRGL = 1 << 0
    EDID = 1 << 1


class Answered(IntEnum):
    """What an answer says."""

    OK_NODATA = 0x1100
    OK_DISPLAY_INFO = 0x1101
    OK_CAPSET_INFO = 0x1102
    OK_CAPSET = 0x1103
    OK_EDID = 0x1104
    ERR_UNSPEC = 0x1200
    ERR_OUT_OF_MEMORY = 0x1201
    ERR_INVALID_SCANOUT_ID = 0x1202
    ERR_INVALID_RESOURCE_ID = 0x1203
    ERR_INVALID_CONTEXT_ID = 0x1204
    ERR_INVALID_PARAMETER = 0x1205


class RefusedError(Exception):
    """A command that is answered with an error; the text is for whoever looks why."""

    def __init__(self, answer: Answered, reason: str) -> None:
        super().__init__(f"{answer.name}: {reason}")
        self.answer = answer


class Header(NamedTuple):
    """The beginning of each command and each answer."""

    type: int
    flags: int
    fence: int
    context: int
    ring: int

    def answer(self, answer: Answered) -> bytes:
        """The beginning of the answer: a fence comes back as it was given."""
        if not self.flags & FENCE:
            return _HEADER.pack(answer, 0, 0, 0, 0)
        return _HEADER.pack(answer, FENCE, self.fence, self.context, self.ring)


class GetDisplayInfo(NamedTuple):
    """Which heads there are, and where."""


class GetEdid(NamedTuple):
    """What the monitor of a head says of itself."""

    head: int


class Create2d(NamedTuple):
    """A resource: pixels of the host's."""

    resource: int
    format: int
    width: int
    height: int


class Unref(NamedTuple):
    """The end of a resource."""

    resource: int


class AttachBacking(NamedTuple):
    """The pieces of the guest's memory that a resource has; they follow the command."""

    resource: int
    pieces: int


class DetachBacking(NamedTuple):
    """A resource has no memory of the guest's any more."""

    resource: int


class SetScanout(NamedTuple):
    """Show a part of a resource on a head; resource 0: nothing."""

    x: int
    y: int
    width: int
    height: int
    head: int
    resource: int


class Flush(NamedTuple):
    """What was drawn is to be seen."""

    x: int
    y: int
    width: int
    height: int
    resource: int


class Transfer2d(NamedTuple):
    """Copy a part of a resource from the guest's memory, where its first pixel is at ``offset`` of the backing."""

    x: int
    y: int
    width: int
    height: int
    offset: int
    resource: int


class UpdateCursor(NamedTuple):
    """Show a resource as the pointer of a head, at this place; resource 0: none."""

    head: int
    x: int
    y: int
    resource: int
    hot_x: int
    hot_y: int


class MoveCursor(NamedTuple):
    """The pointer of a head is elsewhere."""

    head: int
    x: int
    y: int


# Any: one of the classes above, which are made of whatever numbers the form has.
_FORMS: Mapping[int, tuple[Struct, type[Any]]] = {  # Any: as above
    0x0100: (Struct("<"), GetDisplayInfo),
    0x0101: (Struct("<4I"), Create2d),
    0x0102: (Struct("<I4x"), Unref),
    0x0103: (Struct("<6I"), SetScanout),
    0x0104: (Struct("<5I4x"), Flush),
    0x0105: (Struct("<4IQI4x"), Transfer2d),
    0x0106: (Struct("<2I"), AttachBacking),
    0x0107: (Struct("<I4x"), DetachBacking),
    0x010A: (Struct("<I4x"), GetEdid),
    0x0300: (Struct("<Iii4xIII4x"), UpdateCursor),
    0x0301: (Struct("<Iii4x16x"), MoveCursor),
}
"""What follows the header, by the command's type."""
OF_POINTERS = frozenset({0x0300, 0x0301})
"""The types that have a queue of their own."""

LARGEST = HEADER_SIZE + max(form.size for form, _kind in _FORMS.values())
"""Bytes of a command, without what follows some."""


def header_of(data: bytes) -> Header:
    """The header that ``data``, of at least `HEADER_SIZE` bytes, begins with."""
    return Header(*_HEADER.unpack_from(data))


def command_of(header: Header, data: bytes) -> tuple[object, int]:
    """The command that ``data`` begins with, and how many bytes of it that takes. RefusedError for what is none."""
    if header.type not in _FORMS:
        raise RefusedError(Answered.ERR_UNSPEC, f"there is no command {header.type:#x}")
    form, kind = _FORMS[header.type]
    if len(data) < HEADER_SIZE + form.size:
        raise RefusedError(
            Answered.ERR_UNSPEC, f"{kind.__name__} of {len(data)} bytes: expected {HEADER_SIZE + form.size}"
        )
    return kind(*form.unpack_from(data, HEADER_SIZE)), HEADER_SIZE + form.size


def display_info(heads: Iterable[Rect]) -> bytes:
    """The heads that have a monitor, in their order."""
    shown = [_HEAD.pack(each.x, each.y, each.width, each.height, 1, 0) for each in heads]
    return b"".join(shown).ljust(MOST_HEADS * _HEAD.size, b"\x00")


def edid_info(edid: bytes) -> bytes:
    return _EDID.pack(len(edid), edid)


def entries_of(data: bytes) -> list[tuple[int, int]]:
    """The address and the length of each piece of a backing."""
    return list(_ENTRY.iter_unpack(data))
