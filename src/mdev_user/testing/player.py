"""A player: performs operations on a device, as its guest, and notes what can be seen of it from outside."""

from collections.abc import Callable, Iterator
from typing import Any, assert_never
from zlib import crc32

import msgspec

from mdev_user.driver.assembly import Place
from mdev_user.driver.members import declarations
from mdev_user.driver.parent import Parent
from mdev_user.errors import GuestError, MdevError
from mdev_user.pci import layout
from mdev_user.regs.bar import Bar
from mdev_user.testing.guest import RAM, Guest
from mdev_user.testing.operations import (
    TICKS,
    Advance,
    Listen,
    Operation,
    Poke,
    Read,
    Reopen,
    Reset,
    Run,
    Seen,
    Setting,
    Step,
    Store,
    Write,
)
from mdev_user.units import KiB
from mdev_user.vfio.requests import Irq, Region

MEMORY = 64 * KiB
"""Bytes of the guest's memory, at address 0."""
MOST_STEPS = 20_000
"""Stretches of jobs within one operation."""
_PAGE = 256
_REFUSED = (GuestError, MdevError)
"""What a guest and an operator get to hear."""


class Checkpoint(msgspec.Struct, frozen=True):
    """All that is carried over when a device is migrated: its state, and what belongs to its machine."""

    state: bytes
    memory: dict[int, bytes]
    settings: dict[str, str]
    kind: int
    """Of interrupt."""


class Player:
    """One guest; everything it does is the same at every run."""

    # Any: of whatever profile
    def __init__(self, parent: type[Parent[Any]], setting: Setting, done: list[Operation] | None = None) -> None:
        """``done`` gets what was performed."""
        self.guest = Guest(parent, setting.type_name, **setting.options)
        self.guest.unmap(0, RAM)
        self.guest.map(0, MEMORY)
        self.done = [] if done is None else done
        self.kind = int(Irq.INTX)
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
            self.settle()
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
        stretches = self.guest._stretches  # noqa: SLF001 - the same package
        for _ in range(MOST_STEPS):
            stretches.wait_until(self.guest.time)
            if not stretches.step_oldest():
                return self._seen(b"", "", 0)
        raise Broken(f"the device's jobs go on for {MOST_STEPS} steps without waiting for time to pass")

    def _perform(self, operation: Operation) -> bytes:  # noqa: C901 - one row a kind
        guest = self.guest
        match operation:
            case Read(region, offset, count):
                return guest.read_bytes(region, offset, count)
            case Write(region, offset, data):
                if not (region == Region.CONFIG and offset < layout.STATUS and self._may_disturb()):
                    guest.write_bytes(region, offset, data)
            case Step(count):
                for _ in range(count):
                    guest.step()
            case Run():
                guest.run()
            case Advance(ticks):
                guest.advance(ticks / TICKS)
            case Reset():
                guest.reset()
            case Reopen():
                guest.close()
                guest.open()
                self.kind = int(Irq.INTX)
            case Store(name, text):
                guest.store(name, text)
            case Poke(address, data):
                if not self._may_disturb():
                    guest.memory[address : address + len(data)] = data
            case Listen(kind):
                self._listen(kind)
            case _:
                assert_never(operation)
        return b""

    def _listen(self, kind: int) -> None:
        enable: dict[int, Callable[[], None]] = {
            Irq.INTX: self.guest.enable_intx,
            Irq.MSI: self.guest.enable_msi,
            Irq.MSIX: self.guest.enable_msix,
        }
        enable[kind]()
        self.kind = kind

    def _may_disturb(self) -> bool:
        """Whether a job may be using memory: a guest that pulls it away, or changes it, gets what it deserves."""
        stretches = self.guest._stretches  # noqa: SLF001 - the same package
        if not self.guest.device.jobs:
            stretches.reached_memory.clear()
        return bool(self.guest.device.jobs and (stretches.reached_memory or stretches.has_ready))

    def _seen(self, answer: bytes, refused: str, errors: int) -> Seen:
        guest = self.guest
        messages = tuple(guest.take_messages())
        return Seen(answer, refused, guest.pin, messages, errors, crc32(guest.memory[0:MEMORY]))

    def bars(self) -> Iterator[tuple[Place, Bar]]:
        """The bars with registers, each with the unit that declares it."""
        for place in self.guest.places():
            for each in declarations(place.kind).values():
                if isinstance(each, Bar):
                    yield place, each

    # --- state ----------------------------------------------------------------------------------------------

    def save(self) -> Checkpoint:
        guest = self.guest
        ram = guest.memory[0:MEMORY]
        pages = {at: ram[at : at + _PAGE] for at in range(0, MEMORY, _PAGE) if any(ram[at : at + _PAGE])}
        settings = {name: guest.show(name) for name in self._writable}
        return Checkpoint(guest.device.save(), pages, settings, self.kind)

    def load(self, checkpoint: Checkpoint) -> None:
        """Into a device that was just opened."""
        guest = self.guest
        for name, text in checkpoint.settings.items():
            guest.store(name, text)
        for address, page in checkpoint.memory.items():
            guest.memory[address : address + len(page)] = page
        if checkpoint.kind != Irq.INTX:
            self._listen(checkpoint.kind)
        guest.take_messages()
        guest.device.load(checkpoint.state)


class Broken(Exception):
    """A device does what none may do."""
