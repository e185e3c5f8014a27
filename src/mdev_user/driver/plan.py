# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""The plan of a unit: its declarations, checked and compiled once, when the class is created."""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

from mdev_user.driver.attributes import Readable, check_groups
from mdev_user.driver.hooks import Mark, marks_of, read_hook, write_hook
from mdev_user.driver.interrupts import Interrupt, Message, Pending
from mdev_user.driver.jobs import Job
from mdev_user.driver.members import M, declarations, of_kind
from mdev_user.driver.memory import Memory
from mdev_user.driver.process import Process
from mdev_user.driver.regions import INDEXES, Alias, DeviceRegion
from mdev_user.driver.shares import Share, check_shares
from mdev_user.driver.state import Kept
from mdev_user.errors import DriverError
from mdev_user.pci.bars import IoBar, MemoryBar
from mdev_user.regs.bar import Bar
from mdev_user.regs.dispatch import Dispatch, Everything, ReadHook, WriteHook
from mdev_user.regs.mistakes import likeliest
from mdev_user.regs.refs import Ref
from mdev_user.regs.slots import Condition, Slot
from mdev_user.units import PAGE, GiB, align_up
from mdev_user.vfio.pci_function import BarRegion
from mdev_user.vfio.requests import Area, RegionFlags, RegionInfo, RegionType, region_offset

_Hook = TypeVar("_Hook", ReadHook, WriteHook)
_Hooks: TypeAlias = dict[int, list[_Hook]]
_TRAPPED = RegionFlags.READ | RegionFlags.WRITE
_DECORATORS: dict[str, tuple[bool, bool]] = {
    # writes, of an array
    "on_write": (True, False),
    "on_write_each": (True, True),
    "on_read": (False, False),
    "on_read_each": (False, True),
}


