"""A register space: one bar in use, as a guest's accesses see it.

The registers' rules and the driver's methods are compiled once per class into tables (`Dispatch`); an access to a whole
register, or to a half of an eight-byte one, that concerns no method and no bank is one look-up and one expression.
Everything else goes piece by piece, by the same rules. A register's methods are called after its bytes were stored;
`Watcher.settle` is called once at the end of an access that may have moved what interrupts depend on.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mdev_user.errors import GuestError, OutOfRange
from mdev_user.regs.layout import Candidates, Cover, Layout, selected
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


class Watcher(Protocol):
    """Who is told what accesses did."""

    def settle(self) -> None:
        """Registers may have changed, and the access is at its end."""

    def refuse(self, error: GuestError) -> None:
        """A method of the driver's refused what the guest did."""

    def count_unmodelled(self, offset: int, count: int, *, written: bool) -> None:
        """An access to bytes where nothing is declared, or which are declared as unimplemented."""


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
        read_hooks: Mapping[int, tuple[ReadHook, ...]] | None = None,
        write_hooks: Mapping[int, tuple[WriteHook, ...]] | None = None,
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
            if slot.index not in self.read_hooks and not slot.masks.once and not _is_missing(slot)
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
        if same and len(pieces) == 1:
            yield (start, size), candidates


def _sole(exact: Mapping[_Key, Candidates]) -> Iterator[Slot]:
    return (candidates[0] for candidates in exact.values() if len(candidates) == 1 and candidates[0].selected is None)


def _wholes(slot: Slot) -> Iterator[tuple[_Key, int, int]]:
    """The accesses that are worth a row: the whole register, and the halves by which eight bytes are often accessed."""
    yield (slot.offset, slot.size), 0, slot.full
    if slot.size == 8:
        yield (slot.offset, 4), 0, 0xFFFF_FFFF
        yield (slot.offset + 4, 4), 32, 0xFFFF_FFFF


def _is_missing(slot: Slot) -> bool:
    return slot.masks.missing == slot.full


def _plain_write(slot: Slot, shift: int, enable: int, *, settles: bool) -> tuple[int, int, int, int, int, int, bool]:
    masks = slot.masks
    store = masks.store & enable
    return slot.index, shift, ~store, store, masks.clear, masks.put, settles


