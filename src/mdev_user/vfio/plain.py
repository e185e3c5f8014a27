"""Plain registers: an access to one moves bits to or from its value and does nothing else.

Whoever serves the user may answer such an access itself, by a table, without asking the device (`PlainTable`). The
device says which registers are plain, and takes the table's rows away while accesses must be seen or refused.
"""

from collections.abc import Iterable, MutableSequence
from typing import NamedTuple, Protocol


class PlainRead(NamedTuple):
    """A read of ``size`` bytes (1, 2, 4 or 8) gives ``values[number] >> shift & mask``, the lowest byte first."""

    region: int
    offset: int
    size: int
    values: MutableSequence[int]
    number: int
    shift: int
    mask: int


class PlainWrite(NamedTuple):
    """A write is shifted; then ``keep`` stays, ``store`` is stored, a 1 in ``clear`` clears, a 1 in ``put`` sets."""

    region: int
    offset: int
    size: int
    values: MutableSequence[int]
    number: int
    shift: int
    keep: int
    store: int
    clear: int
    put: int


class PlainTable(Protocol):
    """Where a server looks an access up, under the device's step lock, before it asks the device.

    One belongs to one device. ``fill`` and ``clear`` are called under the step lock too, so no access is half old.
    """

    @property
    def reads(self) -> int:
        """Answered from the table, ever."""

    @property
    def writes(self) -> int: ...

    def fill(self, reads: Iterable[PlainRead], writes: Iterable[PlainWrite]) -> None:
        """Have these rows and no others."""

    def clear(self) -> None: ...


class NoTable:
    """Of a device whose accesses all reach its operations."""

    reads = writes = 0

    def fill(self, reads: Iterable[PlainRead], writes: Iterable[PlainWrite]) -> None: ...

    def clear(self) -> None: ...
