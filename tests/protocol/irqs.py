"""SET_IRQS by hand, the interrupts of the device under test, and how often an eventfd was signalled."""

import os
import struct

from protocol.device import TestDevice
from protocol.served import Served

NONE, BOOL, EVENTFD = 1, 2, 4
MASK, UNMASK, TRIGGER = 8, 0x10, 0x20


def irqs(served: Served) -> TestDevice:
    assert isinstance(served.ops, TestDevice)
    return served.ops


def count(fd: int) -> int:
    """How often it was signalled since last asked."""
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


def set_irqs(flags: int, index: int = 0, start: int = 0, vectors: int = 1, tail: bytes = b"", argsz: int = 20) -> bytes:
    return struct.pack("=IIIII", argsz, flags, index, start, vectors) + tail
