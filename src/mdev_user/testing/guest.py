"""A guest of one device in this process's memory: no socket, no thread, no clock but its own.

```python
with Guest(Card, "small") as guest:
    guest.memory[0x1000:0x1004] = b"abcd"
    guest.write(Regs.source, 0x1000)
    guest.write(Regs.length, 4)
    guest.write(Regs.doorbell, 1)
    guest.run()
    assert guest.read(Regs.status.done)
```
"""

from collections.abc import Iterable
from types import TracebackType
from typing import Any, NoReturn, Self
from uuid import UUID
from weakref import finalize

from typing_extensions import override

from mdev_user.driver.assembly import Place, places
from mdev_user.driver.device import Device
from mdev_user.driver.members import declarations
from mdev_user.driver.parent import Parent
from mdev_user.driver.unit import AnyUnit
from mdev_user.errors import DriverError, NotSupported
from mdev_user.host.jobs import Jobs
from mdev_user.mdev.device import Mdev
from mdev_user.mdev.parent import MdevParent
from mdev_user.mdev.types import MdevAttribute, MdevType
from mdev_user.pci import layout
from mdev_user.pci.capabilities import MSI_ENABLE, MSIX_ENABLE, Msi, Msix
from mdev_user.regs.bar import Bar
from mdev_user.regs.mistakes import likeliest
from mdev_user.testing.names import NamedRegisters
from mdev_user.testing.ram import Ram
from mdev_user.testing.regions import Regions
from mdev_user.testing.screenshot import Screenshot, screenshot_of
from mdev_user.testing.stretches import Stretches
from mdev_user.testing.wires import Wires
from mdev_user.units import MiB
from mdev_user.vfio.counters import Counters
from mdev_user.vfio.damage import Damage
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.dma import DmaFlags, Mapping
from mdev_user.vfio.migration_states import MigrationState
from mdev_user.vfio.requests import Irq, Region
from mdev_user.vfio_user.token_lock import TokenLock

UUID1 = UUID(int=1)
RAM = MiB
"""Bytes of memory that a guest begins with, at address 0."""
MOST_STRETCHES = 100_000
"""A job that is still running after as many steps has no end."""

_CAPABILITIES = 0x34


class NoEnd(DriverError):
    """The device's jobs go on for ever, without waiting for time to pass."""


