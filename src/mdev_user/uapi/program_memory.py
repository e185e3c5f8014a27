"""What a DMA mapping of a program's memory is made of: files that it shares, and the rest through /proc/PID/mem.

A shared mapping of a file that the program still has open can be handed to a device's server, which then reaches it
without asking. Everything else the server asks for by messages, and those are answered here. The program is not
believed: a file is what its own descriptor shows it to be, and memory that is gone is a `DmaFault`.
"""

import fcntl
import os
from collections.abc import Callable, Hashable, Iterator
from errno import EINVAL, ENOMEM, EPERM
from pathlib import Path
from typing import NamedTuple, Protocol

from typing_extensions import override

from mdev_user.errors import DmaFault
from mdev_user.uapi.program import Mapping as Area
from mdev_user.vfio.dma import Backing, DmaFlags
from mdev_user.vfio_user.file_status import file_status
from mdev_user.vfio_user.transport import close_fds

MOST_PIECES = 64
"""Of one mapping. More are one piece that is asked for by messages: a server counts each piece as a mapping."""
_LAST_OFFSET = (1 << 63) - 1
_ACCESS_MODES = {os.O_RDWR: DmaFlags.READ | DmaFlags.WRITE, os.O_RDONLY: DmaFlags.READ, os.O_WRONLY: DmaFlags.WRITE}


class Owner(Protocol):
    """The program whose memory is mapped: a `uapi.program.Program`."""

    tid: int

    @property
    def tgid(self) -> int: ...

    def mapped(self, start: int, end: int) -> list[Area]: ...

    def take_fd(self, number: int) -> int: ...

    def memory(self) -> int: ...


class Held:
    """A file of the program's, kept open while a mapping needs it."""

    __slots__ = ("fd", "key", "users")

    def __init__(self, key: Hashable, fd: int) -> None:
        self.key, self.fd, self.users = key, fd, 0


class Descriptors:
    """The files that mappings need, each kept once however many mappings lie in it."""

    def __init__(self) -> None:
        self._held: dict[Hashable, Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, key: Hashable, take: Callable[[], int]) -> Held:
        """The file that is known by ``key``, for one user more; ``take`` gets it when it is not kept yet."""
        held = self._held.get(key)
        if held is None:
            held = self._held[key] = Held(key, take())
        held.users += 1
        return held

    def release(self, held: Held) -> None:
        """One user less; the last one closes it."""
        held.users -= 1
        if not held.users:
            del self._held[held.key]
            os.close(held.fd)


class Piece(NamedTuple):
    """``size`` bytes from ``start`` on, counted from the mapping's first byte; without a file, by messages only."""

    start: int
    size: int
    file: Held | None = None
    offset: int = 0

    def joins(self, after: "Piece") -> bool:
        """Whether ``after`` goes on where this one ends."""
        return self.file is after.file and (self.file is None or self.offset + self.size == after.offset)

    def cut(self, start: int, end: int) -> "Piece | None":
        """What of it lies in [``start``, ``end``) of the mapping, counted from ``start``."""
        first, last = max(self.start, start), min(self.start + self.size, end)
        if first >= last:
            return None
        return Piece(first - start, last - first, self.file, self.offset + first - self.start)


class Span(NamedTuple):
    """[``start``, ``end``), counted from the mapping's first byte."""

    start: int
    end: int


