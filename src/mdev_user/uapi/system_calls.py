"""The answers to the program's system calls, by number: whose file is it, and which of its operations is asked for."""

import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from errno import EBADF, EINVAL, ENODEV, EOPNOTSUPP, ESRCH

from mdev_user.uapi.call import DONE, Call, Done, Given
from mdev_user.uapi.files import File
from mdev_user.uapi.filter import F_DUPFD, F_DUPFD_CLOEXEC, KVM_SET_DEVICE_ATTR
from mdev_user.uapi.numbers import Sys
from mdev_user.uapi.stat import struct_stat, struct_statx

Answer = int | Done | None
"""What the call returns; None lets the kernel perform the call, DONE says that it is answered."""

_MOST_BYTES = 0x7FFF_F000  # MAX_RW_COUNT, <linux/fs.h>
_MOST_VECTORS = 1024  # UIO_MAXIOV, <linux/uio.h>
_IOVEC = struct.Struct("<QQ")
_HOW = struct.Struct("<Q")  # the flags of struct open_how, <linux/openat2.h>
_KVM_ATTRIBUTE = struct.Struct("<IIQQ")  # struct kvm_device_attr, <linux/kvm.h>
_KVM_DEV_VFIO_FILE = 1
_AT_EMPTY_PATH = 0x1000
_AT_FDCWD = -100
_MAP_ANONYMOUS = 0x20
_HARMLESS_FCNTL = {1, 2, 3, 4, 8, 9, 10, 11, 15, 16}  # of the descriptor and its flags: F_GETFD ... F_SETOWN_EX
_RWF_HIPRI = 1
_NO_OFFSET = (1 << 64) - 1

_NODE = re.compile(r"(?:vfio\d*|\d+|iommu)/*")
"""The last component of every path that we answer for: all other paths cost no more than reading them."""


def _signed(register: int, bits: int = 32) -> int:
    value = register & ((1 << bits) - 1)
    return value - (1 << bits) if value >> (bits - 1) else value


def _number(register: int) -> int:
    return _signed(register)


# --- open ----------------------------------------------------------------------------------------------------------


def _open(call: Call) -> Answer:
    return _open_path(call, _AT_FDCWD, call.args[0], call.args[1])


def _openat(call: Call) -> Answer:
    return _open_path(call, _number(call.args[0]), call.args[1], call.args[2])


def _openat2(call: Call) -> Answer:
    (flags,) = _HOW.unpack(call.read(call.args[2], _HOW.size))
    if flags & os.O_ACCMODE != os.O_RDWR or flags & (os.O_PATH | os.O_DIRECTORY):
        return None
    return _open_path(call, _number(call.args[0]), call.args[1], flags)


def _open_path(call: Call, directory: int, address: int, flags: int) -> Answer:
    try:
        path = call.program.read_path(address)
        if not _NODE.fullmatch(path.rpartition("/")[2]):
            return None
        call.may_wait()  # whoever serves a file system on the way may wait for an answer of ours
        path = call.program.resolve(directory, path)
    except OSError:  # the kernel says what is wrong with it
        return None
    if not path.startswith("/dev/") or not call.still_valid():
        return None
    with _tables(call):
        file = call.open_node(path)
        return None if file is None else _given(call, Given(file, bool(flags & os.O_CLOEXEC)))


@contextmanager
def _tables(call: Call) -> Iterator[None]:
    """The lock of tables. Whoever has it may wait for a slow device: then another thread receives.

    ESRCH for a caller that was killed meanwhile: its number may be another's by now.
    """
    waits = not call.tables.acquire(blocking=False)
    if waits:
        call.may_wait()
        call.tables.acquire()
    try:
        if waits and not call.still_valid():
            raise OSError(ESRCH, os.strerror(ESRCH))
        yield
    finally:
        call.tables.release()


def _given(call: Call, given: Given) -> Answer:
    """Done under the lock of tables: if the caller is dead, the file is released before another open is looked at."""
    call.answer_with(given)
    return DONE


# --- ioctl ---------------------------------------------------------------------------------------------------------


def _ioctl(call: Call) -> Answer:
    command, argument = call.args[1] & 0xFFFF_FFFF, call.args[2]
    if command == KVM_SET_DEVICE_ATTR:
        return _kvm_set_device_attr(call, argument)
    file = call.file(_number(call.args[0]))
    if file is None:
        return None
    if file.answers_alone(command):
        return _only_number(file.ioctl(call, command, argument))
    with _tables(call):
        call.serving.files.settle()  # what was closed before is not open any more
        answer = file.ioctl(call, command, argument)
        return _given(call, answer) if isinstance(answer, Given) else answer