class Guest(NamedRegisters):
    """A guest with a device of its own, as its driver and its firmware leave it: open, memory and bus master enabled.

    It begins with a megabyte of memory at address 0. What the driver's code raises, jobs included, comes out of the
    call that made it run; a GuestError is counted (`errors`), as it is by a host.
    """

    # Any: of whatever profile
    def __init__(self, parent: type[Parent[Any, Any]], type_name: str | None = None, /, **options: object) -> None:
        """``type_name`` is one of ``parent.types``, by default the first; ``options`` are the parent's (its pools)."""
        self.parent = parent(**options)  # type: ignore[arg-type]  # an author's own __init__ takes what it takes
        self._mdev = Mdev(UUID1, MdevParent("parent", self.parent), _type_of(self.parent, type_name))
        self.device = _device(self.parent.create(self._mdev))
        self._mdev.drvdata = self.device
        self.memory = Ram()
        """The guest's memory: ``guest.memory[0x1000:0x1010]`` are sixteen bytes of it."""
        self.messages: list[int] = []
        """The vectors of the MSI or MSI-X messages that came, in their order."""
        self.refused: list[Exception] = []
        """What the guest did that a device does not let it, in order."""
        self._vfio = VfioDevice(UUID1, self._mdev.type_id, self.device)
        self._vfio.counters = _Counters(self.refused)
        self._stretches = Stretches(self.memory)
        self._copied: list[bytes] = []
        """What `copy` has read of the device's state since it began."""
        self._wires = Wires(self._vfio, self.messages)
        self.memory.map(0, RAM)
        self.open()

    # --- registers and bytes --------------------------------------------------------------------------------

    @override
    def read_bytes(self, region: int, offset: int, count: int) -> bytes:
        """One read access. ``region`` is a BAR's index, or 7 for the config space."""
        return self._vfio.read(region, offset, count)

    @override
    def write_bytes(self, region: int, offset: int, data: bytes) -> None:
        """One write access, as `read_bytes`."""
        self._vfio.write(region, offset, data)

    @override
    def _bars(self) -> Iterable[tuple[type[Bar], int]]:
        return _bars_of(self.device.function)

    def part(self, name: str, index: int = 0) -> "PartOfGuest":
        """The registers of one part: ``guest.part("ports", 1).read(Regs.lcr)``, the parts being ``ports``."""
        places = {each.name: each for each in self.places() if each.name}
        wanted = f"{name}[{index}]"
        if wanted not in places:
            raise DriverError(f"{type(self.device.function).__name__} has no part {wanted}{likeliest(wanted, places)}")
        return PartOfGuest(self, wanted, places[wanted].bar)

    def places(self) -> list[Place]:
        """The units of the device, each with the first of its bars and vectors."""
        return places(type(self.device.function), self.device.function.profile)

    def region_size(self, region: int) -> int:
        """Bytes of a region; 0 of one that is not there."""
        return self._vfio.region_info(region).size

    def write_mapped(self, region: int, offset: int, data: bytes) -> None:
        """Write to a `Memory` as a guest that has mapped it: the device is not told."""
        self._vfio.memory(region, self.region_size(region))[offset : offset + len(data)] = data

    # --- memory ---------------------------------------------------------------------------------------------

    def map(self, address: int, size: int) -> None:
        """More memory, in pages of 4 KiB, that the device can reach. MappingExists (EEXIST) where some is already."""
        self._vfio.dma.map(_mapping(address, size))
        self.memory.map(address, size)

    def unmap(self, address: int, size: int) -> None:
        """Take away what memory is in the range. GuestError (EINVAL) when a piece lies only partly in it."""
        self._vfio.dma.unmap(address, size)
        self.memory.unmap(address, size)

    # --- jobs and time --------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Let one job run from where it is to its next await. False when none can."""
        return self._stretches.step()

    def run(self) -> None:
        """Let jobs run until each has ended or sleeps. NoEnd when that does not come."""
        self._run(MOST_STRETCHES)

    def advance(self, seconds: float) -> None:
        """Let time pass, and jobs run that sleep, each when its time has come. NoEnd as in `run`."""
        end = self._stretches.now + seconds
        left = self._run(MOST_STRETCHES)
        while (moment := self._stretches.next_timer) is not None and moment <= end:
            left = MOST_STRETCHES if moment > self._stretches.now else left
            self._stretches.wait_until(moment)
            left = self._run(left)
        self._stretches.wait_until(end)

    def _run(self, limit: int) -> int:
        """Run at most ``limit`` stretches, all that there are; how many more may come without time passing."""
        for done in range(limit):
            if not self.step():
                return limit - done
        names = ", ".join(sorted({each.name for each in self.device.jobs}))
        raise NoEnd(f"after {MOST_STRETCHES} steps {names or 'a job'} has not ended; await sleep(seconds) waits")

    @property
    def time(self) -> float:
        """Seconds that have passed for this guest."""
        return self._stretches.now

    # --- interrupts -----------------------------------------------------------------------------------------

    @property
    def pin(self) -> bool:
        """Whether the INTx pin is up."""
        command, status = (int.from_bytes(self.read_config(at, 2), "little") for at in (layout.COMMAND, layout.STATUS))
        return bool(status & layout.STATUS_INTERRUPT) and not command & layout.COMMAND_INTX_DISABLE

    @property
    def signals(self) -> int:
        """How often the INTx pin has interrupted; once, until `unmask` says that it was served."""
        return self._wires.signals

    def unmask(self) -> None:
        """The guest has served INTx: a pin that is still up interrupts again."""
        self._wires.unmask()

    def enable_msi(self, vectors: int | None = None) -> None:
        """Use MSI from now on, with so many messages (a power of two; all that the function has)."""
        count = self._wires.count(Irq.MSI, vectors)
        at = self._capability(Msi.capability_id) + 2
        self.write_config(at, (MSI_ENABLE | (count.bit_length() - 1) << 4).to_bytes(2, "little"))
        self._wires.arm(Irq.MSI, count)

    def enable_msix(self, vectors: int | None = None) -> None:
        """Use MSI-X from now on; the first ``vectors`` are unmasked (all that the function has)."""
        count = self._wires.count(Irq.MSIX, vectors)
        self.write_config(self._capability(Msix.capability_id) + 2, MSIX_ENABLE.to_bytes(2, "little"))
        self._wires.arm(Irq.MSIX, count)

    def enable_intx(self) -> None:
        """Use the pin again, and no messages."""
        for capability, bit in ((Msi.capability_id, MSI_ENABLE), (Msix.capability_id, MSIX_ENABLE)):
            if at := self._find(capability):
                control = int.from_bytes(self.read_config(at + 2, 2), "little") & ~bit
                self.write_config(at + 2, control.to_bytes(2, "little"))
        self._wires.arm(Irq.INTX, self.vectors(Irq.INTX))

    def vectors(self, kind: Irq) -> int:
        """How many vectors the function has of a kind of interrupt; 0 when it has not the kind."""
        return self._vfio.irq_info(kind).count

    @property
    def listens_to(self) -> Irq:
        """The kind of interrupt that it uses."""
        return self._wires.kind

    @property
    def uses_messages(self) -> bool:
        """Whether MSI or MSI-X is enabled in the config space, so that the pin is not used."""
        kinds = ((Msi.capability_id, MSI_ENABLE), (Msix.capability_id, MSIX_ENABLE))
        places = ((self._find(capability), bit) for capability, bit in kinds)
        return any(at and int.from_bytes(self.read_config(at + 2, 2), "little") & bit for at, bit in places)

    def take_messages(self) -> list[int]:
        """The messages that came since this was last asked."""
        taken = list(self.messages)
        self.messages.clear()
        return taken

    # --- config space ---------------------------------------------------------------------------------------

    def read_config(self, offset: int, count: int) -> bytes:
        return self.read_bytes(Region.CONFIG, offset, count)

    def write_config(self, offset: int, data: bytes) -> None:
        self.write_bytes(Region.CONFIG, offset, data)

    # --- the operator ---------------------------------------------------------------------------------------

    def show(self, attribute: str) -> str:
        """What the operator reads in the mdev's file ``name``, or ``group/name``, without its newline."""
        return self.parent.show(self._mdev, self._attribute(attribute)).removesuffix("\n")

    def store(self, attribute: str, text: str) -> None:
        """Write it. InvalidValue (EINVAL) for a text that the driver does not take."""
        found = self._attribute(attribute)
        if not found.writable:
            raise NotSupported(f"{attribute} cannot be written")
        self.parent.store(self._mdev, found, f"{text}\n".encode())

    @property
    def errors(self) -> int:
        """How often the guest did what a device does not let it (GuestError, DmaFault)."""
        return len(self.refused)

    @property
    def last_error(self) -> str:
        """What it did last; empty when there was nothing."""
        return self._vfio.counters.last_guest_error

    # --- the screen -----------------------------------------------------------------------------------------

    def screenshot(self, head: int = 0, *, pointer: bool = False) -> Screenshot | None:
        """What is on a head of the device, with the ``pointer`` on top or without it; None for nothing.

        InvalidValue for a head that is not there, DriverError for a `Function.picture` that is none.
        """
        picture = self._vfio.picture(head)
        return None if picture is None else screenshot_of(picture, pointer=pointer)

    def watch_damage(self, head: int = 0) -> Damage:
        """What the driver tells of changes on a head from now on; the first that is taken is None, for all of it."""
        return self._vfio.watch_damage(head, lambda: None)

    # --- migration ------------------------------------------------------------------------------------------

    @property
    def is_copied(self) -> bool:
        """Whether `copy` has begun, and neither `save` nor a reset ended it."""
        return self._vfio.migration.state is MigrationState.PRE_COPY

    def copy(self, most: int = MiB) -> int:
        """Begin to move the device, or go on with it, while it runs: pre-copy, ``most`` bytes or to the end of a pass.

        Returns how many bytes were read, which are a part of what `save` gives; the next pass has what changed since.
        """
        migration, copied = self._vfio.migration, 0
        if not self.is_copied:
            migration.set_state(MigrationState.PRE_COPY)
            self._copied = []
        while copied < most and (data := migration.read(most - copied)):
            self._copied.append(data)
            copied += len(data)
        return copied

    def save(self, most: int = MiB) -> bytes:
        """The device's migration stream, for `load` of another guest of this parent and type; then it runs on.

        It is stopped meanwhile, and what `copy` has not read is read, ``most`` bytes at a time.
        """
        migration = self._vfio.migration
        pieces = self._copied if self.is_copied else []
        migration.set_state(MigrationState.STOP_COPY)
        while data := migration.read(most):
            pieces.append(data)
        migration.set_state(MigrationState.RUNNING)
        return b"".join(pieces)

    def load(self, *pieces: bytes) -> None:
        """Be the device of which the ``pieces`` are the stream, and run.

        StateError when it cannot be: it is as it was, stopped, and takes another stream, or `reset`.
        """
        migration = self._vfio.migration
        migration.set_state(MigrationState.RESUMING)
        for each in pieces:
            migration.write(each)
        migration.set_state(MigrationState.RUNNING)

    # --- its life -------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Reset the function (VFIO_DEVICE_RESET): jobs are cancelled; config space and memory stay."""
        self._stretches.forget()
        self._vfio.reset()

    def open(self) -> None:
        """Use the device again after `close`, with the same memory. Busy (EBUSY) when it is open."""
        jobs = Jobs(self._stretches, TokenLock(), self._vfio, self._stretches, _raise)
        self._vfio.open(jobs, Regions())
        finalize(self, jobs.cancel_all)  # a test may forget its guest: what was not begun is no mistake then
        for address, size in self.memory.blocks.items():
            self._vfio.dma.map(_mapping(address, size))
        self._wires.arm(Irq.INTX, self.vectors(Irq.INTX))
        enabled = layout.COMMAND_IO | layout.COMMAND_MEMORY | layout.COMMAND_MASTER
        self.write_config(layout.COMMAND, enabled.to_bytes(2, "little"))

    def close(self) -> None:
        """The user of the device goes: jobs, interrupts and the device's memory end with it."""
        self._stretches.forget()
        self._vfio.close()

    def remove(self) -> None:
        """Close the device and remove the mdev: its parent has back what it gave, and closes its backend."""
        self.close()
        self.parent.remove(self._mdev)
        self.parent.end_backend()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        self.remove()

    def _capability(self, wanted: int) -> int:
        if at := self._find(wanted):
            return at
        raise NotSupported(f"the function has no capability {wanted:#x}")

    def _find(self, wanted: int) -> int:
        """Where a capability lies; 0 when the function has none of the kind."""
        at: int = self.read_config(_CAPABILITIES, 1)[0]
        while at:
            kind, following = self.read_config(at, 2)
            if kind == wanted:
                return at
            at = following
        return 0

    def _attribute(self, name: str) -> MdevAttribute:
        known = {f"{each.group}/{each.name}".removeprefix("/"): each for each in self.parent.attributes}
        if name not in known:
            raise DriverError(f"no attribute {name}{likeliest(name, known)}")
        return known[name]


