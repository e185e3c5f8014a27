"""Interrupts: what the device says about each kind, and arming, masking and firing them."""

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Self

from mdev_user.errors import GuestError
from mdev_user.vfio.requests import IrqAction
from mdev_user.vfio_user.messages.payload import fixed_part, wrong_size

MOST_VECTORS = 2048
"""Vectors that MSI-X can have (PCI 3.0 section 6.8.2): bounds what SET_IRQS makes us allocate."""

_IRQ_INFO = Struct("=IIII")
_SET_IRQS = Struct("=IIIII")

_DATA_NONE, _DATA_BOOL, _DATA_EVENTFD = 0x1, 0x2, 0x4
_DATA_MASK, _ACTION_MASK = 0x07, 0x38
_ACTIONS = {action.value: action for action in IrqAction}


class IrqData(IntEnum):
    """What SET_IRQS brings for each vector."""

    NONE = _DATA_NONE
    BOOL = _DATA_BOOL
    EVENTFD = _DATA_EVENTFD


@dataclass(frozen=True, slots=True)
class DeviceGetIrqInfo:
    """DEVICE_GET_IRQ_INFO, 16 bytes."""

    index: int

    def encode(self) -> bytes:
        return _IRQ_INFO.pack(_IRQ_INFO.size, 0, self.index, 0)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        _argsz, _flags, index, _count = fixed_part(_IRQ_INFO, payload)
        return cls(index)


@dataclass(frozen=True, slots=True)
class IrqInfoReply:
    """The reply to DEVICE_GET_IRQ_INFO, 16 bytes."""

    index: int
    flags: int
    count: int

    def encode(self) -> bytes:
        return _IRQ_INFO.pack(_IRQ_INFO.size, self.flags, self.index, self.count)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        _argsz, flags, index, count = fixed_part(_IRQ_INFO, payload)
        return cls(index, flags, count)


@dataclass(frozen=True, slots=True)
class DeviceSetIrqs:
    """DEVICE_SET_IRQS, 20 bytes; BOOL adds one byte per vector, EVENTFD one fd (no fd at all: take them away)."""

    index: int
    start: int
    count: int
    action: IrqAction
    data: IrqData = IrqData.NONE
    bools: tuple[bool, ...] = ()

    def encode(self) -> bytes:
        flags = self.action.value | self.data
        size = _SET_IRQS.size + len(self.bools)
        return _SET_IRQS.pack(size, flags, self.index, self.start, self.count) + bytes(self.bools)

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        if len(payload) < _SET_IRQS.size:
            raise GuestError(wrong_size(_SET_IRQS.size, payload))
        argsz, flags, index, start, count = _SET_IRQS.unpack_from(payload)
        if argsz < _SET_IRQS.size:
            raise GuestError(f"SET_IRQS argsz {argsz}: expected at least {_SET_IRQS.size}")
        action = _ACTIONS.get(flags & _ACTION_MASK)
        kind = flags & _DATA_MASK
        if action is None or kind not in IrqData.__members__.values() or flags & ~(_ACTION_MASK | _DATA_MASK):
            raise GuestError(f"SET_IRQS flags {flags:#x}: expected exactly one action and one kind of data")
        if start + count > MOST_VECTORS:
            raise GuestError(f"SET_IRQS of vectors {start} to {start + count}: no index has over {MOST_VECTORS}")
        values = payload[_SET_IRQS.size :]
        expected = count if kind == IrqData.BOOL else 0
        if len(values) != expected:
            raise GuestError(f"SET_IRQS with {len(values)} bytes of data: expected {expected}")
        return cls(index, start, count, action, IrqData(kind), tuple(value != 0 for value in values))