def _only_number(answer: int | Given) -> int:
    if isinstance(answer, Given):
        raise TypeError("a file is given under the lock of tables")
    return answer


def _kvm_set_device_attr(call: Call, argument: int) -> Answer:
    """KVM takes VFIO's own files only, and there is nothing that it would have to know of ours."""
    _, group, _, address = _KVM_ATTRIBUTE.unpack(call.read(argument, _KVM_ATTRIBUTE.size))
    if group != _KVM_DEV_VFIO_FILE:
        return None
    number = int.from_bytes(call.read(address, 4), "little", signed=True)
    return None if call.file(number) is None else 0


# --- read and write ------------------------------------------------------------------------------------------------


def _positioned(call: Call) -> File | None:
    """The file of a pread64 or pwrite64; EINVAL for a negative offset."""
    file = call.file(_number(call.args[0]))
    if file is not None and call.args[3] >> 63:
        raise OSError(EINVAL, os.strerror(EINVAL))
    return file


def _pread64(call: Call) -> Answer:
    _fd, address, count, offset, _, _ = call.args
    file = _positioned(call)
    return None if file is None else file.read(call, address, min(count, _MOST_BYTES), offset)


def _pwrite64(call: Call) -> Answer:
    _fd, address, count, offset, _, _ = call.args
    file = _positioned(call)
    return None if file is None else file.write(call, address, min(count, _MOST_BYTES), offset)


def _read(call: Call) -> Answer:
    file = call.file(_number(call.args[0]))
    return None if file is None else file.read(call, call.args[1], min(call.args[2], _MOST_BYTES), None)


def _write(call: Call) -> Answer:
    file = call.file(_number(call.args[0]))
    return None if file is None else file.write(call, call.args[1], min(call.args[2], _MOST_BYTES), None)


Transfer = Callable[[Call, int, int, int | None], int]
"""`File.read` or `File.write`."""


def _vectored(call: Call, transfer: Callable[[File], Transfer], *, offset: int | None) -> Answer:
    """One operation after the other, as the kernel does with files that know no vectors; it ends with a short one."""
    file = call.file(_number(call.args[0]))
    if file is None:
        return None
    operation = transfer(file)
    count = call.args[2]
    if count > _MOST_VECTORS:
        raise OSError(EINVAL, os.strerror(EINVAL))
    done = 0
    for address, length in _IOVEC.iter_unpack(call.read(call.args[1], count * _IOVEC.size)):
        try:
            moved = operation(call, address, length, None if offset is None else offset + done) if length else 0
        except OSError:
            if done:
                break
            raise
        done += moved
        if moved != length:
            break
    return done


def _reading(file: File) -> Transfer:
    return file.read


def _writing(file: File) -> Transfer:
    return file.write


def _readv(call: Call) -> Answer:
    return _vectored(call, _reading, offset=None)


def _writev(call: Call) -> Answer:
    return _vectored(call, _writing, offset=None)


def _preadv(call: Call) -> Answer:
    return _vectored(call, _reading, offset=_checked(call.args[3]))


def _pwritev(call: Call) -> Answer:
    return _vectored(call, _writing, offset=_checked(call.args[3]))


def _preadv2(call: Call) -> Answer:
    return _vectored(call, _reading, offset=_offset2(call))


def _pwritev2(call: Call) -> Answer:
    return _vectored(call, _writing, offset=_offset2(call))


def _offset2(call: Call) -> int | None:
    if call.args[5] & ~_RWF_HIPRI:
        raise OSError(EOPNOTSUPP, os.strerror(EOPNOTSUPP))
    return None if call.args[3] == _NO_OFFSET else _checked(call.args[3])


def _checked(offset: int) -> int:
    if offset >> 63:
        raise OSError(EINVAL, os.strerror(EINVAL))
    return offset


# --- what else is done with a descriptor ---------------------------------------------------------------------------


def _lseek(call: Call) -> Answer:
    file = call.file(_number(call.args[0]))
    return None if file is None else file.seek(call)


