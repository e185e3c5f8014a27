"""DEVICE_GET_REGION_INFO by hand: asking, and what an answer says."""

import struct

from mdev_user.vfio_user.framing import Command
from protocol.served import Answer, Wire

INFO = struct.Struct("=IIIIQQ")
FIELDS = ("argsz", "flags", "index", "cap", "size", "offset")


def ask_region(wire: Wire, index: int, argsz: int = 32, tail: bytes = b"") -> Answer:
    return wire.ask(Command.DEVICE_GET_REGION_INFO, INFO.pack(argsz, 0, index, 0, 0, 0) + tail)


def fields(answer: Answer) -> dict[str, int]:
    assert not answer.errno
    return dict(zip(FIELDS, INFO.unpack_from(answer.payload), strict=True))
