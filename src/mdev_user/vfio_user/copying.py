"""Copying from one view of memory to another: a little at once, much while other threads run."""

from ctypes import addressof, c_char, c_char_p, memmove

MUCH = 256 << 10
"""Bytes. So many take about 50 us, for which other threads wait; to let them run instead costs as long as 10 KiB."""


def copy(target: memoryview, source: memoryview) -> None:
    """Copy all of one into the other, which is as long. Both are of bytes, and contiguous."""
    length = len(target)
    if length < MUCH:
        target[:] = source
    elif not (target.readonly or source.readonly):
        memmove(_address(target), _address(source), length)
    elif isinstance(source.obj, bytes) and len(source.obj) == length and not target.readonly:
        memmove(_address(target), c_char_p(source.obj), length)
    else:  # of what is read-only nobody tells the address
        for at in range(0, length, MUCH):
            target[at : at + MUCH] = source[at : at + MUCH]


def copied(source: memoryview) -> bytes:
    """A copy of it."""
    length = len(source)
    if length < MUCH or source.readonly:
        return bytes(source)
    data = bytes(length)  # which costs nothing yet: the kernel makes its pages when they are touched
    memmove(c_char_p(data), _address(source), length)  # nobody else has them
    return data


def _address(view: memoryview) -> int:
    return addressof(c_char.from_buffer(view))
