"""One thread of the program that is served: its memory, its files and its paths, as far as ptrace(2) rights reach."""

import ctypes
import os
import threading
from contextlib import suppress
from errno import EBADF, EFAULT, ELOOP, ESRCH
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mdev_user.vfio_user.file_status import identity_at

_PIDFD_GETFD = 438  # <asm/unistd.h>
_SHORT = 4096
"""What is read or written with a buffer that is there already."""
_PATH_MAX = 4096  # <linux/limits.h>
_MOST_LINKS = 40  # path_resolution(7)
_AT_FDCWD = -100

_libc = ctypes.CDLL(None, use_errno=True)


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Buffer(threading.local):
    """What a thread of ours copies through."""

    def __init__(self) -> None:
        self.bytes = ctypes.create_string_buffer(_SHORT)
        self.address = ctypes.addressof(self.bytes)
        self.view = memoryview(self.bytes).cast("B")
        self.here = _Iovec(self.address, 0)
        self.there = _Iovec(0, 0)
        self.pointers = ctypes.byref(self.here), ctypes.byref(self.there)


_buffer = _Buffer()
_readv, _writev = _libc.process_vm_readv, _libc.process_vm_writev
_zero, _one = ctypes.c_ulong(0), ctypes.c_ulong(1)


class Mapping(NamedTuple):
    """A line of /proc/PID/maps: [``start``, ``end``) shows the file (``device``, ``inode``) from ``offset`` on."""

    start: int
    end: int
    permissions: str
    offset: int
    device: int
    inode: int
    path: str


def take_from(pidfd: int, number: int) -> int:
    """A copy of a process's file, close-on-exec: EBADF when it has no such file, ESRCH when it is gone."""
    fd: int = _libc.syscall(_PIDFD_GETFD, pidfd, number, 0)
    if fd < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"pidfd_getfd: {os.strerror(error)}")
    return fd


def status_fields(status: bytes) -> dict[str, str]:
    """Of /proc/PID/status. A newline alone ends a field: in a thread's name may be a carriage return, and any byte."""
    lines = status.decode("ascii", "replace").split("\n")
    return dict(line.split(":", 1) for line in lines if line)


