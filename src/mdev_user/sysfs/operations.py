"""What FUSE asks, answered from the tree: one method a request, with the errno that kernfs has for it.

No FUSE library is needed here: the methods are those that mfusepy looks for. Reading, writing and listing go by the
number of the open file, so that what was opened stays what it was, whatever happened to the path.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from errno import EACCES, EINTR, EIO, EISDIR, ENOENT, ENOTDIR, EPERM
from itertools import count
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from mdev_user.errors import MdevUserError, errno_of
from mdev_user.sysfs.tree import PAGE, DeviceNode, Directory, File, Link, Node, OpenFile, Tree

_log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_R = TypeVar("_R")
_LAST_ERRNO = 511
"""FUSE in the kernel refuses an answer with a higher one, and the asking program would wait for ever."""
_NAME_MAX = 255
_KNOWN_SECONDS = 24 * 3600.0
"""How long the kernel believes a mode. It asks for each name on a path anyway, and then learns what is new; so this is
for what it holds, such as a working directory, which can be used as in sysfs when its name is gone."""
_READS = 0o444
_WRITES = 0o222
_NEEDED = {os.O_RDONLY: (_READS,), os.O_WRONLY: (_WRITES,), os.O_RDWR: (_READS, _WRITES)}


class FileInfo(Protocol):
    """The part of libfuse's fuse_file_info that is used."""

    flags: int
    fh: int


class Config(Protocol):
    """The part of libfuse's fuse_config that is used; times in seconds."""

    entry_timeout: float
    negative_timeout: float
    attr_timeout: float
    use_ino: int
    nullpath_ok: int


class Session(Protocol):
    """What the library that serves the requests must be told and told about."""

    open_hints: Sequence[str]
    """The bits of fuse_file_info to set when a file is opened."""

    def begin(self) -> None:
        """The kernel has begun to ask."""
        ...

    def keep_thread(self) -> object:
        """This thread will ask again."""
        ...

    def caller(self) -> int:
        """The uid of who asked for what this thread is doing."""
        ...


def _answer(name: str, error: BaseException) -> OSError:
    """The error as an OSError that FUSE can carry; what nobody foresaw is logged and becomes EIO."""
    number = errno_of(error)
    if not isinstance(error, OSError | MdevUserError):
        _log.error("sysfs: %s failed", name, exc_info=error)
    if not isinstance(number, int) or not 0 < number <= _LAST_ERRNO or number == EINTR:
        return OSError(EIO, os.strerror(EIO))
    return OSError(number, str(error))


