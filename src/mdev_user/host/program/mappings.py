"""What a process of an mdev's own was told of its guest's memory: the files, each once, and what is mapped of them."""

from collections.abc import Iterable, Sequence
from itertools import count

from mdev_user.host.program.wire import Ask, Mapped, ask
from mdev_user.vfio.dma import DmaFlags, Mapping

Message = tuple[bytes, tuple[int, ...]]
"""With the file descriptors that travel along."""
_MOST = 4096
"""Mappings in one message."""


class ToldMappings:
    """Makes the messages; a file is known by its descriptor, which is open as long as something of it is mapped."""

    def __init__(self) -> None:
        self.size = 0
        """Bytes that are mapped."""
        self._numbers = count(1)
        self._files: dict[int, list[int]] = {}
        """By descriptor: the file's number in the process, and how many mappings lie in it."""
        self._mapped: dict[int, int] = {}
        """By address: the descriptor."""

    def map(self, mappings: Iterable[Mapping]) -> list[Message]:
        """Those that lie in files, with the files that are new."""
        messages: list[Message] = []
        told: list[Mapped] = []
        for mapping in mappings:
            place = None if mapping.backing is None else mapping.backing.file()
            if place is not None:
                told.append(self._map(mapping, *place, messages))
        parts = (told[at : at + _MOST] for at in range(0, len(told), _MOST))
        return [*messages, *((ask(Ask.MAP, 0, part), ()) for part in parts)]

    def known(self, mappings: Sequence[Mapping]) -> list[tuple[int, int]]:
        """The ranges of those that it was told of."""
        return [(each.iova, each.size) for each in mappings if each.iova in self._mapped]

    def unmap(self, ranges: Sequence[tuple[int, int]]) -> list[Message]:
        """It has let go of them: the files that it needs no longer."""
        messages: list[Message] = []
        for iova, size in ranges:
            fd = self._mapped.pop(iova)
            file = self._files[fd]
            file[1] -= 1
            self.size -= size
            if not file[1]:
                del self._files[fd]
                messages.append((ask(Ask.DROP_FILE, file[0]), ()))
        return messages

    def _map(self, mapping: Mapping, fd: int, offset: int, messages: list[Message]) -> Mapped:
        if fd not in self._files:
            self._files[fd] = [next(self._numbers), 0]
            messages.append((ask(Ask.FILE, self._files[fd][0]), (fd,)))
        file = self._files[fd]
        file[1] += 1
        self.size += mapping.size
        self._mapped[mapping.iova] = fd
        return Mapped(mapping.iova, mapping.size, DmaFlags.WRITE in mapping.flags, file[0], offset)