class RegisterSpace:
    """One bar in use. ``values`` are its registers, by their index; whoever holds them is the hardware."""

    __slots__ = (
        "_exact_reads", "_exact_writes", "_layout", "_owner", "_plain_reads", "_plain_writes", "_read_hooks", "_size",
        "_watcher", "_write_hooks", "values",
    )  # fmt: skip

    def __init__(self, dispatch: Dispatch, values: list[int], owner: object, watcher: Watcher) -> None:
        """``owner`` is what the hooks are called with."""
        self.values = values
        self._layout = dispatch.layout
        self._size = dispatch.layout.size
        self._plain_reads, self._plain_writes = dispatch.plain_reads, dispatch.plain_writes
        self._exact_reads, self._exact_writes = dispatch.exact_reads, dispatch.exact_writes
        self._read_hooks, self._write_hooks = dispatch.read_hooks, dispatch.write_hooks
        self._owner = owner
        self._watcher = watcher

    def read(self, offset: int, count: int) -> bytes:
        """A guest's read of any size and alignment. Raises OutOfRange (EFAULT) beyond the bar's end."""
        plain = self._plain_reads.get((offset, count))
        if plain is None:
            return self._read(offset, count)
        index, shift, mask = plain
        return (self.values[index] >> shift & mask).to_bytes(count, "little")

    def write(self, offset: int, data: bytes) -> None:
        """A guest's write of any size and alignment. Raises OutOfRange (EFAULT) beyond the bar's end."""
        plain = self._plain_writes.get((offset, len(data)))
        if plain is None:
            self._write(offset, data)
            return
        index, shift, keep, store, clear, put, settles = plain
        given = int.from_bytes(data, "little") << shift
        values = self.values
        values[index] = (values[index] & keep | given & store) & ~(given & clear) | given & put
        if settles:
            self._watcher.settle()

    def reset(self, *, sticky: bool) -> None:
        """Every register as after power-on; with ``sticky`` those declared so keep their value."""
        for slot in self._layout.slots:
            if not (sticky and slot.sticky):
                self.values[slot.index] = slot.reset

    # --- what is not plain ----------------------------------------------------------------------------------

    def _read(self, offset: int, count: int) -> bytes:
        candidates = self._exact_reads.get((offset, count))
        slot = selected(candidates, self.values) if candidates else None
        if slot is not None:
            data = self._read_slot(slot, slot.full).to_bytes(count, "little")
        else:
            data = self._read_pieces(offset, count)
        self._watcher.settle()
        return data

    def _read_pieces(self, offset: int, count: int) -> bytes:
        data = bytearray(count)
        for start, end, slot in self._touched(self._layout.reads, offset, count, written=False):
            shift, enable = _part(slot, start, end)
            value = self._read_slot(slot, enable) >> shift & (enable >> shift)
            data[start - offset : end - offset] = value.to_bytes(end - start, "little")
        return bytes(data)

    def _read_slot(self, slot: Slot, enable: int) -> int:
        masks, index = slot.masks, slot.index
        value = self.values[index]
        for hook in self._read_hooks.get(index, ()):
            if hook.mask & enable:
                value = value & ~hook.mask | self._computed(hook) << hook.lsb & hook.mask
        if masks.once:
            self.values[index] &= ~(value & masks.once & enable)
        if _is_missing(slot):
            self._watcher.count_unmodelled(slot.offset, slot.size, written=False)
        return value & ~masks.hidden

    def _computed(self, hook: ReadHook) -> int:
        try:
            return hook.compute(self._owner)
        except GuestError as error:
            self._watcher.refuse(error)
            return 0

    def _write(self, offset: int, data: bytes) -> None:
        candidates = self._exact_writes.get((offset, len(data)))
        slot = selected(candidates, self.values) if candidates else None
        if slot is not None:
            self._write_slot(slot, int.from_bytes(data, "little"), slot.full)
        else:
            for start, end, touched in self._touched(self._layout.writes, offset, len(data), written=True):
                shift, enable = _part(touched, start, end)
                given = int.from_bytes(data[start - offset : end - offset], "little") << shift
                self._write_slot(touched, given, enable)
        self._watcher.settle()

    def _write_slot(self, slot: Slot, given: int, enable: int) -> None:
        masks, index, values = slot.masks, slot.index, self.values
        old, store = values[index], masks.store & enable
        values[index] = (old & ~store | given & store) & ~(given & masks.clear) | given & masks.put
        if given & masks.missing:
            self._watcher.count_unmodelled(slot.offset, slot.size, written=True)
        hooks = self._write_hooks.get(index)
        if hooks:
            self._tell(hooks, given | old & masks.store & ~enable, enable)

    def _tell(self, hooks: Iterable[WriteHook], written: int, enable: int) -> None:
        for hook in hooks:
            if hook.mask & enable:
                try:
                    hook.call(self._owner, written)
                except GuestError as error:
                    self._watcher.refuse(error)

    def _touched(self, cover: Cover, offset: int, count: int, *, written: bool) -> Iterator[tuple[int, int, Slot]]:
        """The registers that an access touches, in ascending order, each with the bytes that are its own.

        Which bank is selected is looked at when a register's turn comes.
        """
        end = offset + count
        if offset < 0 or end > self._size:
            raise OutOfRange(f"access of {count} bytes at {offset:#x}: the bar has {self._size:#x} bytes")
        at, current, missing = offset, None, 0
        for start, stop, candidates in cover.pieces(offset, end):
            slot = selected(candidates, self.values)
            if slot is not current:
                if current is not None:
                    yield at, start, current
                    slot = selected(candidates, self.values)
                at, current = start, slot
            if slot is None:
                missing += stop - start
        if current is not None:
            yield at, end, current
        if missing:
            self._watcher.count_unmodelled(offset, count, written=written)


def _part(slot: Slot, start: int, end: int) -> tuple[int, int]:
    """How far the bytes ``start`` to ``end`` of the bar are from the register's lowest bit, and their mask in it."""
    shift = 8 * (start - slot.offset)
    return shift, ((1 << 8 * (end - start)) - 1) << shift
