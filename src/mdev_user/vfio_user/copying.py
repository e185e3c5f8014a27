"""Copying from one view of memory to another: a little at once, much while other threads run."""

from ctypes import addressof, c_char, memmove

MUCH = 256 << 10
"""Bytes. So many take about 50 us, for which other threads wait; to let them run instead costs as long as 10 KiB."""


def copy(target: memoryview, source: memoryview) -> None:
    """Copy all of one into the other, which is as long. Both are of bytes, and contiguous."""
    length = len(target)
    if length < MUCH:
        target[:] = source
    elif target.readonly or source.readonly:  # of such nobody tells the address
        for at in range(0, length, MUCH):
            target[at : at + MUCH] = source[at : at + MUCH]
    else:
        memmove(addressof(c_char.from_buffer(target)), addressof(c_char.from_buffer(source)), length)
