# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""A declared device: the operations of one mdev, derived from its Function class.

Region accesses go to what lies behind the region: registers, memory, the MSI-X table or config space. Whatever a step
changed, interrupts follow at its end (`settle`).
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

from typing_extensions import override

from mdev_user.driver.attributes import Attribute, Readable
from mdev_user.driver.function import Function, ResetKind
from mdev_user.driver.interrupts import Interrupt, Pending
from mdev_user.driver.jobs import Job, PendingJob, Stepped
from mdev_user.driver.memory import Memory
from mdev_user.driver.pools import Profile
from mdev_user.driver.windows import ConfigWindow, MixedWindow, Reads, Window, Writes, memory_part
from mdev_user.errors import GuestError, NoDevice
from mdev_user.mdev.types import MdevAttribute
from mdev_user.pci.config import ConfigSpace
from mdev_user.regs.slots import Condition
from mdev_user.regs.space import RegisterSpace
from mdev_user.vfio.counters import Counters
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.dma import DmaMappings
from mdev_user.vfio.ops import DeviceOps
from mdev_user.vfio.pci_function import PciFunction
from mdev_user.vfio.requests import Area, Region, Reply, Request, Reset

_log = logging.getLogger(__name__)

_Gate = tuple[int, list[int], int, int, list[int], int, int]
"""A bit of the levels; values, register and mask of its pending bit; the same of its enable bit."""

MOST_UNMODELLED = 1024
"""Different accesses that are remembered: which ones is up to the guest, so there is an end to it."""


