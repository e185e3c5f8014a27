"""The frame of a vfio-user message: its 16-byte header, command numbers, and the sizes that we take.

Source: QEMU's ``docs/interop/vfio-user.rst``. Integers are in host byte order.
"""

from enum import IntEnum
from struct import Struct
from typing import NamedTuple, Self

from mdev_user.units import MiB

HEADER = Struct("=HHIII")
COMMAND, REPLY = 0x0, 0x1
TYPE_MASK = 0xF
NO_REPLY = 0x10
ERROR = 0x20
KNOWN_FLAGS = TYPE_MASK | NO_REPLY | ERROR

LARGEST_DATA = MiB
"""Bytes of data that we take in one message (max_data_xfer_size)."""
LARGEST_MESSAGE = HEADER.size + 40 + LARGEST_DATA
"""The most before data of that size has DMA_UNMAP: its 24 bytes and 16 of its bitmap."""
MOST_FDS = 16
"""File descriptors that we take with one message (max_msg_fds); QEMU refuses a server that says more."""


class Command(IntEnum):
    """Command numbers of the specification; `commands` has what each is. 14 is gone from it.

    Those from 0x8000 on are ours.
    """

    VERSION = 1
    DMA_MAP = 2
    DMA_UNMAP = 3
    DEVICE_GET_INFO = 4
    DEVICE_GET_REGION_INFO = 5
    DEVICE_GET_REGION_IO_FDS = 6
    DEVICE_GET_IRQ_INFO = 7
    DEVICE_SET_IRQS = 8
    REGION_READ = 9
    REGION_WRITE = 10
    DMA_READ = 11
    DMA_WRITE = 12
    DEVICE_RESET = 13
    DIRTY_PAGES = 14
    REGION_WRITE_MULTI = 15
    DEVICE_FEATURE = 16
    MIG_DATA_READ = 17
    MIG_DATA_WRITE = 18
    SET_TRAPS = 0x8000
    TRAPPED_READ = 0x8001
    TRAPPED_WRITE = 0x8002


class Header(NamedTuple):
    """The 16 bytes before every payload; ``size`` counts them too."""

    id: int
    command: int
    size: int
    flags: int
    errno: int

    @property
    def kind(self) -> int:
        return self.flags & TYPE_MASK

    @property
    def no_reply(self) -> bool:
        return self.flags & NO_REPLY != 0

    @property
    def failed(self) -> bool:
        return self.flags & ERROR != 0

    @classmethod
    def decode(cls, data: bytes | bytearray) -> Self:
        return cls._make(HEADER.unpack_from(data))


def command_message(identity: int, command: int, payload: bytes = b"", flags: int = COMMAND) -> bytes:
    return HEADER.pack(identity, command, HEADER.size + len(payload), flags, 0) + payload


def reply_message(identity: int, command: int, payload: bytes = b"") -> bytes:
    return HEADER.pack(identity, command, HEADER.size + len(payload), REPLY, 0) + payload


def error_message(identity: int, command: int, errno: int) -> bytes:
    """An error reply is its header alone."""
    return HEADER.pack(identity, command, HEADER.size, REPLY | ERROR, errno)
