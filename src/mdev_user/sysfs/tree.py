"""The nodes of a sysfs tree and kernfs's rules for them: directories, attributes, links; and device nodes.

One thread at a time changes the tree (the layout, under the bus's event lock) while many read it. No lock is held by
readers: a change is one operation on one dictionary, and a node that is taken away says so itself (``dead``).
"""

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import ClassVar, Generic, Protocol, TypeVar

from typing_extensions import override

from mdev_user.errors import AlreadyExists, InvalidValue, MdevUserError, NoDevice
from mdev_user.vfio.device_numbers import Number

PAGE = 4096
"""The st_size of every attribute, and the most that one show gives or one store takes (kernfs: PAGE_SIZE)."""

_S = TypeVar("_S")
Owner = tuple[int, int]
"""uid and gid."""


@dataclass(frozen=True, slots=True)
class Rule(Generic[_S]):
    """What an attribute is, shared by all files of its kind; the operations get the file's subject.

    ``show`` returns the whole text with its newline; ``store`` takes what one write(2) brought, at most a page.
    """

    mode: int
    show: Callable[[_S], str] | None = None
    store: Callable[[_S, bytes], None] | None = None


class Node:
    """What all nodes have. ``mode`` are the permission bits; chmod and chown last as long as the node."""

    __slots__ = ("dead", "gid", "mode", "st_ino", "uid")
    kind: ClassVar[int]
    """The file type bits of st_mode."""
    size: int = 0
    """st_size, and st_blocks is 0."""

    def __init__(self, st_ino: int, mode: int, owner: Owner) -> None:
        self.st_ino = st_ino
        self.mode = mode
        self.uid, self.gid = owner
        self.dead = False

    @property
    def nlink(self) -> int:
        return 1

    def chmod(self, mode: int) -> None:
        self.mode = mode & 0o7777

    def chown(self, uid: int, gid: int) -> None:
        """-1 leaves that one as it is."""
        if uid != -1:
            self.uid = uid
        if gid != -1:
            self.gid = gid


