"""Trapped accesses, which the server answers to the program that made them. An extension of ours.

A program under `run` makes a system call, seccomp stops it and tells the supervisor, which is the client here. Instead
of waiting for a reply to hand on, the client says which call it is: the server stores what was read in the program's
memory and ends the call, so the program goes on one process switch earlier.
"""

from dataclasses import dataclass
from struct import Struct
from typing import Self

from mdev_user.errors import GuestError
from mdev_user.vfio_user.messages.payload import check_access, wrong_size

TRAPPED = Struct("=QII8sQQ")
"""offset, region, count, data of a write, the call's id, where in the program's memory: 40 bytes."""
_MOST = 8
"""Bytes of an access; longer ones are asked for and replied to."""


@dataclass(frozen=True, slots=True)
class SetTraps:
    """SET_TRAPS: no payload, and two file descriptors, a seccomp listener and a /proc/PID/mem that is open to write.

    They hold for the trapped accesses behind it, until the next SET_TRAPS.
    """

    def encode(self) -> bytes:
        return b""

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        if payload:
            raise GuestError(wrong_size(0, payload))
        return cls()


@dataclass(frozen=True, slots=True)
class TrappedRead:
    """TRAPPED_READ, 40 bytes: ``count`` bytes (1 to 8) at ``offset`` of ``region`` to the caller's ``address``."""

    offset: int
    region: int
    count: int
    call: int
    address: int

    def encode(self) -> bytes:
        return TRAPPED.pack(self.offset, self.region, self.count, bytes(_MOST), self.call, self.address)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        offset, region, count, _data, call, address = _unpack(payload)
        return cls(offset, region, count, call, address)


@dataclass(frozen=True, slots=True)
class TrappedWrite:
    """TRAPPED_WRITE, 40 bytes: 1 to 8 bytes of data."""

    offset: int
    region: int
    data: bytes
    call: int

    def encode(self) -> bytes:
        return TRAPPED.pack(self.offset, self.region, len(self.data), self.data, self.call, 0)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        offset, region, count, data, call, _address = _unpack(payload)
        return cls(offset, region, data[:count], call)


def _unpack(payload: bytes) -> tuple[int, int, int, bytes, int, int]:
    if len(payload) != TRAPPED.size:
        raise GuestError(wrong_size(TRAPPED.size, payload))
    offset, region, count, data, call, address = TRAPPED.unpack(payload)
    check_access(offset, count)
    if count > _MOST:
        raise GuestError(f"a trapped access of {count} bytes: expected 1 to {_MOST}")
    return offset, region, count, data, call, address
