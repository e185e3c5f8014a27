"""The device as a whole: what it is, and its reset."""

from dataclasses import dataclass
from struct import Struct
from typing import Self

from mdev_user.errors import GuestError
from mdev_user.vfio_user.messages.payload import fixed_part, wrong_size

_DEVICE_INFO = Struct("=IIII")


@dataclass(frozen=True, slots=True)
class DeviceGetInfo:
    """DEVICE_GET_INFO, 16 bytes of which only argsz is read."""

    def encode(self) -> bytes:
        return _DEVICE_INFO.pack(_DEVICE_INFO.size, 0, 0, 0)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        fixed_part(_DEVICE_INFO, payload)
        return cls()


@dataclass(frozen=True, slots=True)
class DeviceInfoReply:
    """The reply to DEVICE_GET_INFO, 16 bytes."""

    flags: int
    num_regions: int
    num_irqs: int

    def encode(self) -> bytes:
        return _DEVICE_INFO.pack(_DEVICE_INFO.size, self.flags, self.num_regions, self.num_irqs)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        _argsz, flags, num_regions, num_irqs = fixed_part(_DEVICE_INFO, payload)
        return cls(flags, num_regions, num_irqs)


@dataclass(frozen=True, slots=True)
class DeviceReset:
    """DEVICE_RESET, no payload."""

    def encode(self) -> bytes:
        return b""

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        if payload:
            raise GuestError(wrong_size(0, payload))
        return cls()


@dataclass(frozen=True, slots=True)
class Done:
    """The reply to DMA_MAP, SET_IRQS and RESET: nothing but its header."""

    def encode(self) -> bytes:
        return b""

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        if payload:
            raise GuestError(wrong_size(0, payload))
        return cls()