class SharedMemory(Backing):
    """Memory behind one mapping: what servers get of it, and how their messages are answered.

    ``served`` is read and written at ``address`` for messages: the program's memory, or a file.
    """

    def __init__(
        self, descriptors: Descriptors, served: Held, address: int, pieces: list[Piece], read_only: list[Span]
    ) -> None:
        self._descriptors = descriptors
        self._served = served
        self._address = address
        self.pieces = pieces
        self._read_only = read_only

    @override
    def read(self, offset: int, length: int) -> bytes:
        """EFAULT unless all of it is there."""
        address = self._reached(offset, length)
        try:
            data = os.pread(self._served.fd, length, address)
        except OSError as error:
            raise DmaFault(f"{length} bytes at {address:#x} of the program's memory: {error.strerror}") from error
        if len(data) != length:
            raise DmaFault(f"only {len(data)} of {length} bytes at {address:#x} of the program's memory are there")
        return data

    @override
    def write(self, offset: int, data: bytes) -> None:
        """EFAULT unless all of it is there, and was writable to the program when it was mapped."""
        address = self._reached(offset, len(data))
        if any(span.start < offset + len(data) and offset < span.end for span in self._read_only):
            raise DmaFault(f"{len(data)} bytes at {address:#x} are memory that the program itself cannot write")
        try:
            done = os.pwrite(self._served.fd, data, address)
        except OSError as error:
            raise DmaFault(f"{len(data)} bytes at {address:#x} of the program's memory: {error.strerror}") from error
        if done != len(data):
            raise DmaFault(f"only {done} of {len(data)} bytes at {address:#x} of the program's memory are there")

    def part(self, start: int, size: int) -> "SharedMemory":
        """The same memory for another mapping: [``start``, ``start + size``) of this one."""
        cut = (piece.cut(start, start + size) for piece in self.pieces)
        read_only = [Span(each.start - start, each.end - start) for each in self._read_only]
        pieces = [piece for piece in cut if piece is not None]
        other = type(self)(self._descriptors, self._served, self._address + start, pieces, read_only)
        for held in other._files():  # noqa: SLF001 - our own
            held.users += 1
        return other

    @override
    def close(self) -> None:
        """Let go of the files."""
        for held in self._files():
            self._descriptors.release(held)

    def _files(self) -> list[Held]:
        return [self._served, *(piece.file for piece in self.pieces if piece.file is not None)]

    def _reached(self, offset: int, length: int) -> int:
        """Where the access is in what is served."""
        address = self._address + offset
        if address + length > _LAST_OFFSET:
            raise DmaFault(f"no program has memory at {address:#x}")
        return address


class FileMemory(SharedMemory):
    """A file: it ends where it ends, and no device makes it longer."""

    @override
    def write(self, offset: int, data: bytes) -> None:
        end, size = self._reached(offset, len(data)) + len(data), os.fstat(self._served.fd).st_size
        if end > size:
            raise DmaFault(f"a write up to {end:#x} of a file of {size:#x} bytes")
        super().write(offset, data)


def program_memory(descriptors: Descriptors, program: Owner, address: int, size: int, flags: DmaFlags) -> SharedMemory:
    """``size`` bytes of the program's memory at ``address``; what is not there yet is looked for at each access.

    So does Linux for devices that reach memory through vfio_pin_pages (drivers/vfio/vfio_iommu_type1.c).
    """
    areas = program.mapped(address, address + size)
    read_only = _read_only(areas, address) if flags & DmaFlags.WRITE else []
    served = descriptors.hold(stamp(program), program.memory)
    try:
        pieces = _shared(descriptors, program, areas, Span(address, address + size), flags)
    except BaseException:
        descriptors.release(served)
        raise
    return SharedMemory(descriptors, served, address, pieces, read_only)


def _read_only(areas: list[Area], start: int) -> list[Span]:
    """What the program itself cannot write, counted from ``start``. ENOMEM when it is in too many places."""
    found: list[Span] = []
    for area in areas:
        if "w" in area.permissions:
            continue
        if found and found[-1].end == area.start - start:
            found[-1] = Span(found[-1].start, area.end - start)
        else:
            found.append(Span(area.start - start, area.end - start))
    if len(found) > MOST_PIECES:
        raise OSError(ENOMEM, f"a DMA mapping with {len(found)} read-only parts: expected at most {MOST_PIECES}")
    return found


def _shared(descriptors: Descriptors, program: Owner, areas: list[Area], wanted: Span, flags: DmaFlags) -> list[Piece]:
    """The pieces, each with a file held once; one piece without a file instead of too many."""
    found: list[Piece] = []
    try:
        for piece in _pieces(descriptors, program, areas, wanted, flags):
            _join(found, piece, descriptors)
            if len(found) > MOST_PIECES:
                _release(descriptors, found)
                return [Piece(0, wanted.end - wanted.start)]
    except BaseException:
        _release(descriptors, found)
        raise
    return found


