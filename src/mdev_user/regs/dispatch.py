"""Dispatch: the tables of a bar class, with the methods that a driver class hung on its registers.

An access to a whole register, or to a half of an eight-byte one, that concerns no method and no bank has a row of its
own: one look-up and one expression.
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mdev_user.regs.layout import Candidates, Cover, Layout
from mdev_user.regs.slots import Slot


@dataclass(frozen=True, slots=True)
class ReadHook:
    """Bits that are computed when they are read; ``compute`` is given the owner and answers at bit 0."""

    lsb: int
    mask: int
    """At the place of the bits."""
    compute: Callable[[Any], int]  # Any: the owner, of whatever class


@dataclass(frozen=True, slots=True)
class WriteHook:
    """Told when one of these bits is written; ``call`` is given the owner and the whole register as written."""

    mask: int
    call: Callable[[Any, int], None]  # Any: the owner, of whatever class


class Everything:
    """A container of every register: what is watched where interrupts depend on computed bits."""

    def __contains__(self, _index: object) -> bool:
        return True


_Key = tuple[int, int]


class Dispatch:
    """The tables of a bar class and of the methods that a driver class hung on it."""

    __slots__ = ("exact_reads", "exact_writes", "layout", "plain_reads", "plain_writes", "read_hooks", "write_hooks")

    def __init__(
        self,
        layout: Layout,
        read_hooks: Mapping[int, Sequence[ReadHook]] | None = None,
        write_hooks: Mapping[int, Sequence[WriteHook]] | None = None,
        watched: Container[int] = (),
    ) -> None:
        """Hooks by the register's index; ``watched`` are the registers that interrupts depend on."""
        self.layout = layout
        self.read_hooks = dict(read_hooks or {})
        self.write_hooks = dict(write_hooks or {})
        self.exact_reads = dict(_exact(layout.reads))
        self.exact_writes = dict(_exact(layout.writes))
        self.plain_reads = {
            key: (slot.index, shift, mask & ~slot.masks.hidden >> shift)
            for slot in _sole(self.exact_reads)
            if slot.index not in self.read_hooks and not slot.masks.once and not is_missing(slot)
            for key, shift, mask in _wholes(slot)
        }
        self.plain_writes = {
            key: _plain_write(slot, shift, mask << shift, settles=slot.index in watched)
            for slot in _sole(self.exact_writes)
            if slot.index not in self.write_hooks and not slot.masks.missing
            for key, shift, mask in _wholes(slot)
        }


def _exact(cover: Cover) -> Iterator[tuple[_Key, Candidates]]:
    """Offset and size of the registers that share their place with none, or only with others just as large."""
    for start, candidates in zip(cover.bounds, cover.candidates, strict=True):
        if not candidates:
            continue
        size = candidates[0].size
        same = all(slot.offset == start and slot.size == size for slot in candidates)
        pieces = list(cover.pieces(start, start + size))
        if same and len(pieces) == 1:  # nothing else begins within
            yield (start, size), candidates


def _sole(exact: Mapping[_Key, Candidates]) -> Iterator[Slot]:
    return (candidates[0] for candidates in exact.values() if len(candidates) == 1 and candidates[0].selected is None)


def _wholes(slot: Slot) -> Iterator[tuple[_Key, int, int]]:
    """The accesses that are worth a row: the whole register, and the halves by which eight bytes are often accessed."""
    yield (slot.offset, slot.size), 0, slot.full
    if slot.size == 8:
        yield (slot.offset, 4), 0, 0xFFFF_FFFF
        yield (slot.offset + 4, 4), 32, 0xFFFF_FFFF


def is_missing(slot: Slot) -> bool:
    return slot.masks.missing == slot.full


_PlainWrite = tuple[int, bool, tuple[int, int, int, int, int] | None]
"""Index, whether it settles, and how to combine; None: the value is what was written."""


def _plain_write(slot: Slot, shift: int, enable: int, *, settles: bool) -> _PlainWrite:
    masks = slot.masks
    if masks.store == enable == slot.full:
        return slot.index, settles, None
    store = masks.store & enable
    return slot.index, settles, (shift, ~store, store, masks.clear, masks.put)
