"""The grammar of what a client sends: valid, almost valid and wild messages, by `Choices` and what the peer knows."""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from fuzz.choices import Choices
from fuzz.fds import SHARED, FdKind
from fuzz.peer import PAGE, SPACE, Known
from fuzz.target import expect
from mdev_user.vfio_user.framing import COMMAND, ERROR, HEADER, NO_REPLY, REPLY, Command

_GOOD_MEMORY = (None, FdKind.MEMORY, FdKind.LOOSE, FdKind.HUGE)
_SIZES = (1, 2, 4, 8, 3, 16, 64, 4096, 1 << 20, (1 << 20) + 1, 0, 0xFFFF_FFFF)
_NUMBERS = (0, 1, 2, 3, 4095, 4096, 1 << 20, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 63, (1 << 64) - 4096, (1 << 64) - 1)
GET, SET, PROBE = 1 << 16, 1 << 17, 1 << 18


@dataclass(frozen=True)
class Message:
    """One message as it goes over the wire."""

    command: int
    payload: bytes
    fds: tuple[FdKind, ...] = ()
    flags: int = COMMAND
    identity: int = 0
    errnos: set[int] | None = None
    """What the reply may say, where the model knows."""
    done: Callable[[bytes], None] = field(default=lambda _payload: None)

    @property
    def wants_reply(self) -> bool:
        return not self.flags & NO_REPLY and self.flags & 0xF != REPLY

    def encode(self) -> bytes:
        return HEADER.pack(self.identity, self.command, HEADER.size + len(self.payload), self.flags, 0) + self.payload