def file_memory(descriptors: Descriptors, fd: int, offset: int, size: int, flags: DmaFlags) -> SharedMemory:
    """``size`` bytes at ``offset`` of a file, of which a copy is kept.

    EINVAL for what is no regular file, EPERM for one that is not open for what ``flags`` lets a device do.
    """
    found, allowed = file_status(fd), _allowed(fd)
    if not found.regular:
        raise OSError(EINVAL, "no regular file: expected a memfd or a file")
    if (flags | DmaFlags.READ) & ~allowed:
        raise OSError(EPERM, "the file is not open for what the device may do")
    file = descriptors.hold((os.makedev(*found.device), found.inode, allowed), lambda: _described_anew(fd))
    file.users += 1  # one for the messages, one for the piece
    return FileMemory(descriptors, file, offset, [Piece(0, size, file, offset)], [])


def _pieces(
    descriptors: Descriptors, program: Owner, areas: list[Area], wanted: Span, flags: DmaFlags
) -> Iterator[Piece]:
    """All of the range, in order; each with a file holds it once."""
    at = wanted.start
    for area in areas:
        start, end = max(area.start, wanted.start), min(area.end, wanted.end)
        file = _file_of(descriptors, program, area, flags)
        if file is None:
            continue
        if at < start:
            yield Piece(at - wanted.start, start - at)
        yield Piece(start - wanted.start, end - start, file, area.offset + start - area.start)
        at = end
    if at < wanted.end:
        yield Piece(at - wanted.start, wanted.end - at)


def _join(found: list[Piece], piece: Piece, descriptors: Descriptors) -> None:
    if found and found[-1].joins(piece):
        _release(descriptors, [piece])
        found[-1] = found[-1]._replace(size=found[-1].size + piece.size)
    else:
        found.append(piece)


def _release(descriptors: Descriptors, pieces: list[Piece]) -> None:
    for piece in pieces:
        if piece.file is not None:
            descriptors.release(piece.file)


def _file_of(descriptors: Descriptors, program: Owner, area: Area, flags: DmaFlags) -> Held | None:
    """The file of a shared area, when a server may have it; None for what is served by messages."""
    if not area.inode or area.permissions[3] != "s":
        return None
    if flags & DmaFlags.WRITE and "w" not in area.permissions:
        return None
    key = (area.device, area.inode, DmaFlags.READ | (flags & DmaFlags.WRITE))
    try:
        return descriptors.hold(key, lambda: _take(program, area, key[2]))
    except OSError:
        return None


def _take(program: Owner, area: Area, needed: DmaFlags) -> int:
    """A copy of a descriptor of the program's that shows the area's file. FileNotFoundError when it has none."""
    for number in _numbers_of(program, area.inode, needed):
        fd = program.take_fd(number)
        try:
            found = file_status(fd)
            if (os.makedev(*found.device), found.inode) == (area.device, area.inode) and not needed & ~_allowed(fd):
                return _described_anew(fd)
        finally:
            close_fds([fd])
    raise FileNotFoundError(f"the program has no descriptor for {area.path}")


def _numbers_of(program: Owner, inode: int, needed: DmaFlags) -> Iterator[int]:
    """Descriptors that may show this inode: told by fdinfo, because stat(2) may wait for a stranger's file system."""
    for each in Path(f"/proc/{program.tid}/fdinfo").iterdir():
        try:
            with each.open("rb") as lines:
                fields = dict(line.split(b":", 1) for line in lines.read(512).splitlines()[:4])
        except (OSError, ValueError):
            continue
        mode = _ACCESS_MODES.get(int(fields.get(b"flags", b"0"), 8) & os.O_ACCMODE, DmaFlags(0))
        if int(fields.get(b"ino", b"0")) == inode and not needed & ~mode:
            yield int(each.name)


def _described_anew(fd: int) -> int:
    """The same file, to be kept. Memory is opened once more: a program's description of a device of ours is counted.

    What is no memory may let whoever opens it wait, and none of ours is of that kind.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        return os.open(f"/proc/self/fd/{fd}", fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE | os.O_CLOEXEC)
    except OSError:
        return os.dup(fd)


def _allowed(fd: int) -> DmaFlags:
    return _ACCESS_MODES.get(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE, DmaFlags(0))


def stamp(program: Owner) -> Hashable:
    """What differs when the process has other memory: its number, when it began, and where execve(2) put things."""
    fields = Path(f"/proc/{program.tgid}/stat").read_bytes().rpartition(b")")[2].split()
    # proc(5), counted from the third: starttime, startcode, startstack, arg_start, env_start.
    return (program.tgid, *(fields[at] for at in (19, 23, 25, 45, 47)))
