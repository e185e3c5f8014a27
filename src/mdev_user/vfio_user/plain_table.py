"""The table of a device's plain registers as the loop in Python uses it: each reply is there but for id and value."""

import sys
from collections.abc import Callable, Iterable, MutableSequence
from struct import Struct
from typing import TypeAlias

from mdev_user.vfio.plain import PlainRead, PlainWrite
from mdev_user.vfio_user.framing import HEADER, REPLY, Command
from mdev_user.vfio_user.messages import ACCESS

_BEHIND_ID = Struct("=HIII")
"""Of a header: command, size, flags, errno."""
_TO_ACCESS = HEADER.size + ACCESS.size
_NUMBERS = {1: "B", 2: "H", 4: "I", 8: "Q"}
_WITH_VALUE = {size: Struct(f"=H{_TO_ACCESS - 2}s{letter}").pack for size, letter in _NUMBERS.items()}

_VALUE_OF = {size: Struct(f"<{_TO_ACCESS}x{letter}").unpack_from for size, letter in _NUMBERS.items()}

Place: TypeAlias = bytes
"""What an access is to: `ACCESS`, as in its message."""

ReadRow: TypeAlias = tuple[MutableSequence[int], int, int, Callable[[int, bytes, int], bytes], bytes]
"""Values, index, mask; what packs the reply of its id, of all that follows but the value, and of the value."""

WriteRow: TypeAlias = tuple[
    int, Callable[[bytearray], tuple[int]], MutableSequence[int], int, tuple[int, int, int, int] | None, bytes
]
"""Bytes of the request; what unpacks its value; values, index; keep, store, clear and put; the reply but its id.

None where the value is what was written.
"""


class PlainTable:
    """Rows by place. The dictionaries stay, and change under the step lock only."""

    __slots__ = ("read_rows", "reads", "write_rows", "writes")

    def __init__(self) -> None:
        self.reads = 0
        self.writes = 0
        self.read_rows: dict[Place, ReadRow] = {}
        self.write_rows: dict[Place, WriteRow] = {}

    def fill(self, reads: Iterable[PlainRead], writes: Iterable[PlainWrite]) -> None:
        self.clear()
        if sys.byteorder == "little":  # headers have the host's byte order, data has not
            # Halves of a register are left to the device: shifting would cost all others more than it gains those.
            self.read_rows.update(_read_row(each) for each in reads if not each.shift)
            self.write_rows.update(_write_row(each) for each in writes if not each.shift)

    def clear(self) -> None:
        self.read_rows.clear()
        self.write_rows.clear()


def _read_row(row: PlainRead) -> tuple[Place, ReadRow]:
    place = ACCESS.pack(row.offset, row.region, row.size)
    reply = _BEHIND_ID.pack(Command.REGION_READ, _TO_ACCESS + row.size, REPLY, 0) + place
    return place, (row.values, row.number, row.mask, _WITH_VALUE[row.size], reply)


def _write_row(row: PlainWrite) -> tuple[Place, WriteRow]:
    place = ACCESS.pack(row.offset, row.region, row.size)
    reply = _BEHIND_ID.pack(Command.REGION_WRITE, _TO_ACCESS, REPLY, 0) + place
    is_value = row.store == (1 << 8 * row.size) - 1 and not (row.keep & row.store or row.clear or row.put)
    combine = None if is_value else (row.keep, row.store, row.clear, row.put)
    return place, (_TO_ACCESS + row.size, _VALUE_OF[row.size], row.values, row.number, combine, reply)
