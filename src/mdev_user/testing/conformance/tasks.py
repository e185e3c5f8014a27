"""What `check` has done in a fresh interpreter: each task is a value, and so is what comes of it."""

import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias, TypeVar

import msgspec

from mdev_user.driver.parent import Parent
from mdev_user.errors import StateError
from mdev_user.pci import layout
from mdev_user.testing.conformance.accounts import Change, run_changes
from mdev_user.testing.conformance.copies import in_copy
from mdev_user.testing.conformance.invariants import Invariants
from mdev_user.testing.conformance.mutations import Mutation, mutated
from mdev_user.testing.conformance.operations import Finding, Operation, Read, Seen, Setting, Show, Write
from mdev_user.testing.conformance.player import Broken, Checkpoint, Player
from mdev_user.testing.conformance.rules import RuleAccess, run_rules
from mdev_user.testing.conformance.states import difference
from mdev_user.testing.conformance.streams import Tampering, cut, tampered
from mdev_user.units import PAGE
from mdev_user.vfio.requests import Region

T = TypeVar("T")
AnyParent: TypeAlias = type[Parent[Any, Any]]  # Any: of whatever profile

MOST_SWEPT = 200
"""Registers that are read at the end, to see what is different in them."""
MOST_PAGES = 16
"""Of each memory that the guest maps, from its start, likewise."""


class Explore(msgspec.Struct, frozen=True, tag=True):
    """Play ``before``; at awaits, and at its end, save, and go on with ``after`` in a copy of the process."""

    setting: Setting
    before: tuple[Operation, ...]
    after: tuple[Operation, ...]
    points: int
    """How many awaits at most."""


class Resume(msgspec.Struct, frozen=True, tag=True):
    """Load a migration stream into a fresh device, and go on with ``after``."""

    setting: Setting
    checkpoint: Checkpoint
    after: tuple[Operation, ...]


class Rules(msgspec.Struct, frozen=True, tag=True):
    """Access the bare registers of a bar, with nothing of the driver's behind them."""

    unit: str
    bar: str
    accesses: tuple[RuleAccess, ...]


class Account(msgspec.Struct, frozen=True, tag=True):
    """Create and remove mdevs of one parent."""

    changes: tuple[Change, ...]
    options: dict[str, str]


class Corrupt(msgspec.Struct, frozen=True, tag=True):
    """Play ``before``, save, and load what mutations make of it; in another device, what becomes of its stream."""

    setting: Setting
    before: tuple[Operation, ...]
    mutations: tuple[Mutation, ...]
    tamperings: tuple[Tampering, ...] = ()


Task: TypeAlias = Explore | Resume | Rules | Account | Corrupt


class Played(msgspec.Struct, frozen=True, tag=True):
    """What was seen from a checkpoint on."""

    operations: tuple[Operation, ...]
    seen: tuple[Seen, ...]
    """First of jobs that were under way; then of each operation."""
    again: bytes
    """The state, saved right at the checkpoint."""
    rested: bytes
    """The state when the jobs had run."""
    end: bytes
    """The state at the end."""


class Moved(msgspec.Struct, frozen=True, tag=True):
    """A device that was saved, and went on where it was."""

    checkpoint: Checkpoint
    played: Played


class Point(msgspec.Struct, frozen=True):
    """A moment at which a device was saved and went on."""

    done: tuple[Operation, ...]
    state: bytes
    """Just before it was."""
    outcome: Moved | Finding


class Explored(msgspec.Struct, frozen=True, tag=True):
    """All went as it must, as far as one device can tell."""

    points: tuple[Point, ...]


class Clean(msgspec.Struct, frozen=True, tag=True):
    """Nothing was found."""


Reply: TypeAlias = Explored | Played | Clean | Finding

_OUTCOMES: msgspec.msgpack.Decoder[Moved | Finding] = msgspec.msgpack.Decoder(Moved | Finding)
_REPLIES: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Explored | Played | Clean | Finding)
_TASK: msgspec.msgpack.Decoder[Task] = msgspec.msgpack.Decoder(Explore | Resume | Rules | Account | Corrupt)

encode = msgspec.msgpack.Encoder().encode
decode_reply = _REPLIES.decode
decode_task = _TASK.decode


def perform(parent: AnyParent, task: Task) -> Reply:
    """Do a task; whatever the driver's code raises is a finding."""
    done: list[Operation] = []
    return _told(lambda: _TASKS[type(task)](parent, task, done), done)


def _told(work: Callable[[], T], done: list[Operation], saved_at: int | None = None) -> T | Finding:
    """The reply, or the finding with what was done; ``saved_at`` operations of it came before the device was saved."""
    try:
        return work()
    except Broken as error:
        text = str(error)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - driver code: anything can come out of it
        trace = "".join(traceback.format_exception(error)).rstrip()
        text = f"{type(error).__name__} came out of the driver's code: {error}\n\n{trace}"
    at = len(done) if saved_at is None else saved_at
    return Finding(text, tuple(done[:at]), None if saved_at is None else tuple(done[at:]))


