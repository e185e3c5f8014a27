"""The DMA mappings of a container or an IOAS: told to every device that is attached, and served to those that ask.

A device sees a mapping as its pieces (`program_memory.Piece`); unmapping knows only whole mappings, as type1
version 2 does. What one device refuses no device keeps. A device whose server is gone is left out: its program finds
out by itself, and the others go on.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from errno import ENODEV, ENOENT, EPERM
from functools import partial
from threading import Lock
from typing import NamedTuple

from mdev_user.errors import GuestError, PeerError
from mdev_user.uapi.program_memory import Descriptors, Owner, Piece, SharedMemory, file_memory, program_memory
from mdev_user.units import PAGE
from mdev_user.vfio.dma import ADDRESS_SPACE, DmaFlags, DmaMappings, Mapping
from mdev_user.vfio_user.client import Client, NoMemory
from mdev_user.vfio_user.connection import RemoteError

MOST_MAPPINGS = 65535
"""As many as the kernel's type1 (dma_entry_limit), and as a vfio-user server takes when it says nothing."""

_log = logging.getLogger(__name__)


class _Gone(Exception):
    """The device's server ended, or what it says cannot be followed."""


class _Member:
    """An attached device: its connection, the lock of it, and which of its mappings are served by messages."""

    __slots__ = ("client", "lock", "served")

    def __init__(self, client: Client, lock: AbstractContextManager[object]) -> None:
        self.client = client
        self.lock = lock
        self.served: set[int] = set()

    def map(self, mapping: "_Mapped") -> None:
        """All pieces or none."""
        done: list[Piece] = []
        with self.lock, _followed():
            try:
                for piece in mapping.memory.pieces:
                    self._map(mapping, piece)
                    done.append(piece)
            except RemoteError:
                self._unmap(mapping.iova, done)
                raise

    def unmap(self, mapping: "_Mapped") -> None:
        """A device that refuses this is noted: nothing can be done about it."""
        with self.lock, _followed():
            self._unmap(mapping.iova, mapping.memory.pieces)

    def unmap_all(self) -> None:
        with self.lock, _followed():
            self.served.clear()
            try:
                self.client.dma_unmap_all()
            except RemoteError as error:
                _log.warning("a device did not unmap everything: %s", error)

    def _map(self, mapping: "_Mapped", piece: Piece) -> None:
        iova = mapping.iova + piece.start
        if piece.file is not None:
            # Servers differ in which files they take; all of them can ask.
            with suppress(RemoteError):
                self.client.dma_map(iova, piece.size, piece.file.fd, piece.offset, mapping.flags)
                return
        self.client.dma_map(iova, piece.size, flags=mapping.flags)
        self.served.add(iova)

    def _unmap(self, start: int, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            self.served.discard(start + piece.start)
            try:
                self.client.dma_unmap(start + piece.start, piece.size)
            except RemoteError as error:
                _log.warning("a device did not unmap %#x bytes at %#x: %s", piece.size, start + piece.start, error)


class _Mapped(NamedTuple):
    iova: int
    size: int
    flags: DmaFlags
    memory: SharedMemory


class AddressSpace:
    """Which memory the attached devices reach at which address. Changed under the supervisor's lock of tables.

    It is the `vfio_user.client.ServedMemory` of the attached clients; that part is safe in any thread.
    """

    def __init__(self, descriptors: Descriptors | None = None, limit: int = MOST_MAPPINGS) -> None:
        """Give the ``descriptors`` of another space to `copy` from that."""
        self.descriptors = Descriptors() if descriptors is None else descriptors
        self._mappings = DmaMappings(limit)
        self._reading = Lock()
        """Of the table, never held while a device is spoken to."""
        self._members: list[_Member] = []

    def __len__(self) -> int:
        return len(self._mappings)

    @property
    def room(self) -> int:
        """How many mappings more there may be."""
        return self._mappings.limit - len(self._mappings)

    @property
    def mappings(self) -> list[tuple[int, int]]:
        """(iova, size) of each, in order."""
        return [(each.iova, each.size) for each in self._mappings]

    def map(self, program: Owner, address: int, iova: int, size: int, flags: DmaFlags) -> None:
        """Let the devices reach ``size`` bytes of the program's memory at ``iova``.

        EINVAL for a range that is not whole pages or leaves the address space, or without a direction; EEXIST for an
        overlap, ENOSPC for one mapping too many (vfio_dma_do_map). What a device answers otherwise, and then none has
        it. Memory that is not there, or not for this, is found when a device uses it, as for Linux's mdevs.
        """
        _check(address, size, flags)
        self._add(iova, size, flags, program_memory(self.descriptors, program, address, size, flags))

    def map_fd(self, fd: int, offset: int, iova: int, size: int, flags: DmaFlags) -> None:
        """Let the devices reach ``size`` bytes at ``offset`` of a file, which stays the caller's; errors as `map`.

        Also EINVAL for what is no regular file, EPERM for one that is not open for what ``flags`` says.
        """
        _check(offset, size, flags)
        self._add(iova, size, flags, file_memory(self.descriptors, fd, offset, size, flags))

    def copy(self, source: "AddressSpace", source_iova: int, iova: int, size: int, flags: DmaFlags) -> None:
        """Map here what ``source`` has mapped at ``source_iova``, in as many mappings (IOMMU_IOAS_COPY).

        ENOENT unless all of it is mapped there, EPERM for WRITE where it has none; else as `map`. Both have the same
        `descriptors`.
        """
        _check(0, size, flags)
        done: list[int] = []
        try:
            for start, mapping, offset, length in list(source.parts(source_iova, size)):
                if flags & DmaFlags.WRITE & ~mapping.flags:
                    raise OSError(EPERM, "a copy that may be written, of what may not")
                self._add(iova + start, length, flags, _memory(mapping).part(offset, length))
                done.append(iova + start)
        except BaseException:
            for start in done:
                self._remove([each for each in self._mapped() if each.iova == start])
            raise

    def parts(self, iova: int, size: int) -> Iterator[tuple[int, Mapping, int, int]]:
        """Of a range that is mapped, without holes: where in it, which mapping, where in that, and how much."""
        at = iova
        for each in self._mappings:
            if each.iova <= at < each.iova + each.size and at < iova + size:
                length = min(each.iova + each.size, iova + size) - at
                yield at - iova, each, at - each.iova, length
                at += length
        if at < iova + size:
            raise OSError(ENOENT, f"nothing is mapped at {at:#x}")

    def unmap(self, iova: int, size: int) -> int:
        """Take away every mapping in the range, be it none; returns their bytes together.

        EINVAL, and nothing is unmapped, when a mapping lies only partly in it (type1 version 2), or it is no range.
        """
        return self._remove([_mapped(each) for each in self._mappings.within(iova, size)])

    def unmap_all(self) -> int:
        """Take everything away (VFIO_DMA_UNMAP_FLAG_ALL); returns how many bytes."""
        self._members = [each for each in self._members if _lives(each.unmap_all)]
        with self._reading:
            return self._mappings.unmap_all()

    def attach(self, client: Client, lock: AbstractContextManager[object] | None = None) -> None:
        """Tell a device every mapping, and from now on every change; serve its messages.

        ``lock`` is held whenever the client is used. What the device refuses is raised, and then it has nothing.
        """
        member = _Member(client, nullcontext() if lock is None else lock)
        client.memory = self
        try:
            for mapping in self._mapped():
                member.map(mapping)
        except BaseException as error:
            client.memory = NoMemory()
            if not isinstance(error, _Gone):
                _lives(member.unmap_all)
                raise
            raise OSError(ENODEV, f"the device's server is gone: {error}") from error
        self._members.append(member)

    def detach(self, client: Client) -> None:
        """Take every mapping from a device; nothing happens when it is not attached, or is gone."""
        for member in [each for each in self._members if each.client is client]:
            self._members.remove(member)
            _lives(member.unmap_all)
            client.memory = NoMemory()

    def serves(self, client: Client) -> bool:
        """Whether the device reaches some of its memory only by messages, so that its socket is to be listened to."""
        return any(member.client is client and member.served for member in self._members)

    # --- what devices ask for

    def read(self, address: int, count: int) -> bytes:
        """`DmaFault` unless all of it is mapped for reading, and there."""
        with self._reading:
            segments = self._mappings.segments(address, count, DmaFlags.READ)
        return b"".join(_memory(each.mapping).read(each.offset, each.length) for each in segments)

    def write(self, address: int, data: bytes) -> None:
        """`DmaFault` unless all of it is mapped for writing; what lies before memory that is gone is written."""
        with self._reading:
            segments = self._mappings.segments(address, len(data), DmaFlags.WRITE)
        for each in segments:
            _memory(each.mapping).write(each.offset, data[each.start : each.start + each.length])

    # --- ours

    def _add(self, iova: int, size: int, flags: DmaFlags, memory: SharedMemory) -> None:
        """Owns ``memory``, also on an error."""
        mapping = Mapping(iova, size, flags, memory)
        try:
            with self._reading:
                self._mappings.map(mapping)
        except BaseException:
            memory.close()
            raise
        done: list[_Member] = []
        try:
            done.extend(member for member in list(self._members) if self._told(member, _mapped(mapping)))
        except BaseException:
            self._unmap(done, _mapped(mapping))
            raise

    def _told(self, member: _Member, mapping: _Mapped) -> bool:
        """Whether the device has the mapping; one that is gone is left out from now on."""
        try:
            member.map(mapping)
        except _Gone:
            self._members.remove(member)
            return False
        return True

    def _remove(self, mappings: list[_Mapped]) -> int:
        """Only when no device uses it any more is it not served any more."""
        for mapping in mappings:
            self._unmap(self._members, mapping)
        return sum(each.size for each in mappings)

    def _unmap(self, members: list[_Member], mapping: _Mapped) -> None:
        for member in list(members):
            if not _lives(partial(member.unmap, mapping)) and member in self._members:
                self._members.remove(member)
        with self._reading:
            self._mappings.unmap(mapping.iova, mapping.size)

    def _mapped(self) -> list[_Mapped]:
        return [_mapped(each) for each in self._mappings]


@contextmanager
def _followed() -> Iterator[None]:
    """Raises `_Gone` for what means that the connection is of no more use."""
    try:
        yield
    except RemoteError:
        raise
    except (OSError, PeerError) as error:
        raise _Gone(str(error)) from error


def _lives(act: Callable[[], None]) -> bool:
    """Whether the device was there for ``act``."""
    try:
        act()
    except _Gone:
        return False
    return True


def _memory(mapping: Mapping) -> SharedMemory:
    memory = mapping.backing
    if not isinstance(memory, SharedMemory):
        raise TypeError(f"a mapping of {type(memory).__name__}")
    return memory


def _mapped(mapping: Mapping) -> _Mapped:
    return _Mapped(mapping.iova, mapping.size, mapping.flags, _memory(mapping))


def _check(address: int, size: int, flags: DmaFlags) -> None:
    """EINVAL as vfio_dma_do_map; the address space and overlaps are looked at with the other mappings."""
    if not flags:
        raise GuestError("a DMA mapping without a direction: expected READ, WRITE or both")
    if size <= 0 or address % PAGE or address + size > ADDRESS_SPACE:
        raise GuestError(f"a DMA mapping of {size:#x} bytes of memory at {address:#x}: expected whole pages")