class Program:
    """The thread ``tid``, and the process that it belongs to."""

    def __init__(self, tid: int) -> None:
        self.tid = tid
        self._proc = f"/proc/{tid}/"

    # --- memory

    def read(self, address: int, count: int) -> bytes:
        """EFAULT unless all of it can be read."""
        found = self._read_some(address, count)
        if len(found) != count:
            raise OSError(EFAULT, os.strerror(EFAULT))
        return found

    def _read_some(self, address: int, count: int) -> bytes:
        if count > _SHORT:
            return self._read_long(address, count)
        buffer = _buffer
        buffer.here.length = buffer.there.length = count
        buffer.there.base = address
        here, there = buffer.pointers
        done: int = _readv(self.tid, here, _one, there, _one, _zero)
        if done < 0:
            raise _fault()
        return bytes(buffer.view[:done])

    def _read_long(self, address: int, count: int) -> bytes:
        buffer = ctypes.create_string_buffer(count)
        here, there = _Iovec(ctypes.addressof(buffer), count), _Iovec(address, count)
        done: int = _readv(self.tid, ctypes.byref(here), _one, ctypes.byref(there), _one, _zero)
        if done < 0:
            raise _fault()
        return buffer.raw[:done]

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """EFAULT unless all of it can be written."""
        count = len(data)
        if not count:
            return
        if count > _SHORT:
            done = self._write_long(address, bytes(data))
        else:
            buffer = _buffer
            buffer.view[:count] = data
            buffer.here.length = buffer.there.length = count
            buffer.there.base = address
            here, there = buffer.pointers
            done = _writev(self.tid, here, _one, there, _one, _zero)
        if done != count:
            raise _fault() if done < 0 else OSError(EFAULT, os.strerror(EFAULT))

    def _write_long(self, address: int, data: bytes) -> int:
        buffer = ctypes.create_string_buffer(data, len(data))
        here, there = _Iovec(ctypes.addressof(buffer), len(data)), _Iovec(address, len(data))
        done: int = _writev(self.tid, ctypes.byref(here), _one, ctypes.byref(there), _one, _zero)
        return done

    def read_path(self, address: int) -> str:
        """A string that ends with a zero byte; EFAULT where it does not end in readable memory."""
        found = b""
        while len(found) < _PATH_MAX:
            to_page_end = _SHORT - (address + len(found)) % _SHORT
            found += self._read_some(address + len(found), to_page_end)
            text, end, _ = found.partition(b"\0")
            if end:
                return os.fsdecode(text)
        raise OSError(EFAULT, os.strerror(EFAULT))

    # --- the process

    @cached_property
    def tgid(self) -> int:
        """The process of this thread, by its number; ESRCH when it is gone."""
        with suppress(FileNotFoundError, ProcessLookupError):
            return int(self.status["Tgid"])
        raise OSError(ESRCH, os.strerror(ESRCH))

    @property
    def status(self) -> dict[str, str]:
        """The fields of /proc/PID/status."""
        return status_fields(Path(self._proc, "status").read_bytes())

    def memory(self) -> int:
        """An open /proc/PID/mem, read and write: it stays this program's memory, whoever has the number later."""
        return os.open(self._proc + "mem", os.O_RDWR | os.O_CLOEXEC)

    def mapped(self, start: int, end: int) -> list[Mapping]:
        """What of its memory overlaps [``start``, ``end``), in order."""
        found = []
        for line in Path(self._proc + "maps").read_bytes().split(b"\n")[:-1]:
            first, _, rest = line.partition(b"-")
            if int(first, 16) >= end:
                break
            if int(rest[: rest.index(b" ")], 16) > start:
                found.append(_mapping(os.fsdecode(line)))
        return found

    # --- files

    def take_fd(self, number: int) -> int:
        """A copy of one of its files, close-on-exec: EBADF when it has no such file. Close it."""
        pidfd = os.pidfd_open(self.tgid)
        try:
            return take_from(pidfd, number)
        finally:
            os.close(pidfd)

    def identity(self, number: int) -> tuple[int, int]:
        """(st_dev, st_ino) of one of its files; EBADF when it has no such file."""
        try:
            return identity_at(b"%sfd/%d" % (self._proc.encode(), number))
        except FileNotFoundError:
            raise OSError(EBADF, os.strerror(EBADF)) from None

    def has_fd(self, number: int) -> bool:
        """Whether the number is taken."""
        return os.path.lexists(f"{self._proc}fd/{number}")

    def closes_on_exec(self, number: int) -> bool:
        """Whether FD_CLOEXEC is set on one of its files."""
        with suppress(FileNotFoundError), Path(self._proc, "fdinfo", str(number)).open(encoding="ascii") as lines:
            for line in lines:
                if line.startswith("flags:"):
                    return bool(int(line[6:], 8) & os.O_CLOEXEC)
        return False

    # --- paths

    def resolve(self, directory: int, path: str) -> str:
        """The absolute path of ``path`` in its own root, without links; ``directory`` is an fd or AT_FDCWD.

        A last component that is absent is kept. ELOOP, EBADF as openat(2).
        """
        root = str(Path(self._proc, "root").readlink()).rstrip("/")
        below = self._proc + "root"
        parts = list(reversed(PurePosixPath(self._absolute(directory, path, root)).parts[1:]))
        found: list[str] = []
        links = 0
        while parts:
            part = parts.pop()
            if part == "..":
                del found[-1:]
                continue
            target = _link_target("/".join([below, *found, part]))
            if target is None:
                found.append(part)
                continue
            links += 1
            if links > _MOST_LINKS:
                raise OSError(ELOOP, os.strerror(ELOOP))
            if target.startswith("/"):
                found.clear()
            parts += [each for each in reversed(PurePosixPath(target).parts) if each != "/"]
        return "/" + "/".join(found)

    def _absolute(self, directory: int, path: str, root: str) -> str:
        if path.startswith("/"):
            return path
        link = "cwd" if directory == _AT_FDCWD else f"fd/{directory}"
        try:
            above = Path(self._proc, link).readlink()
        except FileNotFoundError:
            raise OSError(EBADF, os.strerror(EBADF)) from None
        return f"{str(above).removeprefix(root)}/{path}"


def _link_target(path: str) -> str | None:
    try:
        return str(Path(path).readlink())
    except OSError:
        return None


def _mapping(line: str) -> Mapping:
    span, permissions, offset, device, inode, *path = line.split(maxsplit=5)
    start, end = (int(each, 16) for each in span.split("-"))
    major, minor = (int(each, 16) for each in device.split(":"))
    name = path[0] if path else ""
    return Mapping(start, end, permissions, int(offset, 16), os.makedev(major, minor), int(inode), name)


def _fault() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"process_vm: {os.strerror(number)}")