def _answering(
    operation: Callable[Concatenate["Operations", _P], _R],
) -> Callable[Concatenate["Operations", _P], _R]:
    """Whatever comes out of a driver's show or store is an errno to the caller and nothing to anybody else."""

    def answering(self: "Operations", /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return operation(self, *args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - a SystemExit from a driver would end the mount
            raise _answer(operation.__name__, error) from None

    return answering


class Operations:
    """The requests. Called from many threads; the tree needs no lock and an open file has one user at a time."""

    use_ns = True

    def __init__(self, tree: Tree, times: Mapping[str, object], session: Session) -> None:
        """``times`` are the fields of a stat that all nodes have in common."""
        self._tree = tree
        self._times = times
        self._session = session
        self._numbers = count(1)
        self._files: dict[int, OpenFile] = {}
        self._directories: dict[int, Directory] = {}

    def init_with_config(self, _connection: object, config: Config) -> None:
        """The kernel keeps no name: what a write to one file changes is seen in the next system call."""
        config.entry_timeout = config.negative_timeout = 0.0
        config.attr_timeout = _KNOWN_SECONDS
        config.use_ino = 1
        config.nullpath_ok = 1
        self._session.begin()

    # --- nodes ------------------------------------------------------------------------------------------------

    @_answering
    def getattr(self, path: str | None, file: FileInfo | None = None) -> dict[str, object]:
        """Nine of ten requests are this one, and what is returned costs time by the field: zeros are left out."""
        self._session.keep_thread()
        node = self._files[file.fh].node if path is None and file is not None else self._node(path)
        fields: dict[str, object] = {"st_mode": node.kind | node.mode, "st_ino": node.st_ino, "st_nlink": node.nlink}
        if node.size:
            fields["st_size"] = node.size
        if node.uid or node.gid:
            fields |= {"st_uid": node.uid, "st_gid": node.gid}
        if isinstance(node, DeviceNode):
            fields["st_rdev"] = os.makedev(*node.number)
        fields |= self._times
        return fields

    @_answering
    def readlink(self, path: str) -> str:
        node = self._node(path)
        if not isinstance(node, Link):
            raise OSError(EIO, f"{path} is no link")
        return node.target

    @_answering
    def chmod(self, path: str | None, mode: int) -> int:
        """Who may is the kernel's to check (default_permissions)."""
        self._node(path).chmod(mode)
        return 0

    @_answering
    def chown(self, path: str | None, uid: int, gid: int) -> int:
        self._node(path).chown(uid, gid)
        return 0

    @_answering
    def truncate(self, _path: str | None, _length: int) -> int:
        """Allowed and without effect, so that a shell's `>` works."""
        return 0

    @_answering
    def utimens(self, _path: str | None, _times: tuple[int, int] | None) -> int:
        return 0

    @_answering
    def statfs(self, _path: str) -> dict[str, int]:
        return {"f_bsize": PAGE, "f_frsize": PAGE, "f_namemax": _NAME_MAX}

    # --- directories ------------------------------------------------------------------------------------------

    @_answering
    def opendir(self, path: str) -> int:
        """Asked only for what the kernel has found before: one whose name is gone is open to nothing but a listing."""
        node = self._tree.lookup(path[1:])
        if node is None:
            node = Directory(0, (0, 0))
        if not isinstance(node, Directory):
            raise OSError(ENOTDIR, path)
        number = next(self._numbers)
        self._directories[number] = node
        return number

    @_answering
    def readdir(self, _path: str | None, number: int) -> list[tuple[str, dict[str, int], int]]:
        """A directory that is gone lists empty. Each entry has its own type: KubeVirt asks only that."""
        directory = self._directories[number]
        listed = [(".", directory), ("..", directory), *directory.entries().items()]
        return [(name, {"st_mode": node.kind, "st_ino": node.st_ino}, 0) for name, node in listed]

    @_answering
    def releasedir(self, _path: str | None, number: int) -> int:
        self._directories.pop(number, None)
        return 0

    # --- files ------------------------------------------------------------------------------------------------

    @_answering
    def open(self, path: str, file: FileInfo) -> int:
        """EACCES where the mode has no such bit for anybody: sysfs says so even to root."""
        node = self._node(path)
        if not isinstance(node, File):
            raise OSError(EISDIR, path)
        for bits in _NEEDED.get(file.flags & os.O_ACCMODE, (_READS, _WRITES)):
            if not node.mode & bits:
                raise OSError(EACCES, f"{path} has mode {node.mode:04o}")
        for hint in self._session.open_hints:
            setattr(file, hint, 1)
        file.fh = next(self._numbers)
        self._files[file.fh] = node.open(self._session.caller)
        return 0

    @_answering
    def read(self, _path: str | None, size: int, offset: int, file: FileInfo) -> bytes:
        return self._files[file.fh].read(size, offset)

    @_answering
    def write(self, _path: str | None, data: bytes, offset: int, file: FileInfo) -> int:
        return self._files[file.fh].write(data, offset)

    @_answering
    def release(self, _path: str | None, file: FileInfo) -> int:
        self._files.pop(file.fh, None)
        return 0

    # --- what sysfs does not do -------------------------------------------------------------------------------

    @_answering
    def create(self, path: str, _mode: int, _file: FileInfo) -> int:
        raise OSError(EACCES, f"{path}: sysfs makes its files itself")

    @_answering
    def _refused(self, path: str, *_arguments: object) -> int:
        raise OSError(EPERM, f"{path}: sysfs makes and removes its nodes itself")

    mknod = mkdir = unlink = rmdir = symlink = rename = link = _refused

    def _node(self, path: str | None) -> Node:
        node = self._tree.lookup(path[1:]) if path is not None else None
        if node is None:
            raise OSError(ENOENT, path)
        return node
