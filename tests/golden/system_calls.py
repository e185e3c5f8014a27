"""One step of the transcript as system calls: what each operation does, and what it writes down of it."""

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from golden.transcript import Answer

MOST = 1 << 17
"""Bytes of one read."""

_OPEN_FAILED = "open"
_OF_MODE = {"r": os.O_RDONLY, "w": os.O_WRONLY, "rw": os.O_RDWR}
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_NAMED = {"n": b"\n", "t": b"\t", "r": b"\r", "0": b"\0", "\\": b"\\"}


class Failed(Exception):
    """A system call failed; ``out`` is what the recorder wrote beside the errno."""

    def __init__(self, error: OSError, out: str = "") -> None:
        super().__init__(str(error))
        self.errno = name_of(error)
        self.out = out


def name_of(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error.errno))


def data_of(text: str) -> bytes:
    """The bytes of a data argument with C escapes; ``\\0`` is always one NUL, whatever digits follow."""
    parts, at = [], 0
    for found in _ESCAPE.finditer(text):
        parts.append(text[at : found.start()].encode())
        parts.append(bytes.fromhex(found[1]) if found[1] else _NAMED[found[2]])
        at = found.end()
    return b"".join([*parts, text[at:].encode()])


def perform(cmd: tuple[str, ...]) -> Answer:
    """Any operation but ``sh``. KeyError for one that there is not."""
    try:
        rc, out = OPERATIONS[cmd[0]](*cmd[1:])
    except Failed as failed:
        return Answer(-1, failed.errno, failed.out)
    except OSError as error:
        return Answer(-1, name_of(error), "")
    return Answer(rc, None, out)


@contextmanager
def opened(path: str, flags: int) -> Iterator[int]:
    """A file descriptor for the length of a block. Failed, saying so, when it cannot be opened."""
    try:
        fd = os.open(path, flags, 0o644)
    except OSError as error:
        raise Failed(error, _OPEN_FAILED) from None
    try:
        yield fd
    finally:
        os.close(fd)


# --- operations: each returns the system call's value and a text ------------------------------------------------------


def write(path: str, data: str, flags: int = os.O_WRONLY) -> tuple[int, str]:
    with opened(path, flags) as fd:
        return os.write(fd, data_of(data)), ""


def write_rw(path: str, data: str) -> tuple[int, str]:
    return write(path, data, os.O_RDWR)


def write_truncating(path: str, data: str) -> tuple[int, str]:
    return write(path, data, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)


def write_at(path: str, data: str, offset: str) -> tuple[int, str]:
    with opened(path, os.O_WRONLY) as fd:
        return os.pwrite(fd, data_of(data), int(offset)), ""


def write_repeated(path: str, character: str, number: str) -> tuple[int, str]:
    return write(path, character * int(number))


def write_twice(path: str, first: str, second: str) -> tuple[int, str]:
    """Two writes to one open file; fails as the second does."""
    with opened(path, os.O_WRONLY) as fd:
        answers = [_written(fd, data_of(each)) for each in (first, second)]
    (rc1, failed1), (rc2, failed2) = answers
    out = f"first={rc1} {name_of(failed1) if failed1 else 0} second={rc2} {name_of(failed2) if failed2 else 0}"
    if failed2 is not None:
        raise Failed(failed2, out)
    return rc2, out


def _written(fd: int, data: bytes) -> tuple[int, OSError | None]:
    try:
        return os.write(fd, data), None
    except OSError as error:
        return -1, error


def read(path: str) -> tuple[int, str]:
    with opened(path, os.O_RDONLY) as fd:
        data = os.read(fd, MOST)
    return len(data), data.decode(errors="replace")


def open_only(path: str, mode: str) -> tuple[int, str]:
    os.close(os.open(path, _OF_MODE[mode]))
    return 0, ""


def ls(path: str) -> tuple[int, str]:
    names = sorted(each.name for each in Path(path).iterdir())
    return len(names), "".join(f"{name}\n" for name in names)


def readlink(path: str) -> tuple[int, str]:
    return 0, str(Path(path).readlink())


def lstat(path: str) -> tuple[int, str]:
    found = os.lstat(path)
    return 0, f"mode={found.st_mode:06o} size={found.st_size} uid={found.st_uid} gid={found.st_gid}"


def tree(path: str, depth: str = "99") -> tuple[int, str]:
    return 0, "".join(f"{line}\n" for line in _tree(path, int(depth)))


def _tree(path: str, depth: int) -> Iterator[str]:
    found = os.lstat(path)
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_ISLNK(found.st_mode):
        yield f"l {mode:04o} {path} -> {Path(path).readlink()}"
    elif not stat.S_ISDIR(found.st_mode):
        yield f"f {mode:04o} {found.st_size} {path} {_content(path)}"
    else:
        yield f"d {mode:04o} {path}"
        for below in sorted(Path(path).iterdir()) if depth else ():
            yield from _tree(str(below), depth - 1)


def _content(path: str) -> str:
    try:
        _, text = read(path)
    except Failed as failed:
        return f"!open:{failed.errno}"
    except OSError as error:
        return f"!read:{name_of(error)}"
    return '= "' + text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") + '"'


def change(kind: str, path: str) -> tuple[int, str]:
    """``fsop``: what a file system may do and sysfs does not."""
    _CHANGES[kind](path)
    return 0, ""


_CHANGES: dict[str, Callable[[str], None]] = {
    "mkdir": os.mkdir,
    "rmdir": os.rmdir,
    "unlink": os.unlink,
    "creat": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)),
    "truncate": lambda path: os.truncate(path, 0),
    "truncate10": lambda path: os.truncate(path, 10),
    "chmod": lambda path: Path(path).chmod(0o600),
}

OPERATIONS: dict[str, Callable[..., tuple[int, str]]] = {
    "write": write,
    "writerw": write_rw,
    "writetrunc": write_truncating,
    "writerep": write_repeated,
    "write2": write_twice,
    "pwrite": write_at,
    "read": read,
    "open": open_only,
    "ls": ls,
    "readlink": readlink,
    "stat": lstat,
    "tree": tree,
    "fsop": change,
}