class Device(DeviceOps):
    """One mdev. Everything here runs under its step lock."""

    def __init__(self, kind: type[Function[Any]], profile: Profile, uuid: UUID) -> None:  # Any: of whatever profile
        self._plan = plan = kind._plan
        capability, regions = plan.with_vectors(kind.vectors, plan.regions(profile))
        bars = {index: each.bar for index, each in regions.items()}
        config = ConfigSpace(kind.identity, bars, (capability, *kind.capabilities))
        self._pci = PciFunction(config, regions)
        self._values = {index: list(bar._layout.resets) for index, bar in plan.bars.items()}
        # Any: the bars' own classes; the descriptor of each knows which.
        self.views: list[Any] = [None] * 6  # Any: as above
        for index, bar in plan.bars.items():
            self.views[index] = type(bar)._on(self._values[index], 0)
        self.function = kind(profile, uuid, self)
        self.unmodelled: dict[tuple[int, int, int, bool], int] = {}
        """Accesses to what nobody declared: how often, by region, offset, size, and whether they wrote."""
        self.jobs: list[PendingJob] = []
        """Those under way, in the order in which they were started."""
        self._counters = Counters()
        self._counted: GuestError | None = None
        self._vfio: VfioDevice | None = None
        self._raised = 0
        self._gates: list[_Gate] = []
        self._computed: list[tuple[int, Callable[[], bool]]] = []
        for vector, interrupt in enumerate(plan.interrupts):
            self._watch(1 << vector, interrupt)
        self._sizes = {index: each.bar.size for index, each in regions.items()}
        self._spaces = {
            index: RegisterSpace(dispatch, self._values[index], self.function, _Watch(self, index))
            for index, dispatch in plan.dispatches.items()
        }
        self._reads, self._writes = Reads(), Writes()
        self._serve(Region.CONFIG, ConfigWindow(self._pci.read_config, self._pci.write_config))
        for index, each in regions.items():
            self._serve(index, self._window(index, each.areas))
        self.function._settings.update(
            {each._name: each._initial for each in plan.attributes if isinstance(each, Attribute)}
        )
        self._renew()

    # --- the operations of a VFIO device --------------------------------------------------------------------

    @override
    def open_device(self, device: VfioDevice) -> None:
        self._vfio, self._counters = device, device.counters
        self._pci.open(device)
        for memory in self._plan.memories:
            self._map(memory, device)
        self._raised = 0
        self._reset(ResetKind.POWER_ON)
        self.function.opened()
        self.settle()

    @override
    def close_device(self) -> None:
        try:
            self.function.closed()
        finally:
            self.jobs.clear()
            self._pci.close()
            for memory in self._plan.memories:
                self.function._state[memory._name] = None
            self._vfio = None

    @override
    def read(self, region: int, offset: int, count: int) -> bytes:
        return self._reads[region](offset, count)

    @override
    def write(self, region: int, offset: int, data: bytes) -> None:
        self._writes[region](offset, data)

    @override
    def ioctl(self, request: Request) -> Reply:
        if isinstance(request, Reset):
            self._reset(ResetKind.FUNCTION)
        return self._pci.ioctl(request)

    @override
    def mmap(self, region: int, offset: int, length: int) -> None:
        self._pci.mmap(region, offset, length)

    def attribute(self, attribute: MdevAttribute) -> Readable:
        """The declaration of one of the mdev's files."""
        return next(each for each in self._plan.attributes if each._mdev_attribute == attribute)

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

    def count_unmodelled(self, region: int, offset: int, count: int, *, written: bool) -> None:
        key = (region, offset, count, written)
        if key in self.unmodelled:
            self.unmodelled[key] += 1
        elif len(self.unmodelled) < MOST_UNMODELLED:
            self.unmodelled[key] = 1
            what = "write" if written else "read"
            _log.info(
                "%s: %s of %d bytes at %#x of region %d, where nothing is declared",
                self.function.uuid,
                what,
                count,
                offset,
                region,
            )

    def settle(self) -> None:
        """The end of a step: interrupts follow what it changed."""
        levels = 0
        for bit, values, index, mask, gate, gate_index, gate_mask in self._gates:
            if values[index] & mask and gate[gate_index] & gate_mask:
                levels |= bit
        for bit, is_up in self._computed:
            if is_up():
                levels |= bit
        if levels != self._raised:
            self._drive(levels)

    def start(self, job: "Job[Any]", work: PendingJob) -> bool:  # Any: of whatever parameters
        """Start a job unless as many as it may have are under way."""
        job._check(work)
        under_way = sum(each.name == work.name for each in self.jobs)
        try:
            if under_way >= job._limit:
                raise GuestError(f"{work.name}: {under_way} under way, its limit; this one was not started")
            self._runner().spawn(self._run(job, work), work.name)
        except GuestError as error:
            self.refuse(error)
            return False
        self.jobs.append(work)
        self._set_busy(work, up=True)
        return True

    # --- inside ---------------------------------------------------------------------------------------------

    async def _run(self, job: "Job[Any]", work: PendingJob) -> None:  # Any: of whatever parameters
        """A job from its start to its end; one that is cancelled is forgotten by whoever cancels it."""
        body = job._body(self.function, *work.arguments, **work.keywords)
        try:
            await Stepped(body, self.settle, self._was_counted)
        except GuestError as error:
            self._finish(work)
            if error is not self._counted:
                raise
        else:
            self._finish(work)

    def _finish(self, work: PendingJob) -> None:
        self.jobs.remove(work)
        self._set_busy(work, up=False)
        self.settle()

    def _set_busy(self, work: PendingJob, *, up: bool) -> None:
        if work.name in self._plan.busy:
            bar, bit = self._plan.busy[work.name]
            values = self._values[bar]
            values[bit.index] = values[bit.index] | bit.mask if up else values[bit.index] & ~bit.mask

    def _was_counted(self, error: GuestError) -> None:
        self._counted = error

    def _runner(self) -> VfioDevice:
        if self._vfio is None:
            raise NoDevice("the device is not open: jobs run between opened() and closed()")
        return self._vfio

    def _reset(self, kind: ResetKind) -> None:
        for space in self._spaces.values():
            space.reset(sticky=kind is ResetKind.FUNCTION)
        self.jobs.clear()
        self._renew()
        self.function.reset(kind)
        self.settle()

    def _renew(self) -> None:
        """Everything that is not a register as after a reset; memory stays."""
        state = self.function._state
        for member in self._plan.state:
            state[member._name] = member._fresh()

    def _map(self, memory: Memory, device: VfioDevice) -> None:
        view = device.memory(memory._index, self._sizes[memory._index])
        self.function._state[memory._name] = view[memory._offset :][: memory._bytes(self.function.profile)]

    def _drive(self, levels: int) -> None:
        changed, self._raised = levels ^ self._raised, levels
        while changed:
            bit = changed & -changed
            changed ^= bit
            vector = bit.bit_length() - 1
            if levels & bit:
                self._pci.interrupts.raise_level(vector)
            else:
                self._pci.interrupts.lower_level(vector)

    def _serve(self, region: int, window: Window) -> None:
        self._reads[region], self._writes[region] = window.read, window.write

    def _window(self, index: int, areas: tuple[Area, ...]) -> Window:
        registers = self._spaces.get(index)
        parts = [each for each in self._pci.interrupts.windows() if each.bar == index]
        parts += [memory_part(index, area, partial(self._memory, index, area.offset)) for area in areas]
        if registers is not None and not parts:
            return registers
        return MixedWindow(self._sizes[index], parts, registers)

    def _memory(self, index: int, offset: int) -> memoryview:
        found = next(each for each in self._plan.memories if (each._index, each._offset) == (index, offset))
        view: memoryview = self.function._state[found._name]
        return view

    def _watch(self, bit: int, interrupt: Interrupt) -> None:
        """Let ``bit`` of the levels follow an interrupt; bits that need no more than a mask are the quick case."""
        conditions = [(self._values[bar], condition) for bar, condition in self._plan.conditions[interrupt]]
        pending = interrupt._pending
        if isinstance(pending, Pending) or any(condition.wanted is not None for _values, condition in conditions):
            tests: list[Callable[[], bool]] = [partial(condition.holds, values) for values, condition in conditions]
            if isinstance(pending, Pending):
                tests.append(partial(pending._compute, self.function))
            self._computed.append((bit, lambda: all(test() for test in tests)))
            return
        (values, first), (gate, second) = (*conditions, ([1], Condition(0, 1, None)))[:2]
        self._gates.append((bit, values, first.index, first.mask, gate, second.index, second.mask))


class _Watch:
    """Whom the registers of one bar tell."""

    __slots__ = ("_device", "_region", "refuse", "settle")

    def __init__(self, device: Device, region: int) -> None:
        self._device, self._region = device, region
        self.settle, self.refuse = device.settle, device.refuse

    def count_unmodelled(self, offset: int, count: int, *, written: bool) -> None:
        self._device.count_unmodelled(self._region, offset, count, written=written)