class OpenFile(Protocol):
    """A file in use: it stays what it was when it was opened, whatever happens to its path."""

    node: Node

    def read(self, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes, none at the end. ENODEV when the node is gone."""
        ...

    def write(self, data: bytes, offset: int) -> int:
        """Take what one system call brought, and return how many were taken. ENODEV when the node is gone."""
        ...


class File(Node):
    """What can be opened."""

    __slots__ = ()
    kind = stat.S_IFREG

    def open(self, caller: Callable[[], int]) -> OpenFile:
        """``caller`` is asked for the uid of whoever opens it, where that matters."""
        raise NotImplementedError


class Attribute(File, Generic[_S]):
    """A file whose content is a function."""

    __slots__ = ("_rule", "_subject")
    size = PAGE

    def __init__(self, st_ino: int, owner: Owner, rule: Rule[_S], subject: _S) -> None:
        super().__init__(st_ino, rule.mode, owner)
        self._rule = rule
        self._subject = subject

    @override
    def open(self, caller: Callable[[], int]) -> "OpenAttribute[_S]":
        return OpenAttribute(self)

    def show(self) -> bytes:
        """The text now. ENODEV when the node is gone, EIO when chmod made readable what shows nothing."""
        if self.dead:
            raise NoDevice("the attribute is gone")
        if self._rule.show is None:
            raise MdevUserError("the attribute shows nothing")
        return self._rule.show(self._subject).encode()[:PAGE]

    def store(self, data: bytes) -> int:
        """Take one write; returns how many bytes were taken: no more than a page. ENODEV and EIO as `show`."""
        if self.dead:
            raise NoDevice("the attribute is gone")
        if self._rule.store is None:
            raise MdevUserError("the attribute takes nothing")
        taken = data[:PAGE]
        self._rule.store(self._subject, taken)
        return len(taken)


class OpenAttribute(Generic[_S]):
    """Its text is made when reading begins, and again whenever it begins at 0; further reads get its slices."""

    __slots__ = ("_attribute", "_text", "node")

    def __init__(self, attribute: Attribute[_S]) -> None:
        self.node: Node = attribute
        self._attribute = attribute
        self._text: bytes | None = None

    def read(self, size: int, offset: int) -> bytes:
        if self.node.dead:
            raise NoDevice("the attribute is gone")
        if offset == 0 or self._text is None:
            self._text = self._attribute.show()
        return self._text[offset : offset + size]

    def write(self, data: bytes, _offset: int) -> int:
        """One store, wherever in the file it was aimed at."""
        return self._attribute.store(data)


class Contents(Protocol):
    """Bytes of a fixed number, such as a config space; no access is beyond their end."""

    def __len__(self) -> int: ...

    def read(self, offset: int, count: int) -> bytes: ...

    def write(self, offset: int, data: bytes) -> object: ...


class Binary(File):
    """A file of bytes at offsets. Who is neither root nor the tree's owner is shown the first ``public`` of them."""

    __slots__ = ("_contents", "_privileged", "_public", "size")

    def __init__(self, st_ino: int, mode: int, owner: Owner, contents: Contents, public: int) -> None:
        super().__init__(st_ino, mode, owner)
        self.size = len(contents)
        self._contents = contents
        self._privileged = {0, owner[0]}
        self._public = public

    @override
    def open(self, caller: Callable[[], int]) -> "OpenBinary":
        shown = self.size if caller() in self._privileged else self._public
        return OpenBinary(self, self._contents, shown)


class OpenBinary:
    """Reads and writes at the offsets that they are aimed at, and only up to the end."""

    __slots__ = ("_contents", "_shown", "node")

    def __init__(self, node: Binary, contents: Contents, shown: int) -> None:
        self.node: Node = node
        self._contents = contents
        self._shown = shown

    def read(self, size: int, offset: int) -> bytes:
        if self.node.dead:
            raise NoDevice("the file is gone")
        return self._contents.read(offset, min(size, self._shown - offset)) if offset < self._shown else b""

    def write(self, data: bytes, offset: int) -> int:
        if self.node.dead:
            raise NoDevice("the file is gone")
        taken = data[: max(0, self.node.size - offset)]
        if taken:
            self._contents.write(offset, taken)
        return len(taken)


class Link(Node):
    """A symbolic link, in the directory ``above`` to the node at ``to``, both as paths from the root."""

    __slots__ = ("_above", "_to")
    kind = stat.S_IFLNK

    def __init__(self, st_ino: int, owner: Owner, above: str, to: str) -> None:
        super().__init__(st_ino, 0o777, owner)
        self._above = above
        self._to = to

    @property
    def target(self) -> str:
        """The text of the link; a create makes a dozen links and most are never read, so it is made when asked for."""
        return _relative(self._above, self._to)


class DeviceNode(Node):
    """A character device. Where it is a device's of a directory, both always have one owner."""

    __slots__ = ("_directory", "number")
    kind = stat.S_IFCHR

    def __init__(self, st_ino: int, mode: int, owner: Owner, number: Number, directory: "Directory | None") -> None:
        super().__init__(st_ino, mode, owner)
        self.number = number
        self._directory = directory

    @override
    def chown(self, uid: int, gid: int) -> None:
        if self._directory is not None:
            self._directory.chown(uid, gid)
        else:
            super().chown(uid, gid)

    def leave(self) -> None:
        """It is gone, whatever becomes of the directory; the two know each other no longer."""
        if self._directory is not None:
            self._directory.device_nodes = tuple(each for each in self._directory.device_nodes if each is not self)
            self._directory = None


class Directory(Node):
    """Names and their nodes. ``on_chown`` is called with the new uid and gid before they are taken; it may refuse."""

    __slots__ = ("_nodes", "_subdirectories", "device_nodes", "on_chown", "path")
    kind = stat.S_IFDIR

    def __init__(self, st_ino: int, owner: Owner, path: str = "") -> None:
        super().__init__(st_ino, 0o755, owner)
        self.path = path
        self._nodes: dict[str, Node] = {}
        self._subdirectories = 0
        self.on_chown: Callable[[int, int], None] | None = None
        self.device_nodes: tuple[DeviceNode, ...] = ()
        """Whose this directory is, theirs are these nodes."""

    @property
    @override
    def nlink(self) -> int:
        """Two and one for each directory in it, counted as they come and go."""
        return 2 + self._subdirectories

    @override
    def chown(self, uid: int, gid: int) -> None:
        if self.on_chown is not None:
            self.on_chown(uid, gid)
        super().chown(uid, gid)
        for node in self.device_nodes:
            node.uid, node.gid = self.uid, self.gid

    def get(self, name: str) -> Node | None:
        return self._nodes.get(name)

    def __len__(self) -> int:
        return len(self._nodes)

    def entries(self) -> dict[str, Node]:
        """A copy, made in one step: the writer may go on."""
        return self._nodes.copy()

    def add(self, name: str, node: Node) -> None:
        """EEXIST when the name is taken."""
        if name in self._nodes:
            raise AlreadyExists(f"sysfs has a node {name!r} here")
        self._subdirectories += isinstance(node, Directory)
        self._nodes[name] = node

    def remove(self, name: str) -> Node | None:
        """The node that had the name, which is dead now, or None."""
        node = self._nodes.pop(name, None)
        if node is not None:
            self._subdirectories -= isinstance(node, Directory)
            node.dead = True
        return node


class Tree:
    """Nodes by their paths, which are relative to the root (that is "") and have no slash at either end."""

    def __init__(self, owner: Owner = (0, 0)) -> None:
        """``owner`` is the daemon's: an ordinary user's tree would show the overflow ids otherwise."""
        self.owner = owner
        self._numbers = count(1)
        self.root = Directory(next(self._numbers), owner)
        self._directories = {"": self.root}
        """By path, so that finding a node takes the same time at any depth: FUSE asks by whole paths."""

    def lookup(self, path: str) -> Node | None:
        """None when there is no such node."""
        directory = self._directories.get(path)
        if directory is not None:
            return directory
        above, _, name = path.rpartition("/")
        directory = self._directories.get(above)
        return directory.get(name) if directory is not None else None

    def walk(self) -> Iterator[tuple[str, Node]]:
        """Every path with its node, sorted within a directory, for listings and tests."""
        yield from _walk("", self.root)

    def add_directory(self, path: str) -> Directory:
        """As mkdir -p: the directory, made with those above it where they are absent. EEXIST for a file's name."""
        found = self._directories.get(path)
        if found is not None:
            return found
        above, _, name = path.rpartition("/")
        directory = Directory(next(self._numbers), self.owner, path)
        self.add_directory(above).add(name, directory)
        self._directories[path] = directory
        return directory

    def add_attribute(self, path: str, rule: Rule[_S], subject: _S) -> None:
        directory, name = self._place(path)
        directory.add(name, Attribute(next(self._numbers), self.owner, rule, subject))

    def add_binary(self, path: str, mode: int, contents: Contents, public: int) -> None:
        """See `Binary`."""
        directory, name = self._place(path)
        directory.add(name, Binary(next(self._numbers), mode, self.owner, contents, public))

    def add_link(self, path: str, target: str) -> None:
        """``target`` is the path of a node; the link's text leads there from the directory that it is in."""
        directory, name = self._place(path)
        directory.add(name, Link(next(self._numbers), self.owner, directory.path, target))

    def add_hidden_directory(self, name: str) -> None:
        """One in the root that no listing shows."""
        self._directories[name] = Directory(next(self._numbers), self.owner, name)

    def add_device_node(self, path: str, mode: int, number: Number, of: str | None = None) -> None:
        """``of`` is the directory in sysfs whose owner's the node is and stays; None: it begins as the tree's."""
        directory, name = self._place(path)
        device = self._directories[of] if of is not None else None
        owner = (device.uid, device.gid) if device is not None else self.owner
        node = DeviceNode(next(self._numbers), mode, owner, number, device)
        directory.add(name, node)
        if device is not None:
            device.device_nodes += (node,)

    def remove(self, path: str) -> None:
        """Take a node away with all that is below it; open files of theirs answer ENODEV. Nothing if absent."""
        above, _, name = path.rpartition("/")
        directory = self._directories.get(above)
        node = directory.remove(name) if directory is not None else None
        if isinstance(node, Directory):
            self._empty(path, node)
        elif isinstance(node, DeviceNode):
            node.leave()

    def remove_if_empty(self, path: str) -> None:
        directory = self._directories.get(path)
        if directory is not None and not directory:
            self.remove(path)

    def _empty(self, path: str, directory: Directory) -> None:
        del self._directories[path]
        for name in directory.entries():
            node = directory.remove(name)
            if isinstance(node, Directory):
                self._empty(f"{path}/{name}", node)

    def _place(self, path: str) -> tuple[Directory, str]:
        above, _, name = path.rpartition("/")
        directory = self._directories.get(above)
        if directory is None:
            raise InvalidValue(f"sysfs has no directory {above!r} for {name!r}")
        return directory, name


def _walk(prefix: str, directory: Directory) -> Iterator[tuple[str, Node]]:
    for name, node in sorted(directory.entries().items()):
        yield prefix + name, node
        if isinstance(node, Directory):
            yield from _walk(f"{prefix}{name}/", node)


def _relative(start: str, target: str) -> str:
    """The way from one directory to a node as sysfs writes it: up to a directory of both, down to the node's name."""
    here, there = start.split("/"), target.split("/")
    common = 0
    for mine, theirs in zip(here, there[:-1], strict=False):
        if mine != theirs:
            break
        common += 1
    return "/".join([".."] * (len(here) - common) + there[common:])