class _Counters(Counters):
    """Remembers the errors that it counts."""

    __slots__ = ("_refused",)

    def __init__(self, refused: list[Exception]) -> None:
        super().__init__()
        self._refused = refused

    @override
    def guest_error(self, error: Exception) -> None:
        super().guest_error(error)
        self._refused.append(error)


class PartOfGuest(NamedRegisters):
    """The registers of one part of a device, as its guest accesses them by name."""

    def __init__(self, guest: Guest, name: str, bar: int) -> None:
        """``bar`` is added to the indexes of its bars."""
        self._guest, self._name, self._bar = guest, name, bar

    @override
    def read_bytes(self, region: int, offset: int, count: int) -> bytes:
        """One read access. ``region`` is a BAR's index in the part."""
        return self._guest.read_bytes(self._bar + region, offset, count)

    @override
    def write_bytes(self, region: int, offset: int, data: bytes) -> None:
        """One write access, as `read_bytes`."""
        self._guest.write_bytes(self._bar + region, offset, data)

    @override
    def _bars(self) -> Iterable[tuple[type[Bar], int]]:
        return _bars_of(self._guest.device.units[self._name])


def _bars_of(unit: AnyUnit) -> Iterable[tuple[type[Bar], int]]:
    bars = [each for each in declarations(type(unit)).values() if isinstance(each, Bar)]
    return ((type(each), each._number) for each in bars)  # noqa: SLF001 - our own


def _mapping(address: int, size: int) -> Mapping:
    return Mapping(address, size, DmaFlags.READ | DmaFlags.WRITE, None)


def _type_of(parent: Parent[Any, Any], name: str | None) -> MdevType:  # Any: of whatever profile
    types = {each.name: each for each in MdevParent("parent", parent).types.values()}
    if name is None:
        return next(iter(types.values()))
    if name not in types:
        raise DriverError(f"{type(parent).__name__} has no type {name}{likeliest(name, types)}")
    return types[name]


def _device(created: object) -> Device:
    if isinstance(created, Device):
        return created
    raise DriverError(f"expected a parent that declares its function (a Parent), given one whose mdevs are {created!r}")


def _raise(error: Exception, job: str) -> NoReturn:
    """What came out of the driver's job is the test's to see."""
    error.add_note(f"in the {job} of the driver")
    raise error
