"""Dispatch: the tables of a bar class, with the methods that a driver class hung on its registers.

An access to a whole register, or to a half of an eight-byte one, has a row of its own: one look-up and one expression,
and then whatever methods it concerns.
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from mdev_user.regs.layout import Candidates, Cover, Layout
from mdev_user.regs.slots import Condition, Slot


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


Key: TypeAlias = tuple[int, int]
"""Offset and size of an access, in bytes."""

Effects: TypeAlias = tuple[tuple[tuple[int, int, Callable[[Any], int]], ...], int]  # Any: as in ReadHook
"""What a read of a whole register computes, each as a `ReadHook`, and the bits that it clears."""

ReadRow: TypeAlias = tuple[int, int, int, Effects | None]
"""Index, shift and mask of what is read; where a read does more than that, what."""

Combine: TypeAlias = tuple[int, int, int, int, int]
"""How far to shift what was written; the bits that stay, that are stored, that a 1 clears, and that a 1 sets."""

WriteRow: TypeAlias = tuple[int, Combine | None, bool, tuple[Callable[[Any, int], None], ...]]  # Any: as in WriteHook
"""Index; how to combine (None: the value is what was written); whether to settle; whom to tell."""

_Row = TypeVar("_Row", ReadRow, WriteRow)
Alternatives: TypeAlias = tuple[tuple[int, int, int, bool, _Row], ...]
"""The rows of the registers that share a place, each behind what selects it, in the order in which they are asked.

A row's is the turn when the bits of ``mask`` of the register ``index`` are ``bits``, or, by the fourth, are not.
"""


class Dispatch:
    """The tables of a bar class and of the methods that a driver class hung on it. What has no row goes by pieces."""

    __slots__ = ("banked_reads", "banked_writes", "layout", "read_hooks", "reads", "watched", "write_hooks", "writes")

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
        self.watched = watched
        self.reads: dict[Key, ReadRow] = {}
        self.banked_reads: dict[Key, Alternatives[ReadRow]] = {}
        self.writes: dict[Key, WriteRow] = {}
        self.banked_writes: dict[Key, Alternatives[WriteRow]] = {}
        _fill(layout.reads, self._read_row, self.reads, self.banked_reads)
        _fill(layout.writes, self._write_row, self.writes, self.banked_writes)

    def _read_row(self, slot: Slot, shift: int, mask: int) -> ReadRow | None:
        visible = mask & ~slot.masks.hidden >> shift
        if not (slot.index in self.read_hooks or slot.masks.once or is_missing(slot)):
            return slot.index, shift, visible, None
        if mask != slot.full or is_missing(slot):
            return None
        hooks = tuple((hook.lsb, hook.mask, hook.compute) for hook in self.read_hooks.get(slot.index, ()))
        return slot.index, 0, visible, (hooks, slot.masks.once)

    def _write_row(self, slot: Slot, shift: int, mask: int) -> WriteRow | None:
        hooks = self.write_hooks.get(slot.index, ())
        whole = mask == slot.full
        if slot.masks.missing or (hooks and not whole):
            return None
        stores = slot.masks.store | slot.masks.clear | slot.masks.put
        settles = bool(hooks) or (stores != 0 and slot.index in self.watched)
        return slot.index, _combine(slot, shift, mask << shift), settles, tuple(hook.call for hook in hooks)


def _combine(slot: Slot, shift: int, enable: int) -> Combine | None:
    masks = slot.masks
    if masks.store == enable == slot.full:
        return None
    store = masks.store & enable
    return shift, ~store, store, masks.clear, masks.put


def _fill(
    cover: Cover,
    row_of: Callable[[Slot, int, int], _Row | None],
    rows: dict[Key, _Row],
    banked: dict[Key, Alternatives[_Row]],
) -> None:
    """Make rows for the registers that share their place with none, or only with others just as large."""
    for start, candidates in zip(cover.bounds, cover.candidates, strict=True):
        if not _is_whole(cover, start, candidates):
            continue
        first = candidates[0]
        if first.selected is None:
            made = ((key, row_of(first, shift, mask)) for key, shift, mask in _wholes(first))
            rows.update((key, row) for key, row in made if row is not None)
        else:
            found = [(slot.selected, row_of(slot, 0, slot.full)) for slot in candidates]
            kept = tuple(_behind(bank, row) for bank, row in found if row is not None)
            if len(kept) == len(found):
                banked[start, first.size] = kept


def _behind(bank: Condition | None, row: _Row) -> tuple[int, int, int, bool, _Row]:
    """An alternative: its bank as numbers, so that nothing is called to see whether it is selected."""
    if bank is None:
        return 0, 0, 0, True, row
    return bank.index, bank.mask, bank.wanted or 0, bank.wanted is not None, row


def _is_whole(cover: Cover, start: int, candidates: Candidates) -> bool:
    """Whether all the candidates begin here, are of one size, and nothing else begins within."""
    if not candidates:
        return False
    size = candidates[0].size
    same = all(slot.offset == start and slot.size == size for slot in candidates)
    return same and len(list(cover.pieces(start, start + size))) == 1


def _wholes(slot: Slot) -> Iterator[tuple[Key, int, int]]:
    """The accesses that are worth a row: the whole register, and the halves by which eight bytes are often accessed."""
    yield (slot.offset, slot.size), 0, slot.full
    if slot.size == 8:
        yield (slot.offset, 4), 0, 0xFFFF_FFFF
        yield (slot.offset + 4, 4), 32, 0xFFFF_FFFF


def is_missing(slot: Slot) -> bool:
    return slot.masks.missing == slot.full
