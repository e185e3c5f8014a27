"""Records: what a migration stream consists of, one behind the other, each with a checksum that knows those before it.

A stream begins with the magic of all saved states and the number of its format. A record is a head (kind, length of
its payload, CRC-32) and a payload. The CRC goes on from that of the record before, so that one that is lost, repeated
or moved is found as well as one that is damaged.
"""

from collections.abc import Iterator
from enum import IntEnum
from struct import Struct
from zlib import crc32

from mdev_user.driver.saving.snapshot import LARGEST, MAGIC
from mdev_user.errors import StateError
from mdev_user.units import KiB, MiB

FORMAT = 2
"""Of a stream; format 1 is what `Device.save` gives, as one piece."""
PREFIX = Struct("<8sH")

_HEAD = Struct("<III")
_CHECKED_HEAD = Struct("<II")


class Kind(IntEnum):
    """Of a record."""

    HEADER = 1
    """Whose state it is."""
    PAGES = 2
    """Some of its memory."""
    NOTHING = 3
    """Some of its memory was looked at, and had not changed."""
    STATE = 4
    """All but memory."""
    END = 5


_MOST = {Kind.HEADER: 64 * KiB, Kind.PAGES: MiB, Kind.NOTHING: 0, Kind.STATE: LARGEST, Kind.END: 0}
"""Bytes of a payload of each kind. They are kept until the last of them is there, and so there is an end to it."""

Record = tuple[Kind, memoryview]


class Writer:
    """Makes the records of one stream."""

    def __init__(self) -> None:
        self._crc = 0

    def begin(self) -> bytes:
        return PREFIX.pack(MAGIC, FORMAT)

    def record(self, kind: Kind, *payload: bytes | memoryview) -> bytes:
        """One whose payload is given in pieces."""
        size = sum(map(len, payload))
        self._crc = crc32(_CHECKED_HEAD.pack(kind, size), self._crc)
        for each in payload:
            self._crc = crc32(each, self._crc)
        return b"".join((_HEAD.pack(kind, size, self._crc), *payload))


class Reader:
    """Takes the records of one stream, of what follows the prefix, however it is cut into pieces."""

    def __init__(self) -> None:
        self._crc = 0
        self._part = bytearray()
        """Of a record that is not whole yet."""

    @property
    def midway(self) -> bool:
        """Whether a part of a record is there."""
        return bool(self._part)

    def feed(self, data: bytes | memoryview) -> Iterator[Record]:
        """The records that are whole now. StateError for what is none. A record is valid until the next is asked for.

        What comes in one piece is not copied.
        """
        view = memoryview(data)
        while view:
            size = _HEAD.size if self._part or len(view) < _HEAD.size else _size(view)
            if self._part or len(view) < size:
                view = self._collect(view)
                if len(self._part) < _HEAD.size or len(self._part) < _size(self._part):
                    continue
                whole, self._part = memoryview(bytes(self._part)), bytearray()
            else:
                whole, view = view[:size], view[size:]
            yield self._checked(whole)

    def _collect(self, view: memoryview) -> memoryview:
        """Take what the record still needs, its head first; what is left."""
        view = self._take(view, _HEAD.size)
        return view if len(self._part) < _HEAD.size else self._take(view, _size(self._part))

    def _take(self, view: memoryview, whole: int) -> memoryview:
        missing = max(whole - len(self._part), 0)
        self._part += view[:missing]
        return view[missing:]

    def _checked(self, record: memoryview) -> Record:
        kind, size, crc = _HEAD.unpack_from(record)
        payload = record[_HEAD.size :]
        self._crc = crc32(payload, crc32(_CHECKED_HEAD.pack(kind, size), self._crc))
        if crc != self._crc:
            raise StateError(f"migration stream: a {Kind(kind).name} record is damaged, or another one is missing here")
        return Kind(kind), payload


def _size(part: bytearray | memoryview) -> int:
    """Bytes of the record that begins here, its head included."""
    kind, size, _crc = _HEAD.unpack_from(part)
    if kind not in _MOST:
        raise StateError(f"migration stream: a record of kind {kind}: expected 1 to {len(_MOST)}: it is damaged")
    if size > _MOST[Kind(kind)]:
        raise StateError(f"migration stream: a {Kind(kind).name} record of {size} bytes: at most {_MOST[Kind(kind)]}")
    return _HEAD.size + int(size)
