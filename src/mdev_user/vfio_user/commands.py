"""The commands we know, as one table: number, request, reply, who sends it and how many fds may come along.

Commands of the specification that are not in the table (REGION_WRITE_MULTI, DEVICE_FEATURE, MIG_DATA_*,
DEVICE_GET_REGION_IO_FDS) and numbers that nobody knows are answered by the errno of `unknown`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from mdev_user.errors import GuestError, UnknownRequest
from mdev_user.vfio_user import messages as m
from mdev_user.vfio_user.framing import MOST_FDS, Command
from mdev_user.vfio_user.version import Version

Request = (
    Version
    | m.DmaMap
    | m.DmaUnmap
    | m.DeviceGetInfo
    | m.DeviceGetRegionInfo
    | m.DeviceGetIrqInfo
    | m.DeviceSetIrqs
    | m.RegionRead
    | m.RegionWrite
    | m.DmaRead
    | m.DmaWrite
    | m.DeviceReset
)
Reply = (
    Version
    | m.DmaUnmap
    | m.DeviceInfoReply
    | m.RegionInfoReply
    | m.IrqInfoReply
    | m.RegionReadReply
    | m.RegionWriteReply
    | m.DmaReadReply
    | m.DmaWriteReply
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
    Command.DMA_UNMAP: Kind(m.DmaUnmap, m.DmaUnmap.decode, m.DmaUnmap.decode),
    Command.DEVICE_GET_INFO: Kind(m.DeviceGetInfo, m.DeviceGetInfo.decode, m.DeviceInfoReply.decode),
    Command.DEVICE_GET_REGION_INFO: Kind(
        m.DeviceGetRegionInfo, m.DeviceGetRegionInfo.decode, m.RegionInfoReply.decode, reply_fds=1
    ),
    Command.DEVICE_GET_IRQ_INFO: Kind(m.DeviceGetIrqInfo, m.DeviceGetIrqInfo.decode, m.IrqInfoReply.decode),
    Command.DEVICE_SET_IRQS: Kind(m.DeviceSetIrqs, m.DeviceSetIrqs.decode, m.Done.decode, request_fds=MOST_FDS),
    Command.REGION_READ: Kind(m.RegionRead, m.RegionRead.decode, m.RegionReadReply.decode),
    Command.REGION_WRITE: Kind(m.RegionWrite, m.RegionWrite.decode, m.RegionWriteReply.decode),
    Command.DMA_READ: Kind(m.DmaRead, m.DmaRead.decode, m.DmaReadReply.decode, Role.SERVER),
    Command.DMA_WRITE: Kind(m.DmaWrite, m.DmaWrite.decode, m.DmaWriteReply.decode, Role.SERVER),
    Command.DEVICE_RESET: Kind(m.DeviceReset, m.DeviceReset.decode, m.Done.decode),
}
NUMBERS: dict[type[Request], Command] = {kind.request: Command(number) for number, kind in KINDS.items()}

_ENOTTY = {Command.DEVICE_FEATURE}


def unknown(command: int) -> GuestError:
    """What a command that is not in the table is refused with: EINVAL; for DEVICE_FEATURE ENOTTY, as VFIO has it."""
    if command in _ENOTTY:
        return UnknownRequest("the device has no features")
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
    match request, reply:
        case m.RegionRead(), m.RegionReadReply():
            return (reply.offset, reply.region, len(reply.data)) == (request.offset, request.region, request.count)
        case m.RegionWrite(), m.RegionWriteReply():
            return (reply.offset, reply.region, reply.count) == (request.offset, request.region, len(request.data))
        case m.DmaRead(), m.DmaReadReply():
            return (reply.address, len(reply.data)) == (request.address, request.count)
        case m.DmaWrite(), m.DmaWriteReply():
            return reply.count is None or (reply.address, reply.count) == (request.address, len(request.data))
        case m.DmaUnmap(), _:
            return request == reply
        case _:
            return True
