# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""Saving: the values of a device's units by name, and what hostile values become before any of them is believed."""

from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from struct import Struct
from typing import Any

import msgspec

from mdev_user.driver.attributes import Attribute
from mdev_user.driver.jobs import Job, PendingJob, Slept, Worker
from mdev_user.driver.plan import Plan
from mdev_user.driver.saving.kinds import decoded, encoded
from mdev_user.driver.saving.snapshot import JobStream
from mdev_user.driver.state import Kept, Session
from mdev_user.driver.unit import AnyUnit
from mdev_user.errors import DriverError, StateError
from mdev_user.regs.bar import Bar
from mdev_user.regs.kinds import RSVD, UNIMPL
from mdev_user.regs.mistakes import likeliest
from mdev_user.regs.slots import Slot
from mdev_user.units import PAGE, KiB

Units = Mapping[str, AnyUnit]

MOST_SLEPT = 1e12
"""Seconds. A number that can be added to a clock."""

MOST_LOOKED_AT = 1024

_RUN = Struct("<QQ")
_CHUNK = 256 * KiB
_ZEROS = bytes(_CHUNK)


# --- out --------------------------------------------------------------------------------------------------------


def values_of(units: Units) -> dict[str, msgspec.Raw]:
    """All that differs from a device that was just reset, but for memory and jobs. Changes nothing."""
    found: dict[str, msgspec.Raw] = {}
    for prefix, unit in _prefixed(units):
        for name, bar, values in _bars(unit):
            busy = _busy_bits(unit._plan, bar._number)
            for slot in bar._layout.slots:
                value = (values[slot.index] ^ slot.reset) & ~busy.get(slot.index, 0)
                if value:
                    found[f"{prefix}{name}.{slot.name}"] = msgspec.Raw(encoded(_checked_own(name, slot, value)))
        for member, value in _members(unit):
            if (data := member._save(value)) is not None:
                found[prefix + member._name] = msgspec.Raw(data)
    return found


def jobs_of(jobs: Iterable[PendingJob], again: Container[PendingJob], now: float) -> list[JobStream]:
    """``again`` are those that will run once more when they have ended."""
    return [
        JobStream(
            each.unit,
            each.name,
            {name: msgspec.Raw(encoded(value)) for name, value in each.arguments.items()},
            each.slept.seconds(now),
            each in again,
        )
        for each in jobs
    ]


def memory_of(units: Units) -> dict[str, tuple[bytes, bytes]]:
    """The pages that are not zero."""
    found = {}
    for prefix, unit in _prefixed(units):
        for memory in unit._plan.memories:
            runs, pages = _runs(unit._state[memory._name])
            if pages:
                found[prefix + memory._name] = b"".join(_RUN.pack(*run) for run in runs), pages
    return found


