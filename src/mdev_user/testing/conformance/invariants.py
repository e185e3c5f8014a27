# ruff: noqa: SLF001 - declarations know each other's underscored names
"""What holds of every device after every step, seen the slow way: from the declarations, and as the guest sees it."""

from collections.abc import Iterator
from operator import attrgetter
from typing import Any, NamedTuple, TypeAlias

from mdev_user.driver.interrupts import Interrupt, Message, Pending
from mdev_user.driver.jobs import Job
from mdev_user.driver.members import declarations
from mdev_user.driver.parent import Parent
from mdev_user.driver.unit import AnyUnit
from mdev_user.errors import GuestError
from mdev_user.pci import layout
from mdev_user.regs.bar import Bar
from mdev_user.regs.refs import Ref
from mdev_user.testing.conformance.operations import Listen, Operation, Read, Reopen, Reset, Seen, Setting, Step, Write
from mdev_user.testing.conformance.player import Broken, Player
from mdev_user.testing.conformance.resets import Resets
from mdev_user.testing.conformance.side_effects import QuietReads
from mdev_user.vfio.requests import Irq, Region

_AnyParent: TypeAlias = type[Parent[Any, Any]]  # Any: of whatever profile


class _Level(NamedTuple):
    name: str
    unit: AnyUnit
    conditions: tuple[Ref[bool] | Pending, ...]
    vector: int | None
    """None: it moves the pin only."""


class Invariants:
    """Watches a player's operations. `Broken` when something does not hold."""

    def __init__(self, parent: _AnyParent, setting: Setting, player: Player) -> None:
        self._player = player
        self._levels = list(_levels(player))
        self._has_messages = any(
            isinstance(each, Message) for unit in player.guest.device.units.values() for each in _members(unit)
        )
        self._before: set[int] = set()
        self._listening = False
        """Whether nothing but its own levels decides which messages the device sends."""
        self._quiet = QuietReads(player)
        self._resets = Resets(parent, setting, player)
        self._operation: Operation = Step(0)

    def watched(self, operation: Operation) -> Iterator[Seen]:
        """Perform an operation in its stretches; `check` is to be called with each."""
        self._operation = operation
        self._before = self._up()
        held = self._quiet.before(operation)
        self._resets.before(operation)
        for seen in self._player.stretches(operation):
            yield seen
            self._before = self._up()
        self._quiet.after(operation, held)
        self._resets.after(operation)

    def check(self, seen: Seen) -> None:
        """What holds at the end of every stretch."""
        self._note_listening()
        self._check_identity()
        self._check_pin(seen)
        self._check_signals(seen)
        self._check_messages(seen)
        self._check_jobs()

    # --- interrupts -----------------------------------------------------------------------------------------

    def _up(self) -> set[int]:
        """The vectors whose declared condition holds."""
        return {each.vector for each in self._levels if each.vector is not None and _holds(each)}

    def _check_pin(self, seen: Seen) -> None:
        read = self._player.guest.read_config
        disabled = int.from_bytes(read(layout.COMMAND, 2), "little") & layout.COMMAND_INTX_DISABLE
        up = [each.name for each in self._levels if _holds(each)]
        expected = bool(up) and not disabled and not self._player.guest.uses_messages
        if seen.pin != expected:
            names = ", ".join(up) or "no interrupt"
            raise Broken(f"the INTx pin is {'up' if seen.pin else 'down'}, while {names} is pending and enabled")

    def _check_signals(self, seen: Seen) -> None:
        """A guest that has served INTx and unmasks it is interrupted again while the pin is up, and only then."""
        guest = self._player.guest
        if guest.listens_to is not Irq.INTX:
            return
        before = guest.signals
        guest.unmask()
        if guest.signals - before != seen.pin:
            raise Broken(f"INTx interrupted {guest.signals - before} times when unmasked, with the pin {seen.pin:d}")

    def _note_listening(self) -> None:
        match self._operation:
            case Listen(kind):
                command = self._player.guest.read_config(layout.COMMAND, 1)[0]
                self._listening = kind != Irq.INTX and bool(command & layout.COMMAND_MASTER)
            case Reset() | Reopen():
                self._listening = False
            case Write(region, _offset, _data) if region == Region.CONFIG or region not in self._register_bars():
                self._listening = False
            case _:
                pass

    def _register_bars(self) -> set[int]:
        return {place.bar + bar._number for place, bar in self._player.bars()}

    def _check_messages(self, seen: Seen) -> None:
        """A step of one access, or one stretch of a job, sends a message for each level that it raised."""
        if not self._listening or not isinstance(self._operation, Read | Write | Step):
            return
        rose = self._up() - self._before
        missing = rose - set(seen.messages)
        more = set(seen.messages) - rose
        if missing:
            raise Broken(f"the interrupts of the vectors {sorted(missing)} rose, and no message was sent")
        if more and not self._has_messages and not self._up() & more:
            raise Broken(f"the messages {sorted(more)} were sent, and no interrupt of theirs rose")

    # --- jobs, and what never changes -----------------------------------------------------------------------

    def _check_jobs(self) -> None:
        device = self._player.guest.device
        for unit in device.units.values():
            for name, job in declarations(type(unit)).items():
                if not isinstance(job, Job):
                    continue
                under_way = sum((each.unit, each.name) == (unit._name, name) for each in device.jobs)
                if under_way > job._limit:
                    raise Broken(f"{under_way} of the job {name} are under way: expected at most {job._limit}")
                if job._busy is not None and _value(unit, job._busy) != bool(under_way):
                    raise Broken(f"{job._busy} is {_value(unit, job._busy)}, while {under_way} {name} are under way")

    def _check_identity(self) -> None:
        guest = self._player.guest
        identity = type(guest.device.function).identity
        expected = identity.vendor.to_bytes(2, "little") + identity.device.to_bytes(2, "little")
        given = guest.read_config(0, 4)
        classes = guest.read_config(8, 4)
        declared = bytes([identity.revision]) + identity.class_code.to_bytes(3, "little")
        if (given, classes) != (expected, declared):
            wanted = f"{expected.hex()} {declared.hex()}"
            raise Broken(f"the identity in config space is {given.hex()} {classes.hex()}: expected {wanted}")


def _levels(player: Player) -> Iterator[_Level]:
    units = player.guest.device.units
    for place in player.guest.places():
        unit, vector = units[place.name], place.vector
        for name, each in declarations(place.kind).items():
            if isinstance(each, Interrupt):
                yield _Level(f"{place.name}.{name}".removeprefix("."), unit, _conditions(each), vector)
                vector += 1
            elif isinstance(each, Message) and each._pending is not None:
                yield _Level(f"{place.name}.{name}".removeprefix("."), unit, _conditions(each), None)


def _conditions(level: Interrupt | Message) -> tuple[Ref[bool] | Pending, ...]:
    return tuple(each for each in (level._pending, level._enable) if each is not None)


def _holds(level: _Level) -> bool:
    return all(_value(level.unit, each) for each in level.conditions)


def _value(unit: AnyUnit, condition: Ref[bool] | Pending) -> bool:
    """What the condition is now, by the names that the driver uses too."""
    if isinstance(condition, Pending):
        try:
            return bool(condition._compute(unit))
        except GuestError:
            return False
    (bar,) = (name for name, each in declarations(type(unit)).items() if type(each) is condition.place.bar)
    register = int(attrgetter(f"{bar}.{condition.place.path}")(unit))
    return condition.decode((register & condition.mask) >> condition.lsb)


def _members(unit: AnyUnit) -> list[object]:
    return [each for each in declarations(type(unit)).values() if not isinstance(each, Bar)]
