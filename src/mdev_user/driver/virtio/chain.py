"""Chain: one request of a guest, as a stream to read and a stream to write."""

from dataclasses import dataclass

from mdev_user.driver.dma import LARGEST_TRANSFER, Dma
from mdev_user.driver.virtio.ring import Buffer, Buffers
from mdev_user.errors import GuestError


@dataclass(frozen=True, slots=True)
class KeptChain:
    """A chain that was kept (`Chain.keep`), as a value: `Saved`, in a `Table`, or an argument of a job."""

    queue: int
    head: int
    """Its first descriptor, of which no other chain of the queue has the number meanwhile."""


class Chain:
    """The buffers that a guest made available together: first those to read, then those to write.

    How they are cut into buffers means nothing (virtio 1.2, section 2.6.4): both are streams.
    """

    __slots__ = ("_from", "_is_kept", "_memory", "_name", "_read", "_readable", "_to", "_writable", "_written")

    def __init__(self, memory: Dma, buffers: Buffers, name: KeptChain) -> None:
        """Made by its queue."""
        self._memory, self._name, self._is_kept = memory, name, False
        self._from, self._to = list(reversed(buffers.readable)), list(reversed(buffers.writable))
        self._readable = sum(each.length for each in buffers.readable)
        self._writable = sum(each.length for each in buffers.writable)
        self._read = self._written = 0

    def keep(self) -> KeptChain:
        """Do not give the chain back when its queue's method returns, but when `KeptChains.give_back` says so.

        It can be named by what this returns from the moment on at which the method returns.
        """
        self._is_kept = True
        return self._name

    @property
    def _places(self) -> tuple[int, int]:
        """How many bytes were read and written so far."""
        return self._read, self._written

    def _go_on(self, read: int, written: int) -> None:
        """Begin behind what was read and written before. GuestError where the chain is not as long."""
        if not (0 <= read <= self._readable and 0 <= written <= self._writable):
            raise GuestError(f"a chain that was kept after {read} bytes read and {written} written: it is shorter now")
        _cut(self._from, read)
        _cut(self._to, written)
        self._readable, self._writable = self._readable - read, self._writable - written
        self._read, self._written = read, written

    @property
    def readable(self) -> int:
        """Bytes that were not read yet."""
        return self._readable

    @property
    def writable(self) -> int:
        """Bytes for which there is still place."""
        return self._writable

    @property
    def written(self) -> int:
        """Bytes that were written: what the guest is told when it gets the chain back."""
        return self._written

    async def read(self, count: int) -> bytes:
        """The next ``count`` bytes. GuestError where the chain has not as many, DmaFault where there is no memory.

        At most 256 MiB at once: they lie in this process's memory, and how many a chain has is up to the guest.
        """
        if not 0 <= count <= LARGEST_TRANSFER:
            raise GuestError(f"{count} bytes of a chain: expected 0 to {LARGEST_TRANSFER} at once")
        if count > self._readable:
            raise GuestError(f"a chain with {self._readable} bytes to read: expected {count}")
        self._readable -= count
        self._read += count
        pieces = _cut(self._from, count)
        if len(pieces) == 1:
            return await self._memory.read(*pieces[0])
        data = bytearray(count)
        await self._memory.read_into(pieces, memoryview(data))
        return bytes(data)

    async def write(self, data: bytes) -> None:
        """Store the next bytes. GuestError where they have no place, DmaFault where there is no memory."""
        if len(data) > self._writable:
            raise GuestError(f"a chain with place for {self._writable} bytes: expected {len(data)}")
        self._writable -= len(data)
        pieces = _cut(self._to, len(data))
        if len(pieces) == 1:
            await self._memory.write(pieces[0].address, data)
        else:
            await self._memory.write_from(pieces, data)
        self._written += len(data)


def _cut(stream: list[Buffer], count: int) -> list[Buffer]:
    """Take ``count`` bytes from a stream, whose next buffer is the last of the list."""
    taken: list[Buffer] = []
    while count:
        address, length = stream.pop()
        part = min(length, count)
        if part < length:
            stream.append(Buffer(address + part, length - part))
        if part:
            taken.append(Buffer(address, part))
        count -= part
    return taken
