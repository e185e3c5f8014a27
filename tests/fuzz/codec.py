"""Target: every message of both roles, and the data of each feature, decoded from any bytes.

The first byte says which command, and whether its request or its reply.
"""

from collections.abc import Sequence
from errno import E2BIG

from fuzz.rules import ACCEPTED
from fuzz.target import Target, expect
from mdev_user.errors import GuestError
from mdev_user.vfio.requests import Area, RegionType
from mdev_user.vfio_user import messages as m
from mdev_user.vfio_user.commands import KINDS
from mdev_user.vfio_user.framing import Command
from protocol.messages import PAYLOADS

COMMANDS = sorted(KINDS)
REPLY, FEATURE = 0x80, 0x40
ERRNOS = {GuestError.errno, E2BIG}
FEATURES = (m.U64, m.DeviceState, m.DmaLogging, m.DmaReport)


def one(data: bytes) -> None:
    if not data:
        return
    command = COMMANDS[(data[0] & 0x3F) % len(COMMANDS)]
    if data[0] & FEATURE:
        _decode_feature(data[0], data[1:])
    elif data[0] & REPLY:
        _decode_reply(command, data[1:])
    else:
        _decode_request(command, data[1:])


def _decode_request(command: int, payload: bytes) -> None:
    rule = ACCEPTED.get(command)
    try:
        request = KINDS[command].decode(payload)
    except GuestError as error:
        expect(error.errno in ERRNOS or rule is None, f"errno {error.errno} of a decoder")
        expect(rule is None or not rule(payload), f"command {command} refused a valid {payload.hex()}: {error}")
        return
    expect(rule is None or rule(payload), f"command {command} accepted {payload.hex()} as {request}")
    again = KINDS[command].decode(request.encode())
    expect(again == KINDS[command].decode(again.encode()), f"{request} becomes {again}")


def _decode_reply(command: int, payload: bytes) -> None:
    try:
        reply = KINDS[command].decode_reply(payload)
    except GuestError:
        return
    again = KINDS[command].decode_reply(reply.encode())
    expect(again == KINDS[command].decode_reply(again.encode()), f"{reply} becomes {again}")


def _decode_feature(which: int, data: bytes) -> None:
    kind = FEATURES[which % len(FEATURES)]
    try:
        value = kind.decode(data)
    except GuestError as error:
        expect(error.errno in ERRNOS, f"errno {error.errno} of a decoder")
        return
    expect(kind.decode(value.encode()) == value, f"{value} changes when it is encoded")


REPLIES: dict[int, list[bytes]] = {
    Command.DEVICE_GET_INFO: [m.DeviceInfoReply(3, 9, 5).encode()],
    Command.DEVICE_GET_REGION_INFO: [
        m.RegionInfoReply(2, 7, 16384, 2 << 40, (Area(4096, 12288),)).encode(),
        m.RegionInfoReply(9, 3, 4096, 9 << 40, (), type=RegionType(1, 1)).encode(),
        m.RegionInfoReply(9, 7, 4096, 9 << 40, (Area(0, 4096), Area(8192, 4096)), type=RegionType(1, 1)).encode(),
    ],
    Command.DEVICE_GET_IRQ_INFO: [m.IrqInfoReply(0, 7, 1).encode()],
    Command.REGION_WRITE_MULTI: [m.RegionWriteMultiReply(3).encode()],
    Command.DMA_UNMAP: [m.DmaUnmapReply(0, 4096).encode(), m.DmaUnmapReply(0, 4096, 1, 4096, bytes(8)).encode()],
    Command.MIG_DATA_READ: [m.MigDataReadReply(b"abcd").encode()],
    Command.DEVICE_GET_REGION_IO_FDS: [m.RegionIoFdsReply(0).encode()],
    Command.REGION_READ: [m.RegionReadReply(0, 7, b"abcd").encode()],
    Command.REGION_WRITE: [m.RegionWriteReply(0, 0, 4).encode()],
    Command.DMA_READ: [m.DmaReadReply(0, b"abcd").encode()],
    Command.DMA_WRITE: [b"", bytes(12), m.DmaWriteReply(0, 4).encode()],
}


def seeds() -> Sequence[bytes]:
    requests = [
        bytes((COMMANDS.index(command),)) + each
        for command, payloads in PAYLOADS.items()
        if command in KINDS
        for each in payloads
    ]
    replies = [
        bytes((COMMANDS.index(command) | REPLY,)) + each
        for command in COMMANDS
        for each in REPLIES.get(command, PAYLOADS.get(command, []))
    ]
    features = [
        bytes((FEATURE,)) + m.U64(5).encode(),
        bytes((FEATURE | 1,)) + m.DeviceState(2).encode(),
        bytes((FEATURE | 2,)) + m.DmaLogging(4096, ((0, 4096), (8192, 4096))).encode(),
        bytes((FEATURE | 3,)) + m.DmaReport(0, 1 << 20, 4096).encode(),
    ]
    return requests + replies + features


TARGET = Target(
    "codec",
    "every message of both roles, from any bytes",
    one,
    seeds,
    (
        "mdev_user.vfio_user.messages.device",
        "mdev_user.vfio_user.messages.dma",
        "mdev_user.vfio_user.messages.features",
        "mdev_user.vfio_user.messages.irqs",
        "mdev_user.vfio_user.messages.migration",
        "mdev_user.vfio_user.messages.payload",
        "mdev_user.vfio_user.messages.regions",
        "mdev_user.vfio_user.commands",
        "mdev_user.vfio_user.region_capabilities",
        "mdev_user.vfio_user.framing",
    ),
)
