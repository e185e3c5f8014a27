"""What a host and a process of an mdev's own say to each other, as bytes on their socket.

Towards the process a payload is a pickle. What comes from it is only looked at as what it must be: a guest may have
taken it over.
"""

import pickle  # noqa: TID251 - towards a process of ours, which believes its host
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct

from mdev_user.errors import DriverError, PeerError
from mdev_user.host.loader import source_of
from mdev_user.vfio.programs import Launch

HEADER = Struct("<III")
"""Kind, number, and bytes of payload."""
LONGEST_REASON = 4096
"""Bytes of an error's text."""


class Ask(IntEnum):
    """What the host says."""

    START = 1
    CALL = 2
    FILE = 3
    """A file of the guest's memory comes along, which has this number from now on."""
    DROP_FILE = 4
    MAP = 5
    UNMAP = 6


class Tell(IntEnum):
    """What the process says; the number is that of what it was asked."""

    STARTED = 1
    DONE = 2
    PENDING = 3
    """The call was performed; its answer comes later."""
    GUEST_ERROR = 4
    DMA_FAULT = 5
    FAILED = 6
    """An exception that is not the guest's: the process ends."""
    UNMAPPED = 7


@dataclass(frozen=True, slots=True)
class Start:
    """The first thing that a process is told, with its end of the buffer if there is one."""

    module: str
    source: bytes | None
    """Of a driver's file; None where the module is found by its name."""
    program: str
    arguments: tuple[object, ...]
    memory: int | None
    buffer: int
    nice: int


@dataclass(frozen=True, slots=True)
class Mapped:
    """Guest memory that lies in a file."""

    iova: int
    size: int
    writable: bool
    file: int
    offset: int


def message(kind: int, number: int, payload: bytes = b"") -> bytes:
    return HEADER.pack(kind, number, len(payload)) + payload


def ask(kind: Ask, number: int, value: object = None) -> bytes:
    return message(kind, number, pickle.dumps(value))


def start_message(launch: Launch) -> bytes:
    """What a process is told first. DriverError for arguments that cannot be sent to it."""
    module, program = launch.kind.__module__, launch.kind.__qualname__
    start = Start(module, source_of(module), program, launch.arguments, launch.memory, launch.buffer, launch.nice)
    try:
        return ask(Ask.START, 0, start)
    except Exception as error:  # whatever an argument's own code raises
        raise DriverError(f"{launch.name}: its arguments cannot be sent to another process: {error}") from error


class Incoming:
    """Takes a stream apart into messages."""

    def __init__(self, largest: int) -> None:
        """``largest`` payload that is taken."""
        self._largest = largest
        self._data = bytearray()

    def take(self, data: bytes | memoryview) -> Iterator[tuple[int, int, bytes]]:
        """The messages that are complete with ``data``: kind, number, payload. PeerError for one that is too large."""
        self._data += data
        while len(self._data) >= HEADER.size:
            kind, number, length = HEADER.unpack_from(self._data)
            if length > self._largest:
                raise PeerError(f"an answer of {length} bytes: expected at most {self._largest}")
            end = HEADER.size + length
            if len(self._data) < end:
                return
            payload = bytes(self._data[HEADER.size : end])
            del self._data[:end]
            yield kind, number, payload
