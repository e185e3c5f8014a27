"""The commands of the specification, as one table: number, request, reply, who asks and how many fds come along.

Numbers that are not in it are answered by EINVAL (`unknown`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from mdev_user.errors import GuestError
from mdev_user.vfio_user import messages as m
from mdev_user.vfio_user.framing import MOST_FDS, Command
from mdev_user.vfio_user.version import Version

Request = (
    Version
    | m.DmaMap
    | m.DmaUnmap
    | m.DeviceGetInfo
    | m.DeviceGetRegionInfo
    | m.DeviceGetRegionIoFds
    | m.DeviceGetIrqInfo
    | m.DeviceSetIrqs
    | m.RegionRead
    | m.RegionWrite
    | m.DmaRead
    | m.DmaWrite
    | m.DeviceReset
    | m.RegionWriteMulti
    | m.DeviceFeature
    | m.MigDataRead
    | m.MigDataWrite
    | m.SetTraps
    | m.TrappedRead
    | m.TrappedWrite
)
Reply = (
    Version
    | m.DmaUnmapReply
    | m.DeviceInfoReply
    | m.RegionInfoReply
    | m.RegionIoFdsReply
    | m.IrqInfoReply
    | m.RegionReadReply
    | m.RegionWriteReply
    | m.DmaReadReply
    | m.DmaWriteReply
    | m.RegionWriteMultiReply
    | m.DeviceFeature
    | m.MigDataReadReply
    | m.Done
)


class Role(Enum):
    """A side of the connection: the client is the VMM, the server has the device."""

    CLIENT = "client"
    SERVER = "server"


@dataclass(frozen=True, slots=True)
class Kind:
    """One command. ``asks`` is the side that sends it; fds are counted per message."""

    request: type[Request]
    decode: Callable[[bytes], Request]
    decode_reply: Callable[[bytes], Reply]
    asks: Role = Role.CLIENT
    request_fds: int = 0
    reply_fds: int = 0


KINDS: dict[int, Kind] = {
    Command.VERSION: Kind(Version, Version.decode, Version.decode),
    Command.DMA_MAP: Kind(m.DmaMap, m.DmaMap.decode, m.Done.decode, request_fds=1),
    Command.DMA_UNMAP: Kind(m.DmaUnmap, m.DmaUnmap.decode, m.DmaUnmapReply.decode),
    Command.DEVICE_GET_INFO: Kind(m.DeviceGetInfo, m.DeviceGetInfo.decode, m.DeviceInfoReply.decode),
    Command.DEVICE_GET_REGION_INFO: Kind(
        m.DeviceGetRegionInfo, m.DeviceGetRegionInfo.decode, m.RegionInfoReply.decode, reply_fds=1
    ),
    Command.DEVICE_GET_REGION_IO_FDS: Kind(
        m.DeviceGetRegionIoFds, m.DeviceGetRegionIoFds.decode, m.RegionIoFdsReply.decode, reply_fds=MOST_FDS
    ),
    Command.DEVICE_GET_IRQ_INFO: Kind(m.DeviceGetIrqInfo, m.DeviceGetIrqInfo.decode, m.IrqInfoReply.decode),
    Command.DEVICE_SET_IRQS: Kind(m.DeviceSetIrqs, m.DeviceSetIrqs.decode, m.Done.decode, request_fds=MOST_FDS),
    Command.REGION_READ: Kind(m.RegionRead, m.RegionRead.decode, m.RegionReadReply.decode),
    Command.REGION_WRITE: Kind(m.RegionWrite, m.RegionWrite.decode, m.RegionWriteReply.decode),
    Command.DMA_READ: Kind(m.DmaRead, m.DmaRead.decode, m.DmaReadReply.decode, Role.SERVER),
    Command.DMA_WRITE: Kind(m.DmaWrite, m.DmaWrite.decode, m.DmaWriteReply.decode, Role.SERVER),
    Command.DEVICE_RESET: Kind(m.DeviceReset, m.DeviceReset.decode, m.Done.decode),
    Command.REGION_WRITE_MULTI: Kind(m.RegionWriteMulti, m.RegionWriteMulti.decode, m.RegionWriteMultiReply.decode),
    Command.DEVICE_FEATURE: Kind(m.DeviceFeature, m.DeviceFeature.decode, m.DeviceFeature.decode),
    Command.MIG_DATA_READ: Kind(m.MigDataRead, m.MigDataRead.decode, m.MigDataReadReply.decode),
    Command.MIG_DATA_WRITE: Kind(m.MigDataWrite, m.MigDataWrite.decode, m.Done.decode),
    Command.SET_TRAPS: Kind(m.SetTraps, m.SetTraps.decode, m.Done.decode, request_fds=2),
    Command.TRAPPED_READ: Kind(m.TrappedRead, m.TrappedRead.decode, m.Done.decode),
    Command.TRAPPED_WRITE: Kind(m.TrappedWrite, m.TrappedWrite.decode, m.Done.decode),
}
NUMBERS: dict[type[Request], Command] = {kind.request: Command(number) for number, kind in KINDS.items()}


def unknown(command: int) -> GuestError:
    """What a command that is not in the table, or is not the asker's to send, is refused with: EINVAL."""
    name = Command(command).name if command in Command.__members__.values() else "unknown"
    return GuestError(f"command {command} ({name}) is not supported")


def decode_reply(request: Request, payload: bytes) -> Reply:
    """The reply to ``request``. GuestError when it is malformed or answers something else."""
    reply = KINDS[NUMBERS[type(request)]].decode_reply(payload)
    if not _belongs(request, reply):
        raise GuestError(f"the reply does not belong to its {NUMBERS[type(request)].name}")
    return reply


def _belongs(request: Request, reply: Reply) -> bool:
    """Whether a reply repeats of its request what it has to; the others only have the id."""
    repeats = _REPEATS.get(type(request))
    return repeats is None or repeats(request, reply)


def _unmap_repeats(request: m.DmaUnmap, reply: m.DmaUnmapReply) -> bool:
    asked = (request.iova, request.size, request.flags, request.page_size, request.bitmap_size)
    return asked == (reply.iova, reply.size, reply.flags, reply.page_size, len(reply.bitmap))


def _dma_write_repeats(request: m.DmaWrite, reply: m.DmaWriteReply) -> bool:
    return reply.count is None or (reply.address, reply.count) == (request.address, len(request.data))


# Any: the key says which request and, by KINDS, which reply a row compares; a dictionary's type cannot say that.
_REPEATS: dict[type[Request], Callable[[Any, Any], bool]] = {
    m.RegionRead: lambda ask, reply: (
        (reply.offset, reply.region, len(reply.data)) == (ask.offset, ask.region, ask.count)
    ),
    m.RegionWrite: lambda ask, reply: (
        (reply.offset, reply.region, reply.count) == (ask.offset, ask.region, len(ask.data))
    ),
    m.RegionWriteMulti: lambda ask, reply: reply.completed <= len(ask.writes),
    m.DmaRead: lambda ask, reply: (reply.address, len(reply.data)) == (ask.address, ask.count),
    m.DmaWrite: _dma_write_repeats,
    m.DmaUnmap: _unmap_repeats,
    m.DeviceFeature: lambda ask, reply: (reply.feature, reply.ops) == (ask.feature, ask.ops),
    m.MigDataRead: lambda ask, reply: len(reply.data) <= ask.size,
}
