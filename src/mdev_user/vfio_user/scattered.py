"""Copying between a stretch of our memory and pieces of a guest's, which lie here and there in one mapping.

The pieces of a `ScatterList` are copied natively, where that is built: in one call, without the interpreter's lock. Any
others, and those where there is no compiler, are copied in Python: the same bytes, in the same order.
"""

from collections.abc import Callable

from mdev_user.errors import DmaFault
from mdev_user.vfio.dma import Pieces, Within
from mdev_user.vfio.scatter_list import ScatterList
from mdev_user.vfio_user import copying
from mdev_user.vfio_user.copying import copy

Copy = Callable[[memoryview, int, int, int, Pieces, memoryview], int]
"""As `python_gather` and `python_scatter`."""


def python_gather(memory: memoryview, low: int, high: int, base: int, pieces: Pieces, into: memoryview) -> int:
    """Read pieces, one behind the other, from ``memory[low:high]``, of which ``base`` is the first byte's address.

    Returns how many bytes these are; ``into`` is as long or longer. All views are of bytes. DmaFault at a piece that
    does not all lie in there, when those before it were read.
    """
    much, base, at = copying.MUCH, base - low, 0
    for address, length in pieces:
        start, behind = address - base, at + length
        end = start + length
        if not low <= start <= end <= high:
            raise outside()
        if length < much:  # as `copy`, but for a call for each page
            into[at:behind] = memory[start:end]
        else:
            copy(into[at:behind], memory[start:end])
        at = behind
    return at


def python_scatter(memory: memoryview, low: int, high: int, base: int, pieces: Pieces, data: memoryview) -> int:
    """As `python_gather`, the other way."""
    much, base, at = copying.MUCH, base - low, 0
    for address, length in pieces:
        start, behind = address - base, at + length
        end = start + length
        if not low <= start <= end <= high:
            raise outside()
        if length < much:
            memory[start:end] = data[at:behind]
        else:
            copy(memory[start:end], data[at:behind])
        at = behind
    return at


def native_copies() -> tuple[Copy, Copy, Within] | None:
    """`gather`, `scatter` and `within`, as they are where the native part is built; None where it is not."""
    try:
        from mdev_user.vfio_user import _native as native  # noqa: PLC0415 - it may be absent
    except ImportError:
        return None
    copy_in, copy_out, find = native.gather, native.scatter, native.within

    def gather(memory: memoryview, low: int, high: int, base: int, pieces: Pieces, into: memoryview) -> int:
        if not isinstance(pieces, ScatterList):
            return python_gather(memory, low, high, base, pieces, into)
        part = pieces.entries, pieces.first, pieces.skipped, pieces.size
        return _all(pieces, copy_in(memory, low, high, base, *part, into))

    def scatter(memory: memoryview, low: int, high: int, base: int, pieces: Pieces, data: memoryview) -> int:
        if not isinstance(pieces, ScatterList):
            return python_scatter(memory, low, high, base, pieces, data)
        part = pieces.entries, pieces.first, pieces.skipped, pieces.size
        return _all(pieces, copy_out(memory, low, high, base, *part, data))

    def within(pieces: ScatterList, base: int, size: int) -> int:
        return find(pieces.entries, pieces.first, pieces.skipped, pieces.size, base, size)

    return gather, scatter, within


def outside() -> DmaFault:
    return DmaFault("a DMA access outside of its mapping")


def _all(pieces: ScatterList, copied: int) -> int:
    if copied != pieces.size:
        raise outside()
    return copied


gather, scatter, within = native_copies() or (python_gather, python_scatter, ScatterList.within)
