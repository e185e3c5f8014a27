"""Valid messages of every command that a client sends, and ways to spoil them."""

import random
import struct

from mdev_user.vfio_user.commands import Role
from mdev_user.vfio_user.connection import Connection
from mdev_user.vfio_user.framing import HEADER, Command, command_message

PAYLOADS: dict[int, list[bytes]] = {
    Command.VERSION: [struct.pack("=HH", 0, 0) + b"{}\0"],
    Command.DMA_MAP: [
        struct.pack("=IIQQQ", 32, 3, 0, iova << 12, size << 12) for iova, size in ((0, 1), (1, 16), (256, 4))
    ],
    Command.DMA_UNMAP: [
        *(struct.pack("=IIQQ", 24, 0, iova << 12, size << 12) for iova, size in ((0, 1), (1, 16))),
        struct.pack("=IIQQ", 24, 2, 0, 0),
        struct.pack("=IIQQQQ", 48, 1, 0, 1 << 12, 1 << 12, 8),
    ],
    Command.DEVICE_GET_INFO: [struct.pack("=IIII", 16, 0, 0, 0)],
    Command.DEVICE_GET_REGION_INFO: [
        struct.pack("=IIIIQQ", argsz, 0, index, 0, 0, 0) for argsz in (32, 64) for index in (0, 2, 4, 7)
    ],
    Command.DEVICE_GET_REGION_IO_FDS: [struct.pack("=IIII", 16, 0, 0, 0)],
    Command.DEVICE_GET_IRQ_INFO: [struct.pack("=IIII", 16, 0, index, 0) for index in range(5)],
    Command.DEVICE_SET_IRQS: [
        struct.pack("=IIIII", 20, flags, index, 0, count) + bytes(count if flags & 2 else 0)
        for flags, index, count in ((0x24, 0, 1), (0x24, 2, 4), (0x24, 2, 0), (0x21, 2, 0), (0x22, 2, 3), (0x11, 0, 1))
    ],
    Command.REGION_READ: [struct.pack("=QII", 16, region, 4) for region in (0, 2, 7)],
    Command.REGION_WRITE: [struct.pack("=QII", 16, region, 4) + b"abcd" for region in (0, 2, 4)],
    Command.DMA_READ: [struct.pack("=QQ", 0, 4)],
    Command.DMA_WRITE: [struct.pack("=QQ", 0, 4) + b"abcd"],
    Command.DEVICE_RESET: [b""],
    Command.DIRTY_PAGES: [bytes(16)],
    Command.REGION_WRITE_MULTI: [
        struct.pack("=QQII8s", 1, 0, 0, 4, b"abcd"),
        struct.pack("=QQII8sQII8s", 2, 8, 0, 8, b"abcdefgh", 0, 2, 1, b"x"),
    ],
    Command.DEVICE_FEATURE: [
        *(struct.pack("=II", 64, 0x10000 | feature) for feature in (1, 2, 9)),
        *(struct.pack("=IIIi", 16, 0x20002, state, -1) for state in (1, 2, 2, 2, 3, 4, 5, 6, 7)),
        struct.pack("=IIQIIQQ", 40, 0x20006, 1 << 12, 1, 0, 0, 1 << 20),
        struct.pack("=II", 8, 0x20007),
        struct.pack("=IIQQQ", 64, 0x10008, 0, 1 << 16, 1 << 12),
        struct.pack("=II", 8, 0x70002),
    ],
    Command.MIG_DATA_READ: [struct.pack("=II", 8 + size, size) for size in (64, 8192)],
    Command.MIG_DATA_WRITE: [struct.pack("=II", 8, 0), struct.pack("=II4sI", 16, 8, b"TEST", 4096)],
}
COMMANDS = sorted(PAYLOADS)
VALID_READ = command_message(0x5A5A, Command.REGION_READ, struct.pack("=QII", 0x10, 7, 4))


def hello() -> bytes:
    return Connection(Role.CLIENT).hello()


def any_message(chance: random.Random) -> bytes:
    """A valid frame: a good message, or one whose command, flags, errno or payload is spoilt."""
    command = chance.choice(COMMANDS)
    payload = chance.choice(PAYLOADS[command])
    match chance.randrange(8):
        case 0:
            payload = payload[: chance.randrange(len(payload) + 1)]
        case 1:
            payload += chance.randbytes(chance.choice([1, 8, 64, 2000]))
        case 2 | 3 if payload:
            spoilt = bytearray(payload)
            for _ in range(chance.choice([1, 1, 4])):
                spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
            payload = bytes(spoilt)
        case 4:
            command = chance.randrange(1 << 16)
        case _:
            pass
    flags = chance.choice([0, 0, 0, 0, 0, 0, 0x10, chance.randrange(1 << 32) & ~0xF])
    return HEADER.pack(chance.randrange(1 << 16), command, HEADER.size + len(payload), flags, 0) + payload


def broken_frame(chance: random.Random) -> bytes:
    """What ends a connection: a wrong size, or a reply to nothing."""
    size, flags = chance.choice([(chance.randrange(16), 0), (chance.randrange(1 << 21, 1 << 32), 0), (16, 1)])
    return HEADER.pack(1, chance.choice(COMMANDS), size, flags, 0)
