"""MIG_DATA_READ and MIG_DATA_WRITE: the state of a device, piece by piece, on its way out and in."""

from dataclasses import dataclass
from struct import Struct
from typing import Self

from mdev_user.errors import GuestError
from mdev_user.vfio_user.framing import LARGEST_DATA
from mdev_user.vfio_user.messages.payload import fixed_part, wrong_size

_MIG_DATA = Struct("=II")


@dataclass(frozen=True, slots=True)
class MigDataRead:
    """MIG_DATA_READ, 8 bytes: at most ``size`` bytes of the device's state (0 to 1 MiB)."""

    size: int

    def encode(self) -> bytes:
        return _MIG_DATA.pack(_MIG_DATA.size + self.size, self.size)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        argsz, size = fixed_part(_MIG_DATA, payload)
        if size > LARGEST_DATA:
            raise GuestError(f"MIG_DATA_READ of {size} bytes: expected at most {LARGEST_DATA}")
        if argsz < _MIG_DATA.size + size:
            raise GuestError(f"MIG_DATA_READ of {size} bytes, argsz {argsz}: expected {_MIG_DATA.size + size}")
        return cls(size)


@dataclass(frozen=True, slots=True)
class MigDataReadReply:
    """The reply to MIG_DATA_READ: 8 bytes and the data. Less than was asked for means that there is no more."""

    data: bytes

    def encode(self) -> bytes:
        return _MIG_DATA.pack(_MIG_DATA.size + len(self.data), len(self.data)) + self.data

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """libvfio-user's message is as long as what was asked for, whatever its ``size`` says."""
        return cls(_data(payload)[0])


@dataclass(frozen=True, slots=True)
class MigDataWrite:
    """MIG_DATA_WRITE: 8 bytes and the data (0 to 1 MiB).

    Its argsz is nobody's: by the specification the size of a reply that has no payload, in libvfio-user that of the
    request.
    """

    data: bytes

    def encode(self) -> bytes:
        return _MIG_DATA.pack(_MIG_DATA.size + len(self.data), len(self.data)) + self.data

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        data, rest = _data(payload)
        if rest or len(data) > LARGEST_DATA:
            raise GuestError(f"MIG_DATA_WRITE of {len(data)} bytes and {rest} more: expected at most {LARGEST_DATA}")
        return cls(data)


def _data(payload: bytes) -> tuple[bytes, int]:
    """The data, and how many bytes follow it."""
    if len(payload) < _MIG_DATA.size:
        raise GuestError(wrong_size(_MIG_DATA.size, payload))
    _argsz, size = _MIG_DATA.unpack_from(payload)
    end = _MIG_DATA.size + size
    if len(payload) < end:
        raise GuestError(wrong_size(end, payload))
    return payload[_MIG_DATA.size : end], len(payload) - end