def memory_bytes(units: Units) -> int:
    """How many bytes a saved state of the memory can have."""
    sizes = [memory._bytes(unit.profile) for unit in units.values() for memory in unit._plan.memories]
    return sum(size + size // PAGE * _RUN.size for size in sizes)


def _checked_own(bar: str, slot: Slot, changed: int) -> int:
    if changed & reserved_bits(slot):
        raise DriverError(f"{bar}.{slot.name}: reserved bits {changed & reserved_bits(slot):#x} were set: declare them")
    return changed ^ slot.reset


def _runs(view: memoryview) -> tuple[list[tuple[int, int]], bytes]:
    runs: list[tuple[int, int]] = []
    pages: list[bytes] = []
    for start in range(0, len(view), _CHUNK):
        chunk = bytes(view[start : start + _CHUNK])
        if chunk == _ZEROS[: len(chunk)]:
            continue
        for at in range(0, len(chunk), PAGE):
            page = chunk[at : at + PAGE]
            if page != _ZEROS[:PAGE]:
                _extend(runs, (start + at) // PAGE)
                pages.append(page)
    return runs, b"".join(pages)


def _extend(runs: list[tuple[int, int]], page: int) -> None:
    if runs and sum(runs[-1]) == page:
        runs[-1] = runs[-1][0], runs[-1][1] + 1
    else:
        runs.append((page, 1))


# --- in ---------------------------------------------------------------------------------------------------------


@dataclass
class Incoming:
    """A state that was checked from its first to its last byte. `take_over` cannot fail."""

    registers: list[tuple[list[int], list[int]]] = field(default_factory=list)
    """The values of each bar, and what they are to be."""
    # Any: values of all declared types, by the name of the member.
    members: list[tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=list)  # Any: as above
    memory: list[tuple[memoryview, list[tuple[int, int]], bytes]] = field(default_factory=list)

    def take_over(self) -> None:
        for values, loaded in self.registers:
            values[:] = loaded
        for state, members in self.members:
            state.update(members)
        for view, runs, pages in self.memory:
            _fill(view, runs, pages)


def checked(units: Units, values: Mapping[str, msgspec.Raw], memory: Mapping[str, tuple[bytes, bytes]]) -> Incoming:
    """What hostile values mean; StateError for those that the device cannot have."""
    incoming, known = Incoming(), _Known()
    for prefix, unit in _prefixed(units):
        for name, bar, current in _bars(unit):
            loaded = list(bar._layout.resets)
            incoming.registers.append((current, loaded))
            for slot in bar._layout.slots:
                known.add_register(f"{prefix}{name}.{slot.name}", slot, loaded)
            known.drop_busy(loaded, bar._layout.resets, _busy_bits(unit._plan, bar._number))
        state = {member._name: member._fresh() for member in unit._plan.state}
        settings = {member._name: member._initial for member in own_attributes(unit._plan)}
        incoming.members += [(unit._state, state), (unit._settings, settings)]
        known.add_members(prefix, (each for each in unit._plan.state if not isinstance(each, Session)), state)
        known.add_members(prefix, own_attributes(unit._plan), settings)
    known.load(values)
    incoming.memory = list(_checked_memory(units, memory))
    return incoming


class _Known:
    """Everything that has a name, with what takes its value."""

    def __init__(self) -> None:
        self._takers: dict[str, Callable[[msgspec.Raw], None]] = {}
        self._busy: list[tuple[list[int], list[int], dict[int, int]]] = []

    def add_register(self, name: str, slot: Slot, loaded: list[int]) -> None:
        def take(data: msgspec.Raw) -> None:
            loaded[slot.index] = _register(name, slot, decoded(data))

        self._takers[name] = take

    # Any: members and values of all types
    def add_members(self, prefix: str, members: Iterable[Any], loaded: dict[str, Any]) -> None:  # Any: as above
        for member in members:
            self._takers[prefix + member._name] = _taker(member, loaded)

    def drop_busy(self, loaded: list[int], resets: list[int], busy: dict[int, int]) -> None:
        """Busy bits follow from the jobs, and from nothing else."""
        self._busy.append((loaded, resets, busy))

    def load(self, values: Mapping[str, msgspec.Raw]) -> None:
        for name, data in values.items():
            if name not in self._takers:
                raise StateError(f"saved state: there is no {name!r:.80}{meant(name, self._takers)}")
            self._takers[name](data)
        for loaded, resets, busy in self._busy:
            for index, mask in busy.items():
                loaded[index] = loaded[index] & ~mask | resets[index] & mask


def _taker(member: "Kept | Attribute[Any]", loaded: dict[str, Any]) -> Callable[[msgspec.Raw], None]:  # Any: as above
    def take(data: msgspec.Raw) -> None:
        loaded[member._name] = member._load(data)

    return take


def _register(name: str, slot: Slot, value: object) -> int:
    if type(value) is not int or not 0 <= value <= slot.full:
        raise StateError(f"{name}: expected a number of {8 * slot.size} bits, given {value!r:.80}")
    if reserved := (value ^ slot.reset) & reserved_bits(slot):
        raise StateError(f"{name}: expected the reserved bits {reserved:#x} as after a reset, given {value:#x}")
    for bits in slot.fields:
        number = value >> bits.lsb & ((1 << bits.width) - 1)
        try:
            bits.codec.decode(number)
        except ValueError as error:
            raise StateError(f"{name}.{bits.name}: {error}") from error
    return value


def reserved_bits(slot: Slot) -> int:
    """The bits that neither a guest nor a driver changes."""
    free = [bits for bits in slot.fields if bits.access not in {RSVD, UNIMPL}]
    return slot.full & ~sum(((1 << bits.width) - 1) << bits.lsb for bits in free)


def _checked_memory(
    units: Units, saved: Mapping[str, tuple[bytes, bytes]]
) -> Iterator[tuple[memoryview, list[tuple[int, int]], bytes]]:
    views = {
        prefix + memory._name: unit._state[memory._name]
        for prefix, unit in _prefixed(units)
        for memory in unit._plan.memories
    }
    for name in saved:
        if name not in views:
            raise StateError(f"saved state: there is no memory {name!r:.80}{meant(name, views)}")
    for name, view in views.items():
        packed, pages = saved.get(name, (b"", b""))
        yield view, _checked_runs(name, len(view) // PAGE, packed, len(pages)), pages


def _checked_runs(name: str, size: int, packed: bytes, given: int) -> list[tuple[int, int]]:
    """Ascending, without an overlap, within ``size`` pages, and together as large as what was given."""
    if len(packed) % _RUN.size:
        raise StateError(f"{name}: expected pairs of 64-bit numbers, given {len(packed)} bytes")
    runs, end = list(_RUN.iter_unpack(packed)), 0
    for first, count in runs:
        if not (end <= first and count and first + count <= size):
            raise StateError(f"{name}: pages {first} to {first + count}: expected some from {end} to {size}")
        end = first + count
    if sum(count for _first, count in runs) * PAGE != given:
        raise StateError(f"{name}: expected {sum(count for _first, count in runs)} pages, given {given} bytes")
    return runs


def _fill(view: memoryview, runs: list[tuple[int, int]], pages: bytes) -> None:
    """Write only where something is to be, or was: memory that nobody touched takes no room."""
    for first, count in _runs(view)[0]:
        view[first * PAGE : (first + count) * PAGE] = bytes(count * PAGE)
    at = 0
    for first, count in runs:
        view[first * PAGE : (first + count) * PAGE] = pages[at : at + count * PAGE]
        at += count * PAGE


def meant(name: str, names: Collection[str]) -> str:
    """The likeliest meant name, where there are not so many that a stranger could keep us looking for it."""
    hint = likeliest(name[:80], names) if len(names) <= MOST_LOOKED_AT else ""
    return hint if "did you mean" in hint else ""


# --- jobs -------------------------------------------------------------------------------------------------------

Loaded = tuple[AnyUnit, "Job[Any]", PendingJob, bool]  # Any: of whatever parameters
"""A job of a unit, and whether it runs once more when it has ended."""


def checked_jobs(units: Units, saved: Iterable[JobStream]) -> list[Loaded]:
    """The jobs to start; StateError for those that cannot be under way."""
    jobs = [_checked_job(units, each) for each in saved]
    under_way = Counter((unit._name, job) for unit, job, _work, _again in jobs)
    for (unit, job), count in under_way.items():
        if count > job._limit:
            raise StateError(f"{_prefix(unit)}{job._name}: expected at most {job._limit} under way, given {count}")
    return jobs


def _checked_job(units: Units, saved: JobStream) -> Loaded:
    if saved.unit not in units:
        raise StateError(f"saved job: there is no {saved.unit!r:.80}{meant(saved.unit, units)}")
    unit = units[saved.unit]
    jobs = unit._plan.jobs
    if saved.name not in jobs:
        raise StateError(f"saved state: there is no job {saved.name!r:.80}{meant(saved.name, jobs)}")
    if not (isfinite(saved.slept) and 0 <= saved.slept <= MOST_SLEPT):
        raise StateError(f"{saved.name}: slept: expected seconds from 0 to {MOST_SLEPT:g}, given {saved.slept}")
    job = jobs[saved.name]
    arguments = job._parameters.decode(saved.arguments)
    if saved.again and not isinstance(job, Worker):
        raise StateError(f"{saved.name}: again: only a worker runs once more, and it is none")
    return unit, job, PendingJob(saved.unit, saved.name, arguments, Slept(saved.slept)), saved.again


# --- what a unit consists of ------------------------------------------------------------------------------------


def _prefixed(units: Units) -> Iterator[tuple[str, AnyUnit]]:
    return ((_prefix(name), unit) for name, unit in units.items())


def _prefix(unit: str) -> str:
    return f"{unit}." if unit else ""


def bars_of(plan: Plan) -> Iterator[tuple[str, Bar]]:
    return ((bar._name, bar) for bar in plan.bars.values())


def _bars(unit: AnyUnit) -> Iterator[tuple[str, Bar, list[int]]]:
    return ((bar._name, bar, unit._bars[index]._values) for index, bar in unit._plan.bars.items())


def _members(unit: AnyUnit) -> Iterator[tuple[Any, Any]]:  # Any: members and values of all types
    for kept in unit._plan.state:
        yield kept, unit._state[kept._name]
    for attribute in own_attributes(unit._plan):
        yield attribute, unit._settings[attribute._name]


def own_attributes(plan: Plan) -> list[Attribute[Any]]:  # Any: of all types
    """Those that only the driver sets."""
    return [each for each in plan.of_kind(Attribute) if not each._writable]


def _busy_bits(plan: Plan, bar: int) -> dict[int, int]:
    """By the index of the register."""
    found: dict[int, int] = {}
    for index, bit in plan.busy.values():
        if index == bar:
            found[bit.index] = found.get(bit.index, 0) | bit.mask
    return found