def number(choices: Choices) -> int:
    """One at which code decides, or any, of 64 bits."""
    kind = choices.byte()
    return choices.number(8) if kind % 8 == 7 else _NUMBERS[kind // 8 % len(_NUMBERS)]


def pages(choices: Choices) -> int:
    """An address of a few pages, or any."""
    kind = choices.byte()
    return number(choices) if kind >= 224 else kind % 16 * PAGE


def length(choices: Choices) -> int:
    """Some pages, or any."""
    kind = choices.byte()
    return number(choices) if kind >= 224 else (kind % 16 + 1) * PAGE


# --- one function for each command ---------------------------------------------------------------------------


def dma_map(choices: Choices, known: Known) -> Message:
    iova, size, offset = pages(choices), length(choices), choices.one_of((0, PAGE, SHARED, 1 << 62, 100))
    flags, fd = choices.one_of((3, 3, 3, 1, 2, 0, 4)), choices.one_of((*_GOOD_MEMORY, *FdKind))
    payload = struct.pack("=IIQQQ", 32, flags, offset & SPACE - 1, iova, size)
    errnos = None
    if flags in {1, 2, 3} and (fd is None or (fd in _GOOD_MEMORY and size > 0 and offset + size < 1 << 63)):
        errnos = known.map_errnos(iova, size)
    return Message(Command.DMA_MAP, payload, () if fd is None else (fd,), errnos=errnos)


def dma_unmap(choices: Choices, known: Known) -> Message:
    iova, size = choices.one_of([*known.maps, (0, 4 * PAGE)])
    match choices.below(6):
        case 1:
            iova, size = pages(choices), length(choices)
        case 2:
            size += PAGE
        case 3:
            iova, size = choices.one_of(((0, 1 << 63), (1 << 63, 1 << 63), (0, SPACE - PAGE)))
        case _:
            pass
    payload = struct.pack("=IIQQ", 24, 0, iova, size)
    return Message(Command.DMA_UNMAP, payload, errnos=known.unmap_errnos(iova, size))


def dma_unmap_special(choices: Choices, known: Known) -> Message:
    """With flags: the dirty bitmap, or everything there is."""
    flags = choices.one_of((2, 1, 3, 4, 1 << 31))
    iova, size = (0, 0) if flags == 2 else choices.one_of([*known.maps, (0, PAGE)])
    payload = struct.pack("=IIQQ", choices.one_of((48, 40, 24, 64)), flags, iova, size)
    payload += choices.one_of(
        (
            struct.pack("=QQ", PAGE, 8),
            b"",
            struct.pack("=QQ", PAGE, 0),
            struct.pack("=QQ", number(choices), number(choices)),
        )
    )
    return Message(Command.DMA_UNMAP, payload)


def get_info(choices: Choices, _known: Known) -> Message:
    argsz = choices.one_of((16, 16, 15, 0, 4096))
    return Message(Command.DEVICE_GET_INFO, struct.pack("=IIII", argsz, 0, 0, 0), errnos={0} if argsz >= 16 else {22})


def get_region_info(choices: Choices, _known: Known) -> Message:
    index = choices.byte() if choices.byte() % 8 else number(choices) & 0xFFFF_FFFF
    argsz = choices.one_of((32, 64, 48, 4096, 31, 0))
    return Message(Command.DEVICE_GET_REGION_INFO, struct.pack("=IIIIQQ", argsz, 0, index, 0, 0, 0))


def get_irq_info(choices: Choices, _known: Known) -> Message:
    index = choices.below(7)
    payload = struct.pack("=IIII", 16, 0, index, 0)
    return Message(Command.DEVICE_GET_IRQ_INFO, payload, errnos={0} if index < 5 else {22})


def set_irqs(choices: Choices, _known: Known) -> Message:
    index, start, count = choices.below(6), choices.one_of((0, 0, 0, 1, 5)), choices.one_of((1, 1, 0, 2, 6, 8, 2048))
    kind, action = choices.one_of((4, 4, 1, 2, 0, 7)), choices.one_of((0x20, 0x20, 0x10, 8, 0, 0x30))
    data = bytes(choices.byte() & 1 for _ in range(min(count, 16))).ljust(count, b"\1") if kind == 2 else b""
    payload = struct.pack("=IIIII", 20 + len(data), kind | action, index, start, count) + data
    fds: tuple[FdKind, ...] = (FdKind.EVENTFD,) * count if kind == 4 and count <= 16 and not choices.one_in(4) else ()
    if fds and choices.one_in(8):
        fds = (*fds[:-1], choices.one_of(list(FdKind)))
    return Message(Command.DEVICE_SET_IRQS, payload, fds)


def _place(choices: Choices, known: Known) -> tuple[int, int, int]:
    """Region, offset, size: mostly a register as it is, sometimes near one, sometimes anything."""
    kind = choices.byte()
    if kind < 192:
        return choices.one_of(known.slots)
    region = choices.one_of((7, 0, 1, 2, 9, 16, 31, 32, 8, (1 << 32) - 1))
    size = known.sizes.get(region, 256)
    offset = choices.one_of((0, 4, max(size - 4, 0), size, choices.number(2), number(choices)))
    return region, offset, choices.one_of(_SIZES)


def region_read(choices: Choices, known: Known) -> Message:
    region, offset, count = _place(choices, known)

    def done(payload: bytes) -> None:
        head = struct.pack("=QII", offset, region, count)
        expect(payload[:16] == head and len(payload) == 16 + count, f"{payload[:32].hex()} answers a read {head.hex()}")

    return Message(Command.REGION_READ, struct.pack("=QII", offset, region, count), done=done)


def _data(choices: Choices, size: int) -> bytes:
    """Mostly few bits, an address that may be mapped, or all ones."""
    kind = choices.byte()
    value = (1 << choices.below(64), pages(choices), SPACE - 1, number(choices))[kind % 4]
    return (value.to_bytes(16, "little") * (size // 16 + 1))[:size]


def region_write(choices: Choices, known: Known) -> Message:
    region, offset, count = _place(choices, known)
    data = _data(choices, count if count <= (1 << 20) + 1 else 8)
    if choices.one_in(16):
        count ^= 1 << choices.below(32)

    def done(payload: bytes) -> None:
        head = struct.pack("=QII", offset, region, count)
        expect(payload == head, f"{payload.hex()} answers a write {head.hex()}")

    return Message(Command.REGION_WRITE, struct.pack("=QII", offset, region, count) + data, done=done)


def work(choices: Choices, known: Known) -> Message:
    """The next register of what makes the device work, as its driver would write it; sometimes with another value."""
    region, offset, value = known.next_work()
    data = value.to_bytes(8 if offset in known.wide else 4, "little")
    if choices.one_in(8):
        data = _data(choices, len(data))
    return Message(Command.REGION_WRITE, struct.pack("=QII", offset, region, len(data)) + data)


def region_write_multi(choices: Choices, known: Known) -> Message:
    entries = []
    for _ in range(choices.below(5)):
        region, offset, count = _place(choices, known)
        entries.append(struct.pack("=QII8s", offset, region, count, _data(choices, 8)))
    wanted = len(entries) if choices.byte() % 8 else number(choices)
    return Message(Command.REGION_WRITE_MULTI, struct.pack("=Q", wanted) + b"".join(entries))


def reset(_choices: Choices, known: Known) -> Message:
    known.state = None
    return Message(Command.DEVICE_RESET, b"")


def region_io_fds(choices: Choices, _known: Known) -> Message:
    return Message(Command.DEVICE_GET_REGION_IO_FDS, struct.pack("=IIII", choices.one_of((16, 8, 64)), 0, 0, 0))


def _feature(operation: int, feature: int, data: bytes = b"", argsz: int | None = None) -> bytes:
    return struct.pack("=II", 8 + len(data) if argsz is None else argsz, operation | feature) + data


def get_migration_state(_choices: Choices, known: Known) -> Message:
    wanted = known.state

    def done(payload: bytes) -> None:
        state = int.from_bytes(payload[8:12], "little")
        expect(wanted is None or state == wanted, f"the migration state is {state}, set was {wanted}")

    return Message(Command.DEVICE_FEATURE, _feature(GET, 2, argsz=16), done=done)


def set_migration_state(choices: Choices, known: Known) -> Message:
    state = choices.one_of((1, 3, 4, 2, 6, 5, 7, 0, 8, 0xFFFF_FFFF))
    known.state = None  # until it is answered

    def done(_payload: bytes) -> None:
        known.state = state

    return Message(Command.DEVICE_FEATURE, _feature(SET, 2, struct.pack("=Ii", state, -1)), done=done)


def feature(choices: Choices, known: Known) -> Message:
    """Any other: logging of DMA, sizes, probes, and what nobody knows."""
    known.state = None
    operation = choices.one_of((GET, SET, PROBE, GET | PROBE, SET | PROBE, GET | SET, 0))
    index = choices.one_of((1, 2, 6, 7, 8, 9, 0, 3, 4, 5, 10, 0xFFFF))
    iova, size = choices.one_of([*known.maps, (0, PAGE)])
    data = choices.one_of(
        (
            b"",
            struct.pack("=QIIQQ", PAGE, 1, 0, iova, size),
            struct.pack("=QII", PAGE, 0, 0),
            struct.pack("=QQQ", iova, size, PAGE),
            struct.pack("=QQQ", number(choices), number(choices), number(choices)),
            choices.take(choices.below(32)),
        )
    )
    argsz = choices.one_of((None, 8, 32, 40, 4096, 7, 0xFFFF_FFFF))
    return Message(Command.DEVICE_FEATURE, _feature(operation, index, data, argsz))


def migration_size(_choices: Choices, _known: Known) -> Message:
    return Message(Command.DEVICE_FEATURE, _feature(GET, 9, argsz=16))


def migration_read(choices: Choices, _known: Known) -> Message:
    size = choices.one_of((64, 4096, 1 << 20, 0, 0xFFFF_FFFF))
    argsz = choices.one_of((8 + size, 8 + size, 4096 + 8, 0, 8))
    return Message(Command.MIG_DATA_READ, struct.pack("=II", argsz & 0xFFFF_FFFF, size))


def migration_write(choices: Choices, _known: Known) -> Message:
    data = choices.take(choices.below(64))
    size = len(data) if choices.byte() % 8 else number(choices) & 0xFFFF_FFFF
    return Message(Command.MIG_DATA_WRITE, struct.pack("=II", 8 + len(data), size) + data)


def answer(choices: Choices, known: Known) -> Message:
    """To what the server asked, if it did: right, wrong or an error. To nothing otherwise."""
    if not known.questions:
        return Message(choices.one_of((Command.DMA_READ, Command.DMA_WRITE)), bytes(24), flags=COMMAND)
    identity, command, address, count = known.questions.popleft()
    if choices.one_in(8):
        address += 1
    if choices.one_in(8):
        return Message(command, b"", flags=REPLY | ERROR, identity=identity)
    data = bytes(count) if command == Command.DMA_READ else b""
    payload = struct.pack("=QQ", address, count) + data
    if choices.one_in(8):
        payload = payload[: choices.below(len(payload) + 1)]
    return Message(command, payload, flags=REPLY, identity=identity)


def other(choices: Choices, _known: Known) -> Message:
    """A command that is not served, or none at all."""
    command = choices.one_of((Command.DIRTY_PAGES, 0, 19, 0xFFFF, Command.VERSION, Command.DMA_READ))
    return Message(command, choices.take(choices.below(32)))


Maker = Callable[[Choices, Known], Message]
MESSAGES: Sequence[Maker] = (
    region_read, region_write, dma_map, dma_unmap, set_irqs, reset, get_info, get_region_info, get_irq_info,
    work, answer, region_write_multi, get_migration_state, set_migration_state, feature, migration_read,
    migration_write, dma_unmap_special, region_io_fds, other, work, region_write, answer, dma_map,
    set_irqs, set_irqs, migration_size,
)  # fmt: skip


# --- stories: what goes before, always valid -------------------------------------------------------------------


def _map(*fds: FdKind, size: int = SHARED) -> Maker:
    def story(_choices: Choices, known: Known) -> Message:
        return _complete(Message(Command.DMA_MAP, struct.pack("=IIQQQ", 32, 3, 0, 0, size), fds), known)

    return story


def _unmap(bitmap: int) -> Maker:
    """With the dirty pages, for which there is room of so many bytes."""

    def story(_choices: Choices, known: Known) -> Message:
        payload = struct.pack("=IIQQQQ", 40 + bitmap, 1, 0, SHARED, PAGE, bitmap)
        return _complete(Message(Command.DMA_UNMAP, payload), known)

    return story


def _arm(index: int, count: int) -> Maker:
    return _irqs(0x24, index, count, fds=(FdKind.EVENTFD,) * count)


def _irqs(flags: int, index: int = 0, count: int = 1, data: bytes = b"", fds: tuple[FdKind, ...] = ()) -> Maker:
    payload = struct.pack("=IIIII", 20 + len(data), flags, index, 0, count) + data
    return lambda _choices, _known: Message(Command.DEVICE_SET_IRQS, payload, fds)


def _enter(state: int) -> Maker:
    return _asked(SET, 2, struct.pack("=Ii", state, -1))


def _asked(operation: int, index: int, data: bytes, argsz: int | None = None) -> Maker:
    return lambda _choices, _known: Message(Command.DEVICE_FEATURE, _feature(operation, index, data, argsz))


def _read(size: int) -> Maker:
    return lambda _choices, _known: Message(Command.MIG_DATA_READ, struct.pack("=II", 8 + size, size))


def _region(index: int) -> Maker:
    payload = struct.pack("=IIIIQQ", PAGE, 0, index, 0, 0, 0)
    return lambda _choices, _known: Message(Command.DEVICE_GET_REGION_INFO, payload)


_LOG = _asked(SET, 6, struct.pack("=QII", PAGE, 0, 0))
_DIRTY = struct.pack("=QQQ", 0, SHARED, PAGE)
_WORK = (work,) * 14
_NOT_ACKNOWLEDGED = _WORK[:11]
"""So far that the level of an interrupt is up, with some drivers."""
STORIES: Sequence[Sequence[Maker]] = (
    (),
    (_map(), _arm(0, 1), *_WORK),
    (_map(FdKind.MEMORY), _arm(0, 1), *_WORK),
    (_map(FdKind.LOOSE), _arm(1, 1), *_WORK),
    (_map(FdKind.MEMORY), _arm(2, 6), _LOG, *_WORK),
    (_map(), _arm(0, 1), _irqs(0x14, fds=(FdKind.EVENTFD,)), *_WORK),
    (_arm(0, 1), _irqs(0x09), _irqs(0x11), *_WORK),
    (_map(), *_WORK, _enter(6), _read(64), _enter(3), _read(4096), _read(1 << 20), _read(0), _enter(6)),
    (*_WORK, _enter(4), migration_write),
    (_map(FdKind.EMPTY), *_WORK),
    (_map(FdKind.MEMORY), _arm(0, 1), *_NOT_ACKNOWLEDGED, _irqs(0x11), _irqs(0x0A, data=b"\0"), _irqs(0x14)),
    (_irqs(0x21, 1), _irqs(0x22, 1, data=b"\0"), _arm(0, 1), _irqs(0x21, 0, 0), *_WORK),
    (_map(FdKind.MEMORY), _LOG, *_WORK, _asked(GET, 8, _DIRTY, 32), _asked(GET, 8, _DIRTY, 40), _unmap(0), _unmap(8)),
    (_map(size=64 << 20), *_WORK[:6], get_info, reset, answer, answer, answer),
    tuple(map(_region, range(10))),
)


# --- a whole message -----------------------------------------------------------------------------------------


def compose(choices: Choices, known: Known, maker: Maker | None = None, wrong: int | None = None) -> Message:
    """The next message, of that ``maker`` or of any, with so many things ``wrong``: by itself mostly none."""
    message = (maker or choices.one_of(MESSAGES))(choices, known)
    for _ in range(choices.one_of(_MISTAKES) if wrong is None else wrong):
        known.state = None
        message = replace(_spoilt(choices, message), errnos=None, done=lambda _payload: None)
    return _complete(replace(message, identity=message.identity if message.flags & REPLY else choices.byte()), known)


def _complete(message: Message, known: Known) -> Message:
    """With what its reply tells the model."""
    if message.command in _MAPPING and message.flags == COMMAND:
        return replace(message, done=lambda _payload: _MAPPING[message.command](known, message.payload))
    if message.command in _MAPPING:
        known.sure = False
    return message


_MISTAKES = (0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2)


def _mapped(known: Known, payload: bytes) -> None:
    iova, size = struct.unpack_from("=QQ", payload, 16)
    known.mapped(iova, size)


def _unmapped(known: Known, payload: bytes) -> None:
    flags, iova, size = struct.unpack_from("=IQQ", payload, 4)
    known.unmapped(*((0, SPACE) if flags & 2 else (iova, size)))


_MAPPING: dict[int, Callable[[Known, bytes], None]] = {Command.DMA_MAP: _mapped, Command.DMA_UNMAP: _unmapped}


def _spoilt(choices: Choices, message: Message) -> Message:
    """With one thing wrong, or only odd."""
    payload = message.payload
    match choices.below(6):
        case 0:
            return replace(message, flags=message.flags | NO_REPLY)
        case 1:
            return replace(message, payload=payload[: choices.below(len(payload) + 1)])
        case 2:
            return replace(message, payload=payload + choices.take(choices.below(32)))
        case 3:
            return replace(message, flags=choices.one_of((2, ERROR, 0x40, 1 << 31, 0xFFFF_FFE0)))
        case 4 if payload:
            at = choices.below(min(len(payload), 64))
            changed = bytes((payload[at] ^ 1 << choices.below(8),))
            return replace(message, payload=payload[:at] + changed + payload[at + 1 :])
        case _:
            return replace(message, fds=message.fds + (choices.one_of(list(FdKind)),) * choices.one_of((1, 2, 16, 17)))


def wild(choices: Choices) -> bytes:
    """Bytes that need not be a message."""
    return choices.one_of((choices.take(choices.below(48)), HEADER.pack(1, 9, choices.below(64), choices.byte(), 0)))
