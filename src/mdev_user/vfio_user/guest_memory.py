"""Guest memory behind the file descriptors of DMA_MAP: mapped where that is safe, read and written where not.

Whoever truncates a file that we have mapped kills us with SIGBUS at the next touch. So a file is mapped only when it
is sealed against shrinking (memfd_create(2), F_SEAL_SHRINK) and holds the whole range. Any other regular file is served
by pread and pwrite, if its file system answers at once: a stranger's may let us wait for ever. Either way a file costs
one file descriptor however many DMA mappings lie in it (a vIOMMU makes thousands of 4 KiB). Bytes are copied in and
out; nobody gets a view.
"""

import fcntl
import os
from dataclasses import dataclass, field
from mmap import PROT_READ, PROT_WRITE, mmap
from threading import Lock
from typing import final

from mdev_user.errors import DmaFault, GuestError, TooManyFiles
from mdev_user.vfio.dma import Backing, DmaFlags, Pieces
from mdev_user.vfio_user.copying import MUCH, copied, copy
from mdev_user.vfio_user.file_status import FileStatus, file_status, on_huge_pages
from mdev_user.vfio_user.scattered import gather, outside, scatter
from mdev_user.vfio_user.shares import MOST_FILES, Share
from mdev_user.vfio_user.transport import close_fds

_LARGEST_OFFSET = (1 << 63) - 1
_SHRINK, _WRITE_SEALS = fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_WRITE | 0x10
"""0x10 is F_SEAL_FUTURE_WRITE (Linux 5.1), which Python 3.11 does not name."""

_PIECE = 1 << 20
"""Bytes that are copied into huge pages at once."""

_Key = tuple[tuple[int, int], int, int, bool]


@dataclass(slots=True, eq=False)
class _File:
    """One file of the user's: device, inode, how it is open and whether it is mapped; how many backings lie in it."""

    key: _Key
    memory: mmap | None
    fd: int = -1
    scratch: int = -1
    users: int = 0
    view: memoryview | None = field(init=False)
    """Of the mapped memory: what is cut out of it lives as long as one statement."""

    def __post_init__(self) -> None:
        self.view = None if self.memory is None else memoryview(self.memory)

    @property
    def fds(self) -> int:
        """How many it costs; a mapping keeps one of its own."""
        return (self.memory is not None) + (self.fd >= 0) + (self.scratch >= 0)

    def close(self, share: Share) -> None:
        share.give_files(self.fds)
        if self.view is not None:
            self.view.release()
        if self.memory is not None:
            share.give_space(len(self.memory))
            self.memory.close()
        for fd in (self.fd, self.scratch):
            if fd >= 0:
                os.close(fd)


class MayKeepWaiting(GuestError):
    """The file's memory can be had without waiting for a stranger only by asking its owner for it, by messages."""