def _explore(parent: AnyParent, task: Explore, done: list[Operation]) -> Reply:
    player = Player(parent, task.setting, done)
    invariants = Invariants(parent, task.setting, player)
    bystander = Player(parent, task.setting)
    untouched = bystander.guest.device.save()
    points: list[Point] = []
    last: object = None
    for operation in task.before:
        for seen in invariants.watched(operation):
            moment = player.moment
            is_new = player.guest.device.jobs and moment != last
            if is_new and len(points) < task.points and player.is_migratable:
                last = moment
                points.append(_point(player, task, in_copy))
            invariants.check(seen)
    if bystander.guest.device.save() != untouched:
        raise Broken("another device of the same driver, which nobody used, has another state now")
    if player.is_migratable:
        points.append(_point(player, task, _in_place))
    return Explored(tuple(points))


def _point(player: Player, task: Explore, perform_in: Callable[[Callable[[], bytes]], bytes]) -> Point:
    state, done = player.guest.device.save(), tuple(player.done)
    move = partial(_move, player, task.after)
    outcome = perform_in(lambda: encode(_told(move, player.done, len(done))))
    return Point(done, state, _OUTCOMES.decode(outcome))


def _move(player: Player, after: tuple[Operation, ...]) -> Moved:
    checkpoint = player.save()
    return Moved(checkpoint, _go_on(player, after))


def _in_place(work: Callable[[], bytes]) -> bytes:
    """For the last point: nobody needs this process any more."""
    return work()


def _resume(parent: AnyParent, task: Resume, done: list[Operation]) -> Reply:
    player = Player(parent, task.setting, done)
    try:
        player.load(task.checkpoint)
    except StateError as error:
        raise Broken(f"the stream that the device was saved in cannot be loaded: {error}") from error
    return _go_on(player, task.after)


def _go_on(player: Player, after: tuple[Operation, ...]) -> Played:
    again = player.guest.device.save()
    seen = [player.settle()]
    rested = player.guest.device.save()
    seen += [player.play(operation, settled=True) for operation in after]
    end = player.guest.device.save()
    sweep = _sweep(player)
    seen += [player.play(operation, settled=True) for operation in sweep]
    return Played((*after, *sweep), tuple(seen), again, rested, end)


def _sweep(player: Player) -> list[Operation]:
    """What shows all that there is: messages that wait are sent, registers are read, whatever that does."""
    found: list[Operation] = [Write(int(Region.CONFIG), layout.COMMAND, b"\x07\x00")]
    for place, bar in player.bars():
        region = place.bar + bar._number  # noqa: SLF001 - our own
        found += [Read(region, slot.offset, slot.size) for slot in bar._layout.slots]  # noqa: SLF001 - our own
    found[MOST_SWEPT:] = []
    found += [Show(f"{each.group}/{each.name}".removeprefix("/")) for each in player.guest.parent.attributes]
    for region, start, size in player.memories():
        found += [Read(region, start + at, PAGE) for at in range(0, min(size, MOST_PAGES * PAGE), PAGE)]
    return found


def _rules(parent: AnyParent, task: Rules, _done: list[Operation]) -> Reply:
    difference = run_rules(parent, task.unit, task.bar, task.accesses)
    return Finding(difference) if difference else Clean()


def _account(parent: AnyParent, task: Account, _done: list[Operation]) -> Reply:
    difference = run_changes(parent, task.changes, task.options)
    return Finding(difference) if difference else Clean()


def _corrupt(parent: AnyParent, task: Corrupt, done: list[Operation]) -> Reply:
    player = Player(parent, task.setting, done)
    for operation in task.before:
        player.play(operation)
    device = player.guest.device
    good = device.save()
    for mutation in task.mutations:
        data = mutated(good, mutation)
        try:
            device.load(data)
        except StateError as error:
            if device.save() != good:
                raise Broken(
                    f"a state that was refused has changed the device ({error}); it was {data!r:.2000}"
                ) from error
        except Exception as error:
            raise Broken(f"hostile bytes raise {error!r}: expected StateError; they were {data!r:.2000}") from error
        else:
            device.save()
            device.load(good)
    if player.is_migratable:
        _tamper(parent, task, player)
    return Clean()


def _tamper(parent: AnyParent, task: Corrupt, player: Player) -> None:
    """`Broken` for a stream that is taken, or refused, otherwise than it may be, by a device that has a past."""
    stream, saved = player.guest.save(), player.guest.device.save()
    other = Player(parent, task.setting)
    for operation in task.before[: len(task.before) // 2]:
        other.play(operation)
    device = other.guest.device
    before = device.save()
    for tampering in task.tamperings:
        try:
            other.guest.load(*cut(tampered(stream, tampering)))
        except StateError as error:
            if device.save() != before:
                raise Broken(f"a stream that was refused has changed the device ({error}): {tampering}") from error
        except Exception as error:
            raise Broken(f"a hostile stream raises {error!r}: expected StateError: {tampering}") from error
        else:
            if not tampering.forged and (text := difference(saved, device.save())):
                raise Broken(f"a damaged stream was taken, and {text}: {tampering}")
            device.load(before)


_TASKS: dict[type, Callable[[AnyParent, Any, list[Operation]], Reply]] = {  # Any: each its own
    Explore: _explore,
    Resume: _resume,
    Rules: _rules,
    Account: _account,
    Corrupt: _corrupt,
}
