"""nvme: a small disk by NVM Express 1.4, with an admin queue and I/O queues in the guest's memory."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from struct import Struct
from typing import NamedTuple, TypeAlias

from mdev_user.driver import (
    MSI,
    PAGE,
    RO,
    U32,
    U64,
    Bar,
    DmaFault,
    Each,
    Field,
    Flag,
    Function,
    GuestError,
    Message,
    Parent,
    PciId,
    Pool,
    Profile,
    Register,
    RegisterFile,
    Saved,
    Table,
    on_read,
    on_write,
    on_write_each,
    pending,
    worker,
)  # fmt: skip

QUEUES, ENTRIES, BLOCK, LARGEST = 4, 256, 512, 16 * PAGE
"""I/O queue pairs, entries of a queue, bytes of a block and of one transfer."""
SQE, CQE = Struct("<BBHI16xQQ6I"), Struct("<I4xHHHH")
DONE, BAD_OPCODE, BAD_FIELD, FAULT, BAD_NAMESPACE, BAD_LBA = 0, 0x01, 0x02, 0x04, 0x0B, 0x80
BAD_COMPLETION_QUEUE, BAD_QUEUE, BAD_SIZE, BAD_VECTOR = 0x100, 0x101, 0x102, 0x108


class Config(Register):
    enable, shutdown = Flag(0), Field(14, 2)
    css, mps, iosqes, iocqes = Field(4, 3), Field(7, 4), Field(16, 4), Field(20, 4)


class Status(Register):
    ready, fatal, shutdown = Flag(0, RO), Flag(1, RO), Field(2, 2, RO)


class Doorbells(RegisterFile):
    tail, head = U32(0, RO), U32(4, RO)  # what a guest writes is stored when it was found to be good


class Regs(Bar, index=0, size=2 * PAGE):
    capabilities = U64(0x00, RO, reset=(ENTRIES - 1) | 1 << 16 | 20 << 24 | 1 << 37)
    version = U32(0x08, RO, reset=0x0001_0400)
    mask_set, mask_clear = U32(0x0C, RO), U32(0x10, RO)
    config, status = Config.at(0x14), Status.at(0x1C)
    admin_sizes, admin_submissions, admin_completions = (
        U32(0x24, sticky=True), U64(0x28, sticky=True), U64(0x30, sticky=True)
    )  # fmt: skip
    doorbell = Each(Doorbells, at=0x1000, count=QUEUES + 1)


@dataclass(frozen=True)
class Slice(Profile):
    blocks: int


@dataclass(frozen=True)
class Submissions:
    base: int
    size: int
    completions: int
    head: int = 0


@dataclass(frozen=True)
class Completions:
    base: int
    size: int
    vector: int
    interrupts: bool
    tail: int = 0
    phase: int = 1
    storing: bool = False
    """The first of those that wait is being stored: the guest may have seen it, and have said so, before we know."""
    waiting: tuple[bytes, ...] = ()
    """Commands that are done, and that the guest does not know of."""


class Command(NamedTuple):
    opcode: int
    flags: int
    id: int
    namespace: int
    prp1: int
    prp2: int
    cdw10: int
    cdw11: int
    cdw12: int
    cdw13: int
    cdw14: int
    cdw15: int


Answer: TypeAlias = tuple[int, int] | None
"""Status and result; None: the command stays."""


class Disk(Function[Slice]):
    identity = PciId(vendor=0x1DE5, device=0x4E56, class_code=0x010802)
    vectors = MSI(QUEUES)
    regs, masked = Regs(), Saved(0)
    blocks = Table[int, bytes](limit=1 << 16, sticky=True)
    """The disk: those that are not zero."""
    submissions = Table[int, Submissions](limit=QUEUES + 1)
    completions = Table[int, Completions](limit=QUEUES + 1)

    @pending
    def waits(self) -> bool:
        doorbell, queues = self.regs.doorbell, self.completions.items()
        return not self.masked & 1 and any(each.interrupts and each.tail != doorbell[n].head for n, each in queues)

    completion = Message(pin=waits)

    @on_write(Regs.config)
    def configure(self, asked: Config) -> None:
        if asked.enable and not self.regs.status.ready:
            sizes = self.regs.admin_sizes
            self.completions[0] = Completions(self.regs.admin_completions, (sizes >> 16 & 0xFFF) + 1, 0, True)
            self.submissions[0] = Submissions(self.regs.admin_submissions, (sizes & 0xFFF) + 1, 0)
            self.regs.status.ready = True
        elif self.regs.status.ready and not asked.enable:
            self.reset_device()
        if asked.shutdown:
            self.regs.status.shutdown = 2

    @on_read(Regs.mask_set)
    def mask(self) -> int:
        return self.masked

    @on_read(Regs.mask_clear)
    def same_mask(self) -> int:
        return self.masked

    @on_write(Regs.mask_set)
    def set_mask(self, bits: int) -> None:
        self.masked |= bits

    @on_write(Regs.mask_clear)
    def clear_mask(self, bits: int) -> None:
        self.masked &= ~bits

    @on_write_each(Regs.doorbell.tail)
    def submit(self, queue: int, tail: int) -> None:
        if queue not in self.submissions or tail >= self.submissions[queue].size:
            raise GuestError(f"doorbell of submission queue {queue}: {tail}")
        self.regs.doorbell[queue].tail = tail
        self.serve(queue)

    @on_write_each(Regs.doorbell.head)
    def consume(self, queue: int, head: int) -> None:
        if queue not in self.completions or head >= self.completions[queue].size:
            raise GuestError(f"doorbell of completion queue {queue}: {head}")
        self.regs.doorbell[queue].head = head
        self.complete(queue)

    @worker(limit=QUEUES + 1)
    async def serve(self, queue: int) -> None:
        """Take commands, each of which is done when its completion waits: until then it may be begun again."""
        while (own := self.submissions.get(queue)) and own.head != self.regs.doorbell[queue].tail:
            if len(self.completions[own.completions].waiting) >= own.size:
                return  # `complete` calls again
            command = Command(*SQE.unpack(await self.dma.read(own.base + SQE.size * own.head, SQE.size)))
            answer = await self.answer(ADMIN if queue == 0 else IO, command)
            head = (own.head + 1) % own.size
            self.submissions[queue] = replace(own, head=head)
            if answer:
                entry = CQE.pack(answer[1], head, queue, command.id, answer[0] << 1)
                done = self.completions[own.completions]
                self.completions[own.completions] = replace(done, waiting=(*done.waiting, entry))
                self.complete(own.completions)

    @worker(limit=QUEUES + 1)
    async def complete(self, queue: int) -> None:
        """Store what waits where the guest looks for it; storing an entry twice does no harm."""
        while (own := self.completions.get(queue)) and own.waiting:
            tail = (own.tail + 1) % own.size
            if not own.storing:
                if tail == self.regs.doorbell[queue].head:
                    return  # full, until the guest's doorbell
                self.completions[queue] = replace(own, storing=True)
            entry = own.waiting[0]
            phased = bytes((*entry[:14], entry[14] | own.phase, entry[15]))
            await self.dma.write(own.base + CQE.size * own.tail, phased)
            now = self.completions[queue]  # more may wait by now
            self.completions[queue] = replace(
                now, tail=tail, phase=own.phase ^ (tail == 0), storing=False, waiting=now.waiting[1:]
            )
            if own.interrupts:
                self.completion.send(own.vector)
            for each, submissions in tuple(self.submissions.items()):
                if submissions.completions == queue:
                    self.serve(each)

    async def answer(self, table: "Commands", command: Command) -> Answer:
        if command.opcode not in table:
            return BAD_OPCODE, 0
        try:
            return await table[command.opcode](self, command)
        except DmaFault:
            return FAULT, 0

    # --- the guest's buffers: a list of pages (section 4.3) ---------------------------------------------------

    async def pieces(self, command: Command, length: int) -> list[tuple[int, int]]:
        pieces = [(command.prp1, min(length, PAGE - command.prp1 % PAGE))]
        length -= pieces[0][1]
        if not length:
            return pieces
        if length <= PAGE:
            return [*pieces, (command.prp2, length)]
        count = -(-length // PAGE)
        pages: tuple[int, ...] = Struct(f"<{count}Q").unpack(await self.dma.read(command.prp2, 8 * count))
        for page in pages:
            pieces.append((page, min(length, PAGE)))
            length -= pieces[-1][1]
        return pieces

    async def give(self, command: Command, data: bytes) -> None:
        for address, length in await self.pieces(command, len(data)):
            await self.dma.write(address, data[:length])
            data = data[length:]

    async def take(self, command: Command, length: int) -> bytes:
        pieces = await self.pieces(command, length)
        return b"".join([await self.dma.read(address, length) for address, length in pieces])

    # --- I/O commands -----------------------------------------------------------------------------------------

    def place(self, command: Command) -> tuple[int, int]:
        """The first block and how many. Too many are none."""
        first, count = command.cdw10 | command.cdw11 << 32, (command.cdw12 & 0xFFFF) + 1
        return (first, count) if first + count <= self.profile.blocks and count * BLOCK <= LARGEST else (0, 0)

    async def read(self, command: Command) -> Answer:
        first, count = self.place(command)
        data = b"".join(self.blocks.get(each, bytes(BLOCK)) for each in range(first, first + count))
        await self.give(command, data)
        return (DONE if count else BAD_LBA), 0

    async def write(self, command: Command) -> Answer:
        first, count = self.place(command)
        data = await self.take(command, count * BLOCK)
        for each in range(count):
            self.blocks[first + each] = data[each * BLOCK : (each + 1) * BLOCK]
        return (DONE if count else BAD_LBA), 0

    async def flush(self, command: Command) -> Answer:
        return DONE, 0

    # --- admin commands ---------------------------------------------------------------------------------------

    async def identify(self, command: Command) -> Answer:
        data, blocks = bytearray(PAGE), self.profile.blocks
        match command.cdw10 & 0xFF:
            case 0 if command.namespace == 1:
                Struct("<QQQ").pack_into(data, 0, blocks, blocks, blocks)
                data[130] = BLOCK.bit_length() - 1
            case 1:
                data[4:72] = b"1".ljust(20) + b"mdev-user sketch".ljust(40) + b"1".ljust(8)
                data[77], data[111], data[512], data[513], data[516] = 4, 1, 0x66, 0x44, 1
                data[80:84], data[768:788] = b"\0\4\1\0", b"nqn.2014-08.org.nvme"
            case 2 if command.namespace < 1:
                data[0] = 1
            case 3 if command.namespace == 1:
                data[:20] = b"\3\x10\0\0" + self.uuid.bytes
            case 0 | 2 | 3:
                return BAD_NAMESPACE, 0
            case _:
                return BAD_FIELD, 0
        await self.give(command, bytes(data))
        return DONE, 0

    async def create_completions(self, command: Command) -> Answer:
        queue, size, vector = command.cdw10 & 0xFFFF, (command.cdw10 >> 16) + 1, command.cdw11 >> 16
        if not 1 <= queue <= QUEUES or queue in self.completions:
            return BAD_QUEUE, 0
        if not 2 <= size <= ENTRIES:
            return BAD_SIZE, 0
        if vector >= QUEUES:
            return BAD_VECTOR, 0
        self.regs.doorbell[queue].head = 0
        self.completions[queue] = Completions(command.prp1, size, vector, bool(command.cdw11 & 2))
        return DONE, 0

    async def create_submissions(self, command: Command) -> Answer:
        queue, size, completions = command.cdw10 & 0xFFFF, (command.cdw10 >> 16) + 1, command.cdw11 >> 16
        if not 1 <= queue <= QUEUES or queue in self.submissions:
            return BAD_QUEUE, 0
        if completions not in self.completions or completions == 0:
            return BAD_COMPLETION_QUEUE, 0
        if not 2 <= size <= ENTRIES:
            return BAD_SIZE, 0
        self.regs.doorbell[queue].tail = 0
        self.submissions[queue] = Submissions(command.prp1, size, completions)
        return DONE, 0

    async def delete_submissions(self, command: Command) -> Answer:
        queue = command.cdw10 & 0xFFFF
        if queue == 0 or queue not in self.submissions:
            return BAD_QUEUE, 0
        self.serve.cancel(queue)
        del self.submissions[queue]
        return DONE, 0

    async def delete_completions(self, command: Command) -> Answer:
        queue = command.cdw10 & 0xFFFF
        used = any(each.completions == queue for each in self.submissions.values())
        if used or queue not in self.completions:
            return BAD_QUEUE, 0
        self.complete.cancel(queue)
        del self.completions[queue]
        return DONE, 0

    async def features(self, command: Command) -> Answer:
        return DONE, (QUEUES - 1) * 0x10001 if command.cdw10 & 0xFF == 7 else 0

    async def get_log(self, command: Command) -> Answer:
        await self.give(command, bytes(min(PAGE, 4 * (command.cdw10 >> 16) + 4)))
        return DONE, 0

    async def abort(self, command: Command) -> Answer:
        return DONE, 1  # nothing was aborted

    async def wait_for_event(self, command: Command) -> Answer:
        return None  # there is never one


Commands: TypeAlias = dict[int, Callable[[Disk, Command], Awaitable[Answer]]]
IO: Commands = {0: Disk.flush, 1: Disk.write, 2: Disk.read}
ADMIN: Commands = {
    0x00: Disk.delete_submissions, 0x01: Disk.create_submissions, 0x02: Disk.get_log, 0x04: Disk.delete_completions,
    0x05: Disk.create_completions, 0x06: Disk.identify, 0x08: Disk.abort, 0x09: Disk.features, 0x0A: Disk.features,
    0x0C: Disk.wait_for_event,
}  # fmt: skip


class Card(Parent[Slice]):
    function = Disk
    blocks = Pool(1 << 15)
    types = {"1m": Slice(blocks=2048), "4m": Slice(blocks=8192)}