class GuestMemory:
    """Makes a `Backing` of a file descriptor, for one user: what two users share is no file of ours.

    Inode numbers of memfds are not unique for ever (those of huge pages are 32 bits wide); who brings about that two
    of his own files are taken for one harms nobody else. Safe to use from several threads.
    """

    def __init__(self, share: Share | None = None, *, keep_files: bool = False) -> None:
        """``keep_files``: another process is to map them, too. A file that is mapped costs one descriptor more then."""
        self.share = share or Share()
        self._keep_files = keep_files
        self._files: dict[_Key, _File] = {}
        self._open = 0
        self._lock = Lock()

    @property
    def mapped_files(self) -> int:
        return sum(file.memory is not None for file in self._files.values())

    @property
    def open_files(self) -> int:
        """File descriptors that are kept."""
        return self._open

    def backing(self, fd: int, offset: int, size: int, flags: DmaFlags) -> Backing:
        """``size`` bytes at ``offset`` of the file. Owns ``fd`` from the call on, also when it raises.

        EINVAL for what is no regular file or is not open for what ``flags`` lets the device do, MayKeepWaiting for one
        on a file system that may. ENOSPC when this user, or all of them, have too many files.
        """
        kept, close = False, _close_strange
        try:
            status = file_status(fd)
            _check_file(status, flags)
            _check_offset(offset, size)
            if not status.answers_at_once:
                raise MayKeepWaiting("DMA_MAP: the file lies on a network or on a user's own file system")
            close = os.close
            with self._lock:
                file, kept = self._file(fd, status, offset + size)
                file.users += 1
        finally:
            if not kept:
                close(fd)
        if file.memory is None:
            return _FileBacking(self, file, offset, size)
        return (_MappedBacking if file.scratch < 0 else _HugeBacking)(self, file, offset, size)

    def _file(self, fd: int, status: FileStatus, end: int) -> tuple[_File, bool]:
        """The file of ``fd``, in which there are ``end`` bytes to be reached; and whether it keeps ``fd``."""
        if (status.seals or 0) & _SHRINK and end <= status.size:
            key = (status.device, status.inode, _protection(status), True)
            file = self._files.get(key)
            if file is not None and file.memory is not None and end <= len(file.memory):
                return file, False
            # The file may have grown. Older backings keep the shorter mapping, which stays valid.
            memory = self._map(fd, status.size, key[2])
            if memory is not None and on_huge_pages(fd):
                return self._add(self._huge(key, memory, fd)), True
            if memory is not None and self._keep_files:
                return self._add(self._kept(key, memory, fd)), True
            if memory is not None:
                return self._add(_File(key, memory)), False
        key = (status.device, status.inode, status.opened, False)
        file = self._files.get(key)
        if file is not None:
            return file, False
        self._admit()
        return self._add(_File(key, None, fd)), True

    def _map(self, fd: int, size: int, protection: int) -> mmap | None:
        """None where there is no room to map it; the file is reached by its descriptor then."""
        self._admit()
        if not self.share.take_space(size):
            self.share.give_files(1)
            return None
        try:
            return mmap(fd, size, prot=protection)
        except (OSError, OverflowError):
            self.share.give_space(size)
            self.share.give_files(1)
            return None

    def _huge(self, key: _Key, memory: mmap, fd: int) -> _File:
        self._take_more(2, memory)
        return _File(key, memory, fd, os.memfd_create("dma", os.MFD_CLOEXEC))

    def _kept(self, key: _Key, memory: mmap, fd: int) -> _File:
        self._take_more(1, memory)
        return _File(key, memory, fd)

    def _take_more(self, files: int, memory: mmap) -> None:
        try:
            self.share.take_files(files)
        except TooManyFiles:
            self.share.give_space(len(memory))
            self.share.give_files(1)
            memory.close()
            raise

    def _admit(self) -> None:
        if self._open >= MOST_FILES:
            raise TooManyFiles(f"DMA_MAP: memory in {MOST_FILES} different files is shared already; unmap some")
        self.share.take_files(1)

    def _add(self, file: _File) -> _File:
        self._files[file.key] = file
        self._open += 1
        return file

    def _forget(self, file: _File) -> None:
        with self._lock:
            file.users -= 1
            if file.users:
                return
            if self._files.get(file.key) is file:
                del self._files[file.key]
            self._open -= 1
            file.close(self.share)


@final
class _MappedBacking:
    __slots__ = ("_end", "_file", "_memory", "_owner", "_start", "_view")

    def __init__(self, owner: GuestMemory, file: _File, start: int, size: int) -> None:
        self._owner = owner
        self._file: _File | None = file
        assert file.memory is not None  # noqa: S101 - only such a file is given to us
        assert file.view is not None  # noqa: S101 - as above
        self._memory, self._view = file.memory, file.view
        self._start = start
        self._end = start + size

    def read(self, offset: int, length: int) -> bytes:
        start = self._start + offset
        end = start + length
        if offset < 0 or end > self._end:
            raise outside()
        return self._memory[start:end] if length < MUCH else copied(self._view[start:end])

    def write(self, offset: int, data: bytes) -> None:
        start = self._start + offset
        end = start + len(data)
        if offset < 0 or end > self._end:
            raise outside()
        if len(data) < MUCH:
            self._memory[start:end] = data
        else:
            copy(self._view[start:end], memoryview(data))

    def file(self) -> tuple[int, int] | None:
        file = self._file
        return None if file is None or file.fd < 0 else (file.fd, self._start)

    def gather(self, base: int, pieces: Pieces, into: memoryview) -> int:
        return gather(self._view, self._start, self._end, base, pieces, into)

    def scatter(self, base: int, pieces: Pieces, data: memoryview) -> int:
        return scatter(self._view, self._start, self._end, base, pieces, data)

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            self._owner._forget(file)  # noqa: SLF001 - the two are one concept


