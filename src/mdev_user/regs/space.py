"""A register space: one bar in use, as a guest's accesses see it.

A plain access has a row in a table (`Dispatch`); everything else goes register by register, by the same rules. The
driver's methods are called after the bytes were stored; `Watcher.settle` is called once, at the end of an access that
may have moved what interrupts depend on.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from mdev_user.errors import GuestError, OutOfRange
from mdev_user.regs.dispatch import (
    Alternatives,
    Dispatch,
    Effects,
    Key,
    ReadHook,
    ReadRow,
    WriteHook,
    WriteRow,
    is_missing,
)
from mdev_user.regs.layout import Cover, selected
from mdev_user.regs.slots import Slot, Values


class Watcher(Protocol):
    """Who is told what accesses did."""

    def settle(self) -> None:
        """Registers may have changed, and the access is at its end."""

    def refuse(self, error: GuestError) -> None:
        """A method of the driver's refused what the guest did."""

    def count_unmodelled(self, offset: int, count: int, *, written: bool) -> None:
        """An access to bytes where nothing is declared, or which are declared as unimplemented."""


_Row = TypeVar("_Row", ReadRow, WriteRow)


class RegisterSpace:
    """One bar in use. ``values`` are its registers, by their index; whoever holds them is the hardware."""

    __slots__ = (
        "_banked_reads", "_banked_writes", "_layout", "_owner", "_read_hooks", "_reads", "_size", "_watcher",
        "_write_hooks", "_writes", "values",
    )  # fmt: skip

    def __init__(self, dispatch: Dispatch, values: Values, owner: object, watcher: Watcher) -> None:
        """``owner`` is what the hooks are called with."""
        self.values = values
        self._layout = dispatch.layout
        self._size = dispatch.layout.size
        self._reads, self._banked_reads = dispatch.reads, dispatch.banked_reads
        self._writes, self._banked_writes = dispatch.writes, dispatch.banked_writes
        self._read_hooks, self._write_hooks = dispatch.read_hooks, dispatch.write_hooks
        self._owner = owner
        self._watcher = watcher

    def read(self, offset: int, count: int) -> bytes:
        """A guest's read of any size and alignment. Raises OutOfRange (EFAULT) beyond the bar's end."""
        row = self._reads.get((offset, count)) or self._alternative(self._banked_reads.get((offset, count)))
        if row is None:
            return self._read_pieces(offset, count)
        index, shift, mask, effects = row
        if effects is not None:
            return (self._read_whole(index, effects) & mask).to_bytes(count, "little")
        return (self.values[index] >> shift & mask).to_bytes(count, "little")

    def write(self, offset: int, data: bytes) -> None:
        """A guest's write of any size and alignment. Raises OutOfRange (EFAULT) beyond the bar's end."""
        key = offset, len(data)
        row = self._writes.get(key) or self._alternative(self._banked_writes.get(key))
        if row is None:
            self._write_pieces(offset, data)
            return
        index, combine, settles, calls = row
        given = int.from_bytes(data, "little")
        if combine is None:
            self.values[index] = given
        else:
            shift, keep, store, clear, put = combine
            given <<= shift
            self.values[index] = (self.values[index] & keep | given & store) & ~(given & clear) | given & put
        for call in calls:
            try:
                call(self._owner, given)
            except GuestError as error:
                self._watcher.refuse(error)
        if settles:
            self._watcher.settle()

    def plain_reads(self) -> Iterator[tuple[Key, tuple[int, int, int]]]:
        """The reads that are their value and nothing else, each with index, shift and mask."""
        for key, (index, shift, mask, effects) in self._reads.items():
            if effects is None:
                yield key, (index, shift, mask)

    def plain_writes(self) -> Iterator[tuple[Key, tuple[int, int, int, int, int, int]]]:
        """The writes that change a value and tell nobody, each with index and how to combine (`Combine`)."""
        for key, (index, combine, settles, calls) in self._writes.items():
            if not (settles or calls):
                full = (1 << 8 * key[1]) - 1
                yield key, (index, *(combine or (0, ~full, full, 0, 0)))

    def reset(self, *, sticky: bool) -> None:
        """Every register as after power-on; with ``sticky`` those declared so keep their value."""
        for slot in self._layout.slots:
            if not (sticky and slot.sticky):
                self.values[slot.index] = slot.reset

    # --- what is not plain ----------------------------------------------------------------------------------

    def _alternative(self, alternatives: Alternatives[_Row] | None) -> _Row | None:
        """The row of the register that is selected; None where there are none, or none is selected."""
        values = self.values
        for index, mask, bits, equal, row in alternatives or ():
            if (values[index] & mask == bits) is equal:
                return row
        return None

    def _read_whole(self, index: int, effects: Effects) -> int:
        hooks, once = effects
        value = self.values[index]
        for lsb, mask, compute in hooks:
            try:
                value = value & ~mask | compute(self._owner) << lsb & mask
            except GuestError as error:
                self._watcher.refuse(error)
                value &= ~mask
        taken = value & once
        if taken:
            self.values[index] &= ~taken
        if taken or hooks:
            self._watcher.settle()
        return value

    def _read_pieces(self, offset: int, count: int) -> bytes:
        data = bytearray(count)
        for start, end, slot in self._touched(self._layout.reads, offset, count, written=False):
            shift, enable = _part(slot, start, end)
            value = self._read_slot(slot, enable) >> shift & (enable >> shift)
            data[start - offset : end - offset] = value.to_bytes(end - start, "little")
        self._watcher.settle()
        return bytes(data)

    def _read_slot(self, slot: Slot, enable: int) -> int:
        masks, index = slot.masks, slot.index
        value = self.values[index]
        for hook in self._read_hooks.get(index, ()):
            if hook.mask & enable:
                value = value & ~hook.mask | self._computed(hook) << hook.lsb & hook.mask
        if masks.once:
            self.values[index] &= ~(value & masks.once & enable)
        if is_missing(slot):
            self._watcher.count_unmodelled(slot.offset, slot.size, written=False)
        return value & ~masks.hidden

    def _computed(self, hook: ReadHook) -> int:
        try:
            return hook.compute(self._owner)
        except GuestError as error:
            self._watcher.refuse(error)
            return 0

    def _write_pieces(self, offset: int, data: bytes) -> None:
        for start, end, slot in self._touched(self._layout.writes, offset, len(data), written=True):
            shift, enable = _part(slot, start, end)
            given = int.from_bytes(data[start - offset : end - offset], "little") << shift
            self._write_slot(slot, given, enable)
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
        at, current, missing = offset, None, False
        for start, candidates in cover.pieces(offset, end):
            slot = selected(candidates, self.values)
            if slot is not current:
                if current is not None:
                    yield at, start, current
                    slot = selected(candidates, self.values)
                at, current = start, slot
            missing |= slot is None
        if current is not None:
            yield at, end, current
        if missing:
            self._watcher.count_unmodelled(offset, count, written=written)


def _part(slot: Slot, start: int, end: int) -> tuple[int, int]:
    """How far the bytes ``start`` to ``end`` of the bar are from the register's lowest bit, and their mask in it."""
    shift = 8 * (start - slot.offset)
    return shift, ((1 << 8 * (end - start)) - 1) << shift
