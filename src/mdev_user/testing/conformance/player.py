"""A player: performs operations on a device, as its guest, and notes what can be seen of it from outside."""

from collections.abc import Callable, Iterator
from typing import Any
from zlib import crc32

import msgspec

from mdev_user.driver.assembly import Place
from mdev_user.driver.dma import Unbounded
from mdev_user.driver.members import declarations
from mdev_user.driver.memory import Memory
from mdev_user.driver.parent import Parent
from mdev_user.errors import GuestError, MdevError
from mdev_user.pci import layout
from mdev_user.regs.bar import Bar
from mdev_user.testing.conformance.carried_ram import CarriedGuest
from mdev_user.testing.conformance.operations import (
    TICKS,
    Advance,
    Copy,
    Listen,
    MappedWrite,
    Operation,
    Poke,
    Read,
    Reopen,
    Reset,
    Run,
    Seen,
    Setting,
    Show,
    Step,
    Store,
    Write,
)
from mdev_user.testing.conformance.options import values_of
from mdev_user.testing.conformance.streams import cut
from mdev_user.units import PAGE, MiB
from mdev_user.vfio.requests import Irq, Region

MOST_STEPS = 20_000
"""Stretches of jobs within one operation."""
_READS = (1000, PAGE, MiB)
"""Bytes of a stream that are read at once."""
_ZERO = bytes(PAGE)
_REFUSED = (GuestError, MdevError)
"""What a guest and an operator get to hear."""


class Checkpoint(msgspec.Struct, frozen=True):
    """All that is carried over when a device is migrated: its stream, and what belongs to its machine."""

    stream: bytes
    memory: dict[int, bytes]
    settings: dict[str, str]
    kind: int
    """Of interrupt."""