@final
class _FileBacking:
    __slots__ = ("_end", "_fd", "_file", "_owner", "_start")

    def __init__(self, owner: GuestMemory, file: _File, start: int, size: int) -> None:
        self._owner = owner
        self._file: _File | None = file
        self._fd = file.fd
        self._start = start
        self._end = start + size

    def file(self) -> tuple[int, int] | None:
        return None if self._file is None else (self._fd, self._start)

    def check(self, offset: int, length: int) -> None:
        _check_inside(offset, self._start + offset + length, self._end)

    def read(self, offset: int, length: int) -> bytes:
        start = self._start + offset
        _check_inside(offset, start + length, self._end)
        data = bytearray()
        while len(data) < length:
            part = self._try_read(start + len(data), length - len(data))
            _check_part(len(part), start + length)
            data += part
        return bytes(data)

    def write(self, offset: int, data: bytes) -> None:
        start = self._start + offset
        _check_inside(offset, start + len(data), self._end)
        _check_size(start + len(data), os.fstat(self._fd).st_size)
        self._store(start, memoryview(data))

    def gather(self, base: int, pieces: Pieces, into: memoryview) -> int:
        at = 0
        for address, length in pieces:
            start = self._start + address - base
            _check_inside(address - base, start + length, self._end)
            self._load(start, into[at : at + length])
            at += length
        return at

    def scatter(self, base: int, pieces: Pieces, data: memoryview) -> int:
        size, at = os.fstat(self._fd).st_size, 0
        for address, length in pieces:
            start = self._start + address - base
            _check_inside(address - base, start + length, self._end)
            _check_size(start + length, size)
            self._store(start, data[at : at + length])
            at += length
        return at

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            self._fd = -1
            self._owner._forget(file)  # noqa: SLF001 - the two are one concept

    def _try_read(self, start: int, length: int) -> bytes:
        try:
            return os.pread(self._fd, length, start)
        except OSError as error:
            raise DmaFault(f"the guest's memory file: {error}") from error

    def _load(self, start: int, into: memoryview) -> None:
        done, length = 0, len(into)
        while done < length:
            try:
                part = os.preadv(self._fd, [into[done:]], start + done)
            except OSError as error:
                raise DmaFault(f"the guest's memory file: {error}") from error
            _check_part(part, start + length)
            done += part

    def _store(self, start: int, data: memoryview) -> None:
        done, length = 0, len(data)
        while done < length:
            done += self._try_write(data[done:], start + done)

    def _try_write(self, data: memoryview, start: int) -> int:
        try:
            return os.pwrite(self._fd, data, start)
        except OSError as error:
            raise DmaFault(f"the guest's memory file: {error}") from error


@final
class _HugeBacking:
    """Memory in huge pages (hugetlbfs): written through a mapping, since it cannot be by pwrite, but never touched.

    The seal against shrinking leaves its owner free to punch holes, and a hole is filled at the next touch, with a
    page that there may not be: SIGBUS. The kernel, copying into it, gives EFAULT.
    """

    __slots__ = ("_by_file", "_file", "_memory", "_start", "close", "file", "gather", "read")

    def __init__(self, owner: GuestMemory, file: _File, start: int, size: int) -> None:
        assert file.memory is not None  # noqa: S101 - only such a file is given to us
        self._by_file = _FileBacking(owner, file, start, size)
        self._file = file
        self._memory = file.memory
        self._start = start
        self.read, self.gather, self.file = self._by_file.read, self._by_file.gather, self._by_file.file
        self.close = self._by_file.close

    def write(self, offset: int, data: bytes | memoryview) -> None:
        start = self._start + offset
        self._by_file.check(offset, len(data))
        for at in range(0, len(data), _PIECE):
            self._copy(start + at, data[at : at + _PIECE])

    def scatter(self, base: int, pieces: Pieces, data: memoryview) -> int:
        at = 0
        for address, length in pieces:
            self.write(address - base, data[at : at + length])
            at += length
        return at

    def _copy(self, start: int, data: bytes | memoryview) -> None:
        scratch = self._file.scratch
        with memoryview(self._memory) as whole, whole[start : start + len(data)] as there:
            try:
                os.pwrite(scratch, data, 0)
                copied = os.preadv(scratch, [there], 0)
            except OSError as error:
                raise DmaFault(f"the guest's memory file: {error}") from error
        if copied != len(data):
            raise DmaFault("the guest's memory file has no page for what the device writes")


def _close_strange(fd: int) -> None:
    close_fds((fd,))


def _check_file(status: FileStatus, flags: DmaFlags) -> None:
    if not status.regular:
        raise GuestError("DMA_MAP: expected the file descriptor of a regular file or a memfd")
    access = status.opened & os.O_ACCMODE
    unreadable = access == os.O_WRONLY or status.opened & os.O_PATH
    unwritable = access == os.O_RDONLY or status.opened & os.O_APPEND or (status.seals or 0) & _WRITE_SEALS
    if unreadable or (DmaFlags.WRITE in flags and unwritable):
        raise GuestError(f"DMA_MAP: the file is not open for {flags.name}")


def _check_offset(offset: int, size: int) -> None:
    if size < 1 or offset + size > _LARGEST_OFFSET:
        raise GuestError(f"DMA_MAP: no file has {size:#x} bytes at offset {offset:#x}")


def _check_inside(offset: int, end: int, limit: int) -> None:
    if offset < 0 or end > limit:
        raise outside()


def _check_part(length: int, end: int) -> None:
    if not length:
        raise DmaFault(f"the guest's memory file ends before offset {end:#x}")


def _check_size(end: int, size: int) -> None:
    """A write behind the end would make the file longer; the guest's memory must not grow by our writing."""
    if end > size:
        raise DmaFault(f"the guest's memory file ends before offset {end:#x}")


def _protection(status: FileStatus) -> int:
    read_only = status.opened & os.O_ACCMODE == os.O_RDONLY
    return PROT_READ if read_only or (status.seals or 0) & _WRITE_SEALS else PROT_READ | PROT_WRITE
