# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""A declared device: the operations of one mdev, derived from its Function class.

Region accesses go to what lies behind the region: registers, memory, the MSI-X table or config space. Whatever a step
changed, interrupts follow at its end (`settle`).
"""

from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain
from typing import Any
from uuid import UUID

from typing_extensions import override

from mdev_user.driver import assembly
from mdev_user.driver.assembly import AnyFunction, Place, places, with_vectors
from mdev_user.driver.attributes import Readable, initial_settings
from mdev_user.driver.engine import Claim
from mdev_user.driver.function import Function, ResetKind
from mdev_user.driver.inspection.decoding import DeviceDecoder
from mdev_user.driver.inspection.live import named_values
from mdev_user.driver.interrupts import Message
from mdev_user.driver.jobs import Job, PendingJob
from mdev_user.driver.levels import Levels
from mdev_user.driver.memory import Memory
from mdev_user.driver.parts import Parts
from mdev_user.driver.plain import plain_reads, plain_writes
from mdev_user.driver.pools import Profile
from mdev_user.driver.process import Process
from mdev_user.driver.saving import transfer
from mdev_user.driver.saving.incoming import DeviceIncoming
from mdev_user.driver.saving.outgoing import DeviceOutgoing
from mdev_user.driver.shares import claims_of
from mdev_user.driver.stepping import stepped
from mdev_user.driver.unit import AnyUnit
from mdev_user.driver.watch import Watch
from mdev_user.driver.windows import ConfigWindow, MixedWindow, OwnPart, Reads, Window, Writes, memory_part
from mdev_user.errors import Busy, DriverError, GuestError, NoDevice
from mdev_user.mdev.types import MdevAttribute
from mdev_user.regs.slots import new_values
from mdev_user.regs.space import RegisterSpace
from mdev_user.vfio.counters import Counters
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.dma import DmaMappings
from mdev_user.vfio.inspection import NamedValue
from mdev_user.vfio.migration_states import ERROR, RESUMING, STOP_COPY, MigrationFlags
from mdev_user.vfio.ops import DeviceOps, DirectRunner
from mdev_user.vfio.pci_function import PciFunction
from mdev_user.vfio.plain import PlainRead, PlainWrite
from mdev_user.vfio.planes import Plane, PlaneType
from mdev_user.vfio.requests import Region, Reply, Request, Reset, region_place
from mdev_user.vfio.screens import Screens
from mdev_user.vfio.work import Spent

_STILL = frozenset({STOP_COPY, RESUMING, ERROR})


class Device(DeviceOps):
    """One mdev. Everything here runs under its step lock."""

    direct: DirectRunner | None
    """Whom a job asks for DMA before it awaits it, while a user is there."""
    backend: Any  # Any: what the driver's parent makes
    _claims: Sequence[Claim] = ()
    copies = 0
    """Streams that are read while the device runs."""
    settle_step: Callable[[], None]
    """Settles what the job that runs has done so far."""

    def __init__(self, kind: type[AnyFunction], profile: Profile, uuid: UUID, backend: object = None) -> None:
        self.uuid, self.backend = uuid, backend
        messages, regions = with_vectors(kind, profile, assembly.regions(kind, profile))
        others = kind._plan.device_regions(profile)
        self._pci = PciFunction(assembly.config_space(kind, profile, regions, messages), regions, others.values())
        self._sizes = {index: self._pci.region(index).size for index in (*regions, *others)}
        self._sizes |= kind._plan.private_sizes(profile)
        self.unmodelled: dict[tuple[int, int, int, bool], int] = {}
        """Accesses to what nobody declared: how often, by region, offset, size, and whether they wrote."""
        self.jobs: list[PendingJob] = []
        """Those under way, in the order in which they were started."""
        self._again: set[PendingJob] = set()
        """Workers among them that were called meanwhile."""
        self._works: dict[PendingJob, Coroutine[object, bytes, None]] = {}
        self._counters = Counters()
        self._counted: GuestError | None = None
        self.direct, self.settle_step, self._resetting = None, self.settle, False
        self._vfio: VfioDevice | None = None
        self._spaces: dict[int, RegisterSpace] = {}
        self._levels: list[Levels] = []
        self._memories: dict[tuple[int, int], tuple[AnyUnit, Memory]] = {}
        """By region and offset."""
        self.units: dict[str, AnyUnit] = {}
        """By name; the function has none, ``ports[1]`` is a part."""
        function, *parts = places(kind, profile)
        self.function: AnyFunction = function.make(profile, self)  # type: ignore[assignment]  # the place is its own
        self._place(function, self.function)
        for part in parts:
            self._place(part, part.make(profile, self))
        self._reads, self._writes = Reads(), Writes()
        self._serve_regions((*regions, *others))
        self._renew(ResetKind.POWER_ON)

    def _place(self, place: Place, unit: AnyUnit) -> None:
        """Give a unit its place, and make what answers at its bars."""
        plan = place.plan
        self.units[place.name] = unit
        for index, bar in plan.bars.items():
            unit._bars[index] = unit._state[bar._name] = type(bar)._on(new_values(bar._layout.resets), 0)
        for memory in plan.memories:
            self._memories[place.bar + memory._index, memory._offset] = unit, memory
        # Any: of whatever parameters, and programs
        called: list[Job[Any] | Message | Process[Any]] = [*plan.jobs.values(), *plan.of_kind(Message), *plan.processes]
        for each in called:
            unit._state[each._name] = each.__get__(unit, type(unit))  # once, and not whenever the driver names it
        unit._settings.update(initial_settings(plan.attributes, unit.profile))
        self._claims = (*self._claims, *claims_of(unit))
        levels = Levels(self._pci.interrupts, unit, plan, place.vector)
        self._levels.append(levels)
        if place.name:
            self._place_part(place, unit, levels)
        elif parts := plan.of_kind(Parts):
            unit._state.update({each._name: () for each in parts})
        else:
            unit._settle = levels.settle
        computed = place.name and self.function._plan.computes_levels
        for index, dispatch in (plan.settling_dispatches if computed else plan.dispatches).items():
            region = place.bar + index
            self._spaces[region] = RegisterSpace(dispatch, unit._bars[index]._values, unit, Watch(self, region, unit))

    def _place_part(self, place: Place, part: AnyUnit, levels: Levels) -> None:
        """A part's step can move its own interrupts and those of the function, but no other part's."""
        self.function._state[place.family] += (part,)
        settle_function = self._levels[0].settle

        def settle_both() -> None:
            levels.settle()
            settle_function()

        part._settle = settle_both if self.function._plan.levels else levels.settle

    # --- the operations of a VFIO device --------------------------------------------------------------------

    @override
    def open_device(self, device: VfioDevice) -> None:
        self._pci.open(device)
        self._take_user(device)
        try:
            self._reset(ResetKind.POWER_ON)
            for each in self.units.values():
                each.opened()
            self.settle()
        except BaseException:  # nobody closes what was not opened
            self._forget_user()
            raise

    def adopt_user(self, device: VfioDevice, pci: PciFunction) -> None:
        """Serve the user of another device, whose eventfds ``pci`` has; `load` or a reset comes next."""
        self._pci.interrupts.reset()  # it had a user before, perhaps
        self._pci.adopt_user(pci)
        self._take_user(device)

    def leave_user(self) -> None:
        """The user is another device's, or gone: his memory goes with him, whoever still refers to this one."""
        for unit, memory in self._memories.values():
            unit._state.pop(memory._name, None)
        self._vfio = self.direct = None
        self.paused()

    def _take_user(self, device: VfioDevice) -> None:
        self._vfio, self._counters, self.direct = device, device.counters, device.direct
        for (region, offset), (unit, memory) in self._memories.items():
            view = device.memory(region, self._sizes[region])[offset:]
            unit._state[memory._name] = view[: memory._bytes(unit.profile)]
        for levels in self._levels:
            levels.lower()
        self.resumed()

    @override
    def paused(self) -> None:
        for each in self._claims:
            each.leave()

    @override
    def resumed(self) -> None:
        for each in self._claims:
            each.join()

    @override
    def hindered(self) -> None:
        for each in self._claims:
            each.be_passed_over()

    @override
    def close_device(self) -> None:
        with ExitStack() as steps:
            steps.callback(self._forget_user)
            for each in self.units.values():
                steps.callback(each.closed)

    @override
    def read(self, region: int, offset: int, count: int) -> bytes:
        return self._reads[region](offset, count)

    @override
    def write(self, region: int, offset: int, data: bytes) -> None:
        self._writes[region](offset, data)

    @override
    def plain_reads(self) -> Iterator[PlainRead]:
        return chain.from_iterable(plain_reads(*each, self._parts(each[0])) for each in self._spaces.items())

    @override
    def plain_writes(self) -> Iterator[PlainWrite]:
        return chain.from_iterable(plain_writes(*each, self._parts(each[0])) for each in self._spaces.items())

    @override
    def ioctl(self, request: Request) -> Reply:
        if isinstance(request, Reset):
            self._reset(ResetKind.FUNCTION)
        return self._pci.ioctl(request)

    @override
    def mmap(self, region: int, offset: int, length: int) -> None:
        self._pci.mmap(region, offset, length)

    @override
    def inspect(self) -> Iterable[NamedValue]:
        return named_values(self)

    @override
    def decoder(self) -> DeviceDecoder:
        return DeviceDecoder(self)

    @override
    def has_screen(self) -> bool:
        return type(self.function).plane is not Function.plane

    @override
    def plane(self, kind: PlaneType) -> Plane | None:
        return self.function.plane(kind)

    @override
    def screens(self) -> Screens:
        return self.function

    @override
    def has_programs(self) -> bool:
        return any(unit._plan.processes for unit in self.units.values())

    @override
    def unmigratable(self) -> str | None:
        return None if self._vfio is None else self.function.unmigratable()

    @override
    def migration_flags(self) -> MigrationFlags:
        return MigrationFlags.STOP_COPY | MigrationFlags.P2P | MigrationFlags.PRE_COPY

    @override
    def save_state(self, *, precopy: bool) -> DeviceOutgoing:
        self._runner()
        return DeviceOutgoing(self, precopy=precopy)

    @override
    def load_state(self) -> DeviceIncoming:
        self._runner()
        return DeviceIncoming(self)

    def save(self) -> bytes:
        """The state of the open device, for `load` of another one of this class. Changes nothing."""
        self._runner()
        return transfer.save(self)

    def load(self, data: bytes) -> None:
        """Be what the device was that ``data`` was saved of, ever after; a step, and the end of the jobs that run.

        ``data`` is hostile: StateError, and nothing has changed, for all that this device cannot be.
        """
        self._runner()
        transfer.load(self, data)

    def check_store(self) -> None:
        """EBUSY while the device's user reads or writes its state, of which nothing may change meanwhile."""
        if self._vfio is not None and self._vfio.opened and (state := self._vfio.migration.state) in _STILL:
            raise Busy(f"its user has stopped the device to migrate it ({state.name}): try again when it runs")

    def attribute(self, attribute: MdevAttribute) -> Readable:
        """The declaration of one of the mdev's files."""
        return next(each for each in self.function._plan.attributes if each._mdev_attribute == attribute)

    # --- what members need ----------------------------------------------------------------------------------

    @property
    def mappings(self) -> DmaMappings:
        if self._vfio is None:
            raise NoDevice("the device is not open: there is no guest memory")
        return self._vfio.dma

    @property
    def is_bus_master(self) -> bool:
        return self._pci.config.bus_master

    def send(self, vector: int) -> None:
        """Send a message. GuestError for a vector that is not there: which one is often the guest's choice."""
        interrupts = self._pci.interrupts
        if not 0 <= vector < interrupts.vectors:
            raise GuestError(f"vector {vector}: expected 0 to {interrupts.vectors - 1}")
        interrupts.fire(vector)

    def refuse(self, error: GuestError) -> None:
        """Count what the guest did wrong."""
        self._counted = error
        self._counters.guest_error(error)

    def settle(self) -> None:
        """The end of a step of the function's: interrupts follow what it changed."""
        for levels in self._levels:
            levels.settle()

    def start(self, unit: AnyUnit, job: "Job[Any]", work: PendingJob) -> bool:  # Any: of whatever parameters
        """Start a job unless as many as it may have are under way."""
        under_way: Sequence[PendingJob] = ()
        if self.jobs:
            under_way = [each for each in self.jobs if each.name == work.name and each.unit == work.unit]
        if under_way and (same := job._same(work, under_way)) is not None:
            self._again.add(same)
            return True
        try:
            if len(under_way) >= job._limit:
                raise GuestError(f"{work.name}: {len(under_way)} under way, its limit; this one was not started")
            self.begin(unit, job, work)
        except GuestError as error:
            self.refuse(error)
            return False
        return True

    def begin(self, unit: AnyUnit, job: "Job[Any]", work: PendingJob) -> None:  # Any: as above
        """Start a job, whatever is under way; also one that was when the device was saved."""
        self._spawn(unit, job, work)
        self.jobs.append(work)
        if job._busy is not None:
            _set_busy(unit, work, up=True)

    def call_again(self, work: PendingJob) -> None:
        """A worker was called meanwhile: it runs once more when it has ended."""
        self._again.add(work)

    def cancel(self, unit: AnyUnit, like: PendingJob) -> bool:
        """End the jobs that were started like this."""
        wanted = (like.unit, like.name, like.arguments)
        found = [each for each in self.jobs if (each.unit, each.name, each.arguments) == wanted]
        for each in found:
            self._runner().cancel_job(self._works[each])
            self._forget_job(unit, each)
        return bool(found)

    def cancel_jobs(self) -> None:
        self._runner().cancel_jobs()
        self._forget_jobs()

    def jobs_clock(self) -> float:
        return self._runner().now

    def jobs_spent(self) -> Spent:
        return self._runner().spent()

    def was_counted(self, error: GuestError) -> None:
        """The host has counted it: it need not be counted when it leaves a job."""
        self._counted = error

    def reset_by_software(self) -> None:
        if self._resetting:
            raise DriverError("reset_device() in reset(): the device is being reset already; take the call out")
        self._runner().cancel_jobs()
        self._runner().damage.add_all()
        self._reset(ResetKind.SOFTWARE)

    # --- inside ---------------------------------------------------------------------------------------------

    def _spawn(self, unit: AnyUnit, job: "Job[Any]", work: PendingJob) -> None:  # Any: of whatever parameters
        running = self._run(unit, job, work)
        (self._vfio or self._runner()).spawn(running, work.name)
        self._works[work] = running

    async def _run(self, unit: AnyUnit, job: "Job[Any]", work: PendingJob) -> None:  # Any: of whatever parameters
        """A job from its start to its end; one that is cancelled is forgotten by whoever cancels it."""
        body = job._body(unit, **work.arguments)
        try:
            await stepped(body, work.slept, self, unit._settle)
        except GuestError as error:
            self._finish(unit, job, work)
            if error is not self._counted:
                raise
        else:
            self._finish(unit, job, work)

    def _finish(self, unit: AnyUnit, job: "Job[Any]", work: PendingJob) -> None:  # Any: of whatever parameters
        if work in self.jobs and not self._runs_again(unit, job, work):  # not there: it reset the device
            self._forget_job(unit, work)
        unit._settle()

    def _runs_again(self, unit: AnyUnit, job: "Job[Any]", work: PendingJob) -> bool:  # Any: as above
        if work not in self._again:
            return False
        self._again.remove(work)
        work.slept.forget()
        try:
            self._spawn(unit, job, work)
        except GuestError as error:
            self.refuse(error)
            return False
        return True

    def _runner(self) -> VfioDevice:
        if self._vfio is None:
            raise NoDevice("the device is not open: jobs run between opened() and closed()")
        return self._vfio

    def _reset(self, kind: ResetKind) -> None:
        self._forget_jobs()
        for space in self._spaces.values():
            space.reset(sticky=kind is not ResetKind.POWER_ON)
        self._renew(kind)
        self._resetting = True
        try:
            self.function.reset(kind)
        finally:
            self._resetting = False
        self.settle()

    def _renew(self, kind: ResetKind) -> None:
        """Everything that is not a register as after a reset; memory stays."""
        for unit in self.units.values():
            for member in unit._plan.state:
                if kind is ResetKind.POWER_ON or not member._sticky:
                    unit._state[member._name] = member._fresh()

    def _forget_job(self, unit: AnyUnit, work: PendingJob) -> None:
        self.jobs.remove(work)
        self._again.discard(work)
        del self._works[work]
        _set_busy(unit, work, up=False)

    def _forget_jobs(self) -> None:
        for work in self.jobs:  # a sticky register would keep the bit
            _set_busy(self.units[work.unit], work, up=False)
        self.jobs.clear()
        self._again.clear()
        self._works.clear()

    def _forget_user(self) -> None:
        self._forget_jobs()
        self._pci.close()
        self.leave_user()

    def _serve_regions(self, indexes: Iterable[int]) -> None:
        self._serve(Region.CONFIG, ConfigWindow(self._pci.read_config, self._pci.write_config))
        for index in indexes:
            self._serve(index, self._window(index))

    def _serve(self, region: int, window: Window) -> None:
        self._reads[region], self._writes[region] = window.read, window.write

    def _window(self, index: int) -> Window:
        registers, parts = self._spaces.get(index), self._parts(index)
        if registers is not None and not parts:
            return registers
        return MixedWindow(self._sizes[index], parts, registers)

    def _parts(self, index: int) -> list[OwnPart]:
        """What answers for itself in a region: the MSI-X table, memory."""
        parts = [each for each in self._pci.interrupts.windows() if each.bar == index]
        info = self._pci.region(index)
        for area in info.areas:
            place = region_place(info.offset + area.offset)  # an alias lies where its memory does
            parts.append(memory_part(index, area, partial(self._memory, *place)))
        return parts

    def _memory(self, index: int, offset: int) -> memoryview:
        unit, memory = self._memories[index, offset]
        view: memoryview = unit._state[memory._name]
        return view


def _set_busy(unit: AnyUnit, work: PendingJob, *, up: bool) -> None:
    if work.name in unit._plan.busy:
        bar, bit = unit._plan.busy[work.name]
        values = unit._bars[bar]._values
        values[bit.index] = values[bit.index] | bit.mask if up else values[bit.index] & ~bit.mask