class Player:
    """One guest; everything it does is the same at every run."""

    # Any: of whatever profile
    def __init__(self, parent: type[Parent[Any, Any]], setting: Setting, done: list[Operation] | None = None) -> None:
        """``done`` gets what was performed."""
        self.guest = CarriedGuest(parent, setting.type_name, **values_of(parent, setting.options))
        self.done = [] if done is None else done
        self._memory = -1, 0
        """A checksum of the memory, and of which of its changes."""
        self._writable = [
            f"{each.group}/{each.name}".removeprefix("/") for each in self.guest.parent.attributes if each.writable
        ]

    # --- operations -----------------------------------------------------------------------------------------

    def play(self, operation: Operation, *, settled: bool = False) -> Seen:
        """Perform one. ``settled``: and let jobs run, in the order in which they were started, until none can.

        Whatever else the driver raises than a guest and an operator get to hear comes out.
        """
        self.done.append(operation)
        errors = self.guest.errors
        answer, refused = b"", ""
        try:
            answer = self._perform(operation)
        except _REFUSED as error:
            refused = type(error).__name__
        if settled:
            self._run_jobs()
        self._check_transfers()
        return self._seen(answer, refused, self.guest.errors - errors)

    def stretches(self, operation: Operation) -> Iterator[Seen]:
        """Perform one so that each await of a job is a moment at which this yields."""
        if not isinstance(operation, Step):
            yield self.play(operation)
            return
        for _ in range(operation.count):
            yield self.play(Step(1))

    def settle(self) -> Seen:
        """Let all jobs run, one to its end or its sleep and then the next one."""
        self._run_jobs()
        self._check_transfers()
        return self._seen(b"", "", 0)

    def _run_jobs(self) -> None:
        stretches = self.guest._stretches  # noqa: SLF001 - the same package
        for _ in range(MOST_STEPS):
            stretches.wait_until(self.guest.time)
            if not stretches.step_oldest():
                return
        raise Broken(f"the device's jobs go on for {MOST_STEPS} steps without waiting for time to pass")

    @property
    def moment(self) -> object:
        """Another one when any job has begun or gone on."""
        return self.guest._stretches.ran, len(self.guest.device.jobs)  # noqa: SLF001 - the same package

    def _check_transfers(self) -> None:
        """A length comes from a guest: a driver bounds it, and does not leave that to us."""
        refused = self.guest.refused
        if (error := next((each for each in refused if isinstance(each, Unbounded)), None)) is not None:
            refused.clear()
            raise Broken(f"a job asks for {error}; bound the length that a guest gives: min(length, ...)")

    def _perform(self, operation: Operation) -> bytes:
        return _PERFORM[type(operation)](self, operation) or b""

    def read(self, operation: Read) -> bytes:
        return self.guest.read_bytes(operation.region, operation.offset, operation.count)

    def write(self, operation: Write) -> None:
        """A guest that takes bus mastering away from a job that uses it gets what it deserves: it is not done."""
        is_command = operation.region == Region.CONFIG and operation.offset < layout.STATUS
        if not (is_command and self._disturbs()):
            self.guest.write_bytes(operation.region, operation.offset, operation.data)

    def step(self, operation: Step) -> None:
        for _ in range(operation.count):
            self.guest.step()

    def reopen(self) -> None:
        self.guest.close()
        self.guest.open()

    def poke(self, operation: Poke) -> None:
        """As `write`: memory that a job may be reading stays."""
        if not self._disturbs():
            self.guest.memory[operation.address : operation.address + len(operation.data)] = operation.data

    def copy(self, operation: Copy) -> None:
        try:
            self.guest.copy(operation.most)
        except GuestError as error:
            raise Broken(f"the device cannot be copied while it runs: {error}") from error

    def listen(self, kind: int) -> None:
        enable: dict[int, Callable[[], None]] = {
            Irq.INTX: self.guest.enable_intx,
            Irq.MSI: self.guest.enable_msi,
            Irq.MSIX: self.guest.enable_msix,
        }
        enable[kind]()

    def _disturbs(self) -> bool:
        """Whether a job may be using the guest's memory."""
        stretches = self.guest._stretches  # noqa: SLF001 - the same package
        return bool(self.guest.device.jobs and (stretches.reached_memory or stretches.has_ready))

    def _seen(self, answer: bytes, refused: str, errors: int) -> Seen:
        guest = self.guest
        messages = tuple(guest.take_messages())
        if guest.memory.changes != self._memory[0]:
            self._memory = guest.memory.changes, crc32(repr(_not_zero(guest.memory.pages)).encode())
        return Seen(answer, refused, guest.pin, messages, errors, self._memory[1])

    def bars(self) -> Iterator[tuple[Place, Bar]]:
        """The bars with registers, each with the unit that declares it."""
        for place in self.guest.places():
            for each in declarations(place.kind).values():
                if isinstance(each, Bar):
                    yield place, each

    def memories(self) -> Iterator[tuple[int, int, int]]:
        """Region, offset and size of each `Memory`."""
        for place in self.guest.places():
            for each in declarations(place.kind).values():
                if isinstance(each, Memory):
                    size = each._bytes(self.guest.device.function.profile)  # noqa: SLF001 - our own
                    yield place.bar + each._index, each._offset, size  # noqa: SLF001 - our own

    # --- migration ----------------------------------------------------------------------------------------------

    @property
    def is_migratable(self) -> bool:
        """Whether the driver does not refuse now: it says that what a process of the device's own has cannot move."""
        return self.guest.device.unmigratable() is None

    def save(self) -> Checkpoint:
        """As it is now; the device runs on."""
        carried = self.guest.is_copied
        stream = self.guest.save(_READS[len(self.done) % len(_READS)])
        pages = self.guest.carry() if carried else self.guest.memory.pages
        return Checkpoint(stream, _not_zero(pages), self.settings(), int(self.guest.listens_to))

    def settings(self) -> dict[str, str]:
        """What the operator wrote."""
        return {name: self.guest.show(name) for name in self._writable}

    def load(self, checkpoint: Checkpoint) -> None:
        """Into a device that was just opened."""
        guest = self.guest
        for name, text in checkpoint.settings.items():
            guest.store(name, text)
        for address, page in checkpoint.memory.items():
            guest.memory[address : address + len(page)] = page
        if checkpoint.kind != Irq.INTX:
            self.listen(checkpoint.kind)
        guest.take_messages()
        guest.load(*cut(checkpoint.stream))


_PERFORM: dict[type, Callable[[Player, Any], bytes | None]] = {  # Any: the kind that stands before it
    Read: Player.read,
    Write: Player.write,
    Step: Player.step,
    Run: lambda player, _operation: player.guest.run(),
    Advance: lambda player, operation: player.guest.advance(operation.ticks / TICKS),
    Reset: lambda player, _operation: player.guest.reset(),
    Reopen: lambda player, _operation: player.reopen(),
    Store: lambda player, operation: player.guest.store(operation.name, operation.text),
    Show: lambda player, operation: player.guest.show(operation.name).encode(),
    Poke: Player.poke,
    Listen: lambda player, operation: player.listen(operation.kind),
    MappedWrite: lambda player, operation: player.guest.write_mapped(
        operation.region, operation.offset, operation.data
    ),
    Copy: Player.copy,
}


def _not_zero(pages: dict[int, bytes]) -> dict[int, bytes]:
    return {address: page for address, page in pages.items() if page != _ZERO}


class Broken(Exception):
    """A device does what none may do."""