def _mmap(call: Call) -> Answer:
    """Raises what the file raises; else it is the kernel that maps it."""
    _, length, protection, flags, fd, offset = call.args
    file = None if flags & _MAP_ANONYMOUS else call.file(_number(fd))
    if file is not None:
        file.mmap(call, length, protection, flags, offset)
    return None


def _ftruncate(call: Call) -> Answer:
    return _refused(call, EINVAL)


def _fallocate(call: Call) -> Answer:
    return _refused(call, ENODEV)


def _refused(call: Call, errno: int) -> Answer:
    if call.file(_number(call.args[0])) is None:
        return None
    raise OSError(errno, os.strerror(errno))


def _fstat(call: Call) -> Answer:
    file = call.file(_number(call.args[0]))
    if file is None:
        return None
    call.write(call.args[1], struct_stat(file))
    return 0


def _newfstatat(call: Call) -> Answer:
    fd, path, buffer, flags, _, _ = call.args
    file = _stat_of_fd(call, fd, path, flags)
    if file is None:
        return None
    call.write(buffer, struct_stat(file))
    return 0


def _statx(call: Call) -> Answer:
    fd, path, flags, _, buffer, _ = call.args
    file = _stat_of_fd(call, fd, path, flags)
    if file is None:
        return None
    call.write(buffer, struct_statx(file))
    return 0


def _stat_of_fd(call: Call, fd: int, path: int, flags: int) -> File | None:
    if not flags & _AT_EMPTY_PATH or (path and call.read(path, 1) != b"\0"):
        return None
    return call.file(_number(fd))


# --- which numbers are which files -----------------------------------------------------------------------------------


def _close(call: Call) -> Answer:
    call.descriptors.forget(_number(call.args[0]))
    return None


def _dup(call: Call) -> Answer:
    return _duplicate(call, least=0, cloexec=False)


def _fcntl(call: Call) -> Answer:
    command = call.args[1] & 0xFFFF_FFFF
    if command in {F_DUPFD, F_DUPFD_CLOEXEC}:
        return _duplicate(call, least=call.args[2] & 0xFFFF_FFFF, cloexec=command == F_DUPFD_CLOEXEC)
    if command in _HARMLESS_FCNTL or call.file(_number(call.args[0])) is None:
        return None
    # Locks and seals: with them we know how long a file is open.
    raise OSError(EINVAL, os.strerror(EINVAL))


def _duplicate(call: Call, *, least: int, cloexec: bool) -> Answer:
    """A copy of one of ours is a high number too, so that what is done with it is seen."""
    number = _number(call.args[0])
    if call.file(number) is None:
        call.descriptors.forget_all()
        return None
    fd = call.take_fd(number)
    try:
        call.answer_fd(fd, cloexec=cloexec, least=least)
    finally:
        os.close(fd)
    return DONE


def _dup2(call: Call) -> Answer:
    old, new = _number(call.args[0]), _number(call.args[1])
    if old < 0 or new < 0:
        raise OSError(EBADF, os.strerror(EBADF))
    call.descriptors.forget(new)
    return None


def _forget_all(call: Call) -> Answer:
    call.descriptors.forget_all()
    return None


HANDLERS: Mapping[int, Callable[[Call], Answer]] = {
    Sys.OPEN: _open,
    Sys.OPENAT: _openat,
    Sys.OPENAT2: _openat2,
    Sys.IOCTL: _ioctl,
    Sys.PREAD64: _pread64,
    Sys.PWRITE64: _pwrite64,
    Sys.READ: _read,
    Sys.WRITE: _write,
    Sys.READV: _readv,
    Sys.WRITEV: _writev,
    Sys.PREADV: _preadv,
    Sys.PWRITEV: _pwritev,
    Sys.PREADV2: _preadv2,
    Sys.PWRITEV2: _pwritev2,
    Sys.LSEEK: _lseek,
    Sys.MMAP: _mmap,
    Sys.FTRUNCATE: _ftruncate,
    Sys.FALLOCATE: _fallocate,
    Sys.FSTAT: _fstat,
    Sys.NEWFSTATAT: _newfstatat,
    Sys.STATX: _statx,
    Sys.CLOSE: _close,
    Sys.DUP: _dup,
    Sys.FCNTL: _fcntl,
    Sys.DUP2: _dup2,
    Sys.DUP3: _dup2,
    Sys.CLOSE_RANGE: _forget_all,
    Sys.EXECVE: _forget_all,
    Sys.EXECVEAT: _forget_all,
}
"""Every call that the filter names, and no other."""
