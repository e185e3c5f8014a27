"""What a peer of a session may know, and what it may expect: the model beside the machine.

`Known` is the model of the device's user: mapped ranges, negotiated or not, the migration state. `Ledger` reads what
the session sends: one reply to each request that wants one, in order, well formed, with an errno of a known set.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from errno import (
    E2BIG,
    EAGAIN,
    EBUSY,
    EEXIST,
    EFAULT,
    EINVAL,
    ENODATA,
    ENODEV,
    ENOENT,
    ENOMEM,
    ENOMSG,
    ENOSPC,
    ENOTTY,
    EOVERFLOW,
    EPERM,
    ERANGE,
)

from fuzz.target import Finding, expect
from mdev_user.vfio_user.framing import ERROR, HEADER, LARGEST_MESSAGE, REPLY, Command, Header

ERRNOS = {
    *(E2BIG, EAGAIN, EBUSY, EEXIST, EFAULT, EINVAL, ENODATA, ENODEV, ENOENT, ENOMEM, ENOMSG, ENOSPC, ENOTTY),
    *(EOVERFLOW, EPERM, ERANGE),
}
"""What a request may be refused with. EIO is not among them: it is what nobody expected."""
SPACE = 1 << 64
PAGE = 4096
MOST_BYTES = 8 << 40

Slot = tuple[int, int, int]
"""Region, offset and size of a register, or of anything else worth an access."""


@dataclass
class Known:
    """What the peer knows of the device and of what it did to it."""

    slots: list[Slot]
    sizes: dict[int, int]
    """Of each region that is there."""
    work: list[Slot] = field(default_factory=list)
    """Region, offset and value of each write that makes the device work, in order."""
    wide: frozenset[int] = frozenset()
    """At which offsets of them 64 bits are written."""
    worked: int = 0
    maps: list[tuple[int, int]] = field(default_factory=list)
    sure: bool = True
    """Whether ``maps`` are those of the session: a request without a reply leaves it open."""
    state: int | None = None
    """Of migration, since the peer has set it."""
    questions: deque[tuple[int, int, int, int]] = field(default_factory=deque)
    """What the server asks and nobody has answered: id, command, address, count."""

    def next_work(self) -> Slot:
        self.worked += 1
        return self.work[(self.worked - 1) % len(self.work)] if self.work else (7, 4, 7)

    def map_errnos(self, iova: int, size: int) -> set[int] | None:
        """What a mapping of nothing but valid flags is refused with; 0: it is not."""
        if not self.sure:
            return None
        if not 0 < size <= MOST_BYTES or iova % PAGE or size % PAGE or iova + size > SPACE:
            return {EINVAL}
        if any(start < iova + size and iova < start + length for start, length in self.maps):
            return {EEXIST}
        return {0}

    def unmap_errnos(self, iova: int, size: int) -> set[int] | None:
        if not self.sure:
            return None
        end = iova + size
        if not size or iova % PAGE or size % PAGE or end > SPACE:
            return {EINVAL}
        if any(start < edge < start + length for start, length in self.maps for edge in (iova, end)):
            return {EINVAL}
        return {0}

    def mapped(self, iova: int, size: int) -> None:
        self.maps.append((iova, size))

    def unmapped(self, iova: int, size: int) -> None:
        self.maps = [(start, length) for start, length in self.maps if not iova <= start < iova + size]


@dataclass(frozen=True)
class Expected:
    """A request under way. ``errnos``: what may come of it (0: a reply), None: anything known."""

    id: int
    command: int
    errnos: set[int] | None = None
    done: Callable[[bytes], None] = lambda _payload: None
    """Called with the payload of a reply that is no error."""


class Ledger:
    """What the session owes, and what it sends."""

    def __init__(self, known: Known) -> None:
        self.expected: deque[Expected] = deque()
        self.answered = 0
        self._known = known
        self._data = bytearray()

    def took(self, data: bytes | memoryview) -> None:
        """The session has sent this."""
        self._data += data
        while len(self._data) >= HEADER.size:
            header = Header.decode(self._data)
            expect(HEADER.size <= header.size <= LARGEST_MESSAGE, f"a message of {header.size} bytes was sent")
            if len(self._data) < header.size:
                return
            payload = bytes(self._data[HEADER.size : header.size])
            del self._data[: header.size]
            self._message(header, payload)

    def _message(self, header: Header, payload: bytes) -> None:
        if header.kind != REPLY:
            self._question(header, payload)
            return
        if not self.expected:
            raise Finding(f"a reply to nothing: {header}")
        wanted = self.expected.popleft()
        self.answered += 1
        if (header.id, header.command) != (wanted.id, wanted.command):
            raise Finding(f"{header} answers {wanted}")
        errno = header.errno if header.flags & ERROR else 0
        if header.flags & ERROR:
            expect(not payload, f"an error reply with {len(payload)} bytes: {header}")
            expect(errno in ERRNOS, f"errno {errno} for {wanted}")
        if wanted.errnos is not None and errno not in wanted.errnos:
            raise Finding(f"errno {errno}, expected {wanted.errnos}: {wanted}")
        if not errno:
            wanted.done(payload)

    def _question(self, header: Header, payload: bytes) -> None:
        expect(header.command in {Command.DMA_READ, Command.DMA_WRITE}, f"the server asks for {header}")
        expect(len(payload) >= 16, f"a question of {len(payload)} bytes")
        address, count = int.from_bytes(payload[:8], "little"), int.from_bytes(payload[8:16], "little")
        reached = any(start <= address and address + count <= start + size for start, size in self._known.maps)
        expect(reached or not self._known.sure, f"DMA at {address:#x} of {count} bytes, mapped is {self._known.maps}")
        self._known.questions.append((header.id, header.command, address, count))