class Plan:
    """What a `Function` or `Part` class consists of. Everything here is derived from `declarations`."""

    def __init__(self, unit: type) -> None:
        self.name = unit.__name__
        self.members = declarations(unit)
        self.bars = _by_index(self.name, self.members)
        self.memories = self.of_kind(Memory)
        self.private = [each for each in self.memories if each._private]
        """Memory that is no region; it lies from the last index downwards in the file of all regions."""
        for place, memory in enumerate(self.private):
            memory._place(INDEXES[-1 - place])
        self.aliases = self.of_kind(Alias)
        self.interrupts = self.of_kind(Interrupt)
        self.jobs = dict(of_kind(self.members, Job))
        self.attributes = self.of_kind(Readable)
        self.state = self.of_kind(Kept)
        self.processes = self.of_kind(Process)
        self.shares = self.of_kind(Share)
        for each in (*self.state, *self.attributes, *self.jobs.values(), *self.processes, *self.shares):
            each._settle_types(self.name)
        check_groups(self.name, self.attributes)
        check_shares(self.name, self.shares, self.attributes)
        pins = [each for each in self.of_kind(Message) if each._pending is not None]
        self.levels: tuple[Interrupt | Message, ...] = (*self.interrupts, *pins)
        """Those that have a vector, and then those that only the pin tells."""
        self.conditions = {member: self._conditions(member) for member in self.levels}
        self.busy = {name: self.condition(each._busy) for name, each in self.jobs.items() if each._busy}
        reads, writes = self._hooks()
        watched = self._watched()
        self.dispatches = {
            index: Dispatch(bar._layout, reads.get(index), writes.get(index), watched.get(index, ()))
            for index, bar in self.bars.items()
        }

    @cached_property
    def settling_dispatches(self) -> dict[int, Dispatch]:
        """The same for a part of a function whose levels are computed: these can look at any register of its parts."""
        return {
            index: Dispatch(each.layout, each.read_hooks, each.write_hooks, Everything())
            for index, each in self.dispatches.items()
        }

    @property
    def computes_levels(self) -> bool:
        return any(isinstance(each._pending, Pending) for each in self.levels)

    def condition(self, ref: Ref[bool]) -> tuple[int, Condition]:
        """The bar's index and the bits that ``ref`` tests."""
        index, slots = self._resolve(str(ref), ref)
        return index, Condition(slots[0].index, ref.mask, None if ref.wanted is None else ref.wanted << ref.lsb)

    def regions(self, profile: object) -> dict[int, BarRegion]:
        """The unit's BARs, for one type of mdev."""
        regions = {index: _region(bar) for index, bar in self.bars.items() if index not in INDEXES}
        for memory in self.memories:
            if memory._index in INDEXES:
                continue
            regions[memory._index] = self._with_memory(memory, memory._bytes(profile), regions.get(memory._index))
        return regions

    def device_regions(self, profile: object) -> dict[int, RegionInfo]:
        """Those beside the BARs, for one type of mdev."""
        found: dict[int, RegionInfo] = {}
        for name, info in self._device_regions(profile):
            if info.index in found or info.index in {each._index for each in self.private}:
                raise DriverError(f"{self.name}.{name}: region {info.index} is there already; give it another index")
            found[info.index] = info
        return found

    @property
    def device_region_members(self) -> list[tuple[str, int, DeviceRegion | Memory]]:
        """The name and the index of each member that is a region beside the BARs, and what it shows."""
        windows = [(each._name, each._number, each) for each in self.of_kind(DeviceRegion)]
        shown = [each for each in self.memories if each not in self.private]
        memories = [(each._name, each._index, each) for each in shown if each._index in INDEXES]
        return [*windows, *memories, *((each._name, each._index, each._memory) for each in self.aliases)]

    def _device_regions(self, profile: object) -> Iterator[tuple[str, RegionInfo]]:
        for window in self.of_kind(DeviceRegion):
            yield window._name, RegionInfo(window._number, _TRAPPED, window._size, type=window._kind)
        for memory in self.memories:
            if memory._index in INDEXES and memory not in self.private:
                yield memory._name, _mapped(memory._index, memory._bytes(profile), memory._kind)
        for alias in self.aliases:
            memory = alias._memory
            if memory not in self.memories:
                raise DriverError(f"{self.name}.{alias._name}: expected a Memory of {self.name}, given another's")
            offset = region_offset(memory._index) + memory._offset
            yield alias._name, _mapped(alias._index, memory._bytes(profile), alias._kind, offset)

    def private_sizes(self, profile: object) -> dict[int, int]:
        """The bytes of the private memory of one type of mdev, by its index."""
        return {each._index: each._bytes(profile) for each in self.private}

    @property
    def bar_slots(self) -> int:
        """How many indexes its bars take, from 0 to the last."""
        bars = [index + (2 if bar._wide else 1) for index, bar in self.bars.items()]
        return max(bars + [each._index + 1 for each in self.memories], default=0)

    @property
    def bar_indexes(self) -> set[int]:
        return {*self.bars, *(each._index for each in self.memories)}

    def of_kind(self, kind: type[M]) -> list[M]:
        """The members of one kind, in the order of declaration."""
        return [member for _name, member in of_kind(self.members, kind)]

    def _with_memory(self, memory: Memory, size: int, under: BarRegion | None) -> BarRegion:
        area = Area(memory._offset, size)
        end = memory._offset + size
        if under is None:
            return BarRegion(MemoryBar(end, memory._prefetchable, wide=end > 2 * GiB), (area,))
        if end > under.bar.size or any(
            area.offset < each.offset + each.size and each.offset < end for each in under.areas
        ):
            raise DriverError(
                f"{self.name}.{memory._name}: bytes {memory._offset:#x} to {end:#x} of bar {memory._index}: expected a "
                f"free place in its {under.bar.size:#x} bytes"
            )
        for slot in self.bars[memory._index]._layout.slots if memory._index in self.bars else ():
            if slot.offset < end and memory._offset < align_up(slot.end, PAGE):
                raise DriverError(
                    f"{self.name}.{memory._name}: bytes {memory._offset:#x} to {end:#x} hold the register {slot.name} "
                    f"at {slot.offset:#x}: a page is either mapped or has registers; move one"
                )
        return BarRegion(under.bar, (*under.areas, area))

    def _conditions(self, interrupt: Interrupt | Message) -> list[tuple[int, Condition]]:
        refs = (interrupt._pending, interrupt._enable)
        return [self.condition(ref) for ref in refs if isinstance(ref, Ref)]

    def _watched(self) -> dict[int, Any]:  # Any: sets of registers, or Everything
        if self.computes_levels:
            return {index: Everything() for index in self.bars}
        watched: dict[int, set[int]] = {}
        for conditions in self.conditions.values():
            for bar, condition in conditions:
                watched.setdefault(bar, set()).add(condition.index)
        return watched

    def _hooks(self) -> tuple[dict[int, _Hooks[ReadHook]], dict[int, _Hooks[WriteHook]]]:
        """The hooks of each bar, by the index of the register."""
        reads: dict[int, _Hooks[ReadHook]] = {index: {} for index in self.bars}
        writes: dict[int, _Hooks[WriteHook]] = {index: {} for index in self.bars}
        for name, member, mark in self._marks():
            index, slots = self._resolve(f"{self.name}.{name}: @{mark.decorator}({mark.place})", mark.place)
            is_write, of_array = _DECORATORS[mark.decorator]
            if of_array != mark.place.place.repeated:
                other = mark.decorator.removesuffix("_each") + ("" if of_array else "_each")
                raise DriverError(f"{self.name}.{name}: @{mark.decorator}({mark.place}): expected @{other}")
            for slot in slots:
                if is_write:
                    writes[index].setdefault(slot.index, []).append(write_hook(mark, slot, member))
                else:
                    reads[index].setdefault(slot.index, []).append(read_hook(mark, slot, member))
        return reads, writes

    def _marks(self) -> Iterator[tuple[str, Callable[..., Any], Mark]]:  # Any: methods of the driver's
        for name, member in self.members.items():
            if callable(member):
                for mark in marks_of(member):
                    yield name, member, mark

    def _resolve(self, what: str, ref: Ref[Any]) -> tuple[int, tuple[Slot, ...]]:  # Any: of whatever type
        for index, bar in self.bars.items():
            if type(bar) is ref.place.bar:
                return index, bar._layout.find(ref.place.path)
        names = [type(bar).__name__ for bar in self.bars.values()]
        given = ref.place.bar.__name__ if ref.place.bar else "a register that is not placed"
        raise DriverError(
            f"{what}: expected a register of a bar of {self.name}, given {given}{likeliest(given, names)}"
        )


def _by_index(unit: str, members: dict[str, object]) -> dict[int, Bar]:
    bars: dict[int, Bar] = {}
    for name, bar in of_kind(members, Bar):
        if bar._number in bars:
            raise DriverError(
                f"{unit}.{name}: bar {bar._number} is {bars[bar._number]._name} already; give a subclass another "
                f"index: class Second({type(bar).__name__}, index=...)"
            )
        bars[bar._number] = bar
    return bars


def _mapped(index: int, size: int, kind: RegionType | None, offset: int = -1) -> RegionInfo:
    return RegionInfo(index, _TRAPPED | RegionFlags.MMAP, size, (Area(0, size),), kind, offset)


def _region(bar: Bar) -> BarRegion:
    if bar._io:
        return BarRegion(IoBar(bar._size))
    return BarRegion(MemoryBar(bar._size, bar._prefetchable, bar._wide))
