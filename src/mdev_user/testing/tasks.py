"""What `check` has done in a fresh interpreter: each task is a value, and so is what comes of it."""

import os
import traceback
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from mdev_user.driver.parent import Parent
from mdev_user.errors import StateError
from mdev_user.testing.accounts import Change, run_changes
from mdev_user.testing.invariants import Invariants
from mdev_user.testing.mutations import Mutation, mutated
from mdev_user.testing.operations import Advance, Finding, Operation, Read, Seen, Setting, Step
from mdev_user.testing.player import Broken, Checkpoint, Player
from mdev_user.testing.rules import RuleAccess, run_rules

AnyParent: TypeAlias = type[Parent[Any]]  # Any: of whatever profile

MOST_SWEPT = 200
"""Registers that are read at the end, to see what is different in them."""


class Explore(msgspec.Struct, frozen=True, tag=True):
    """Play ``before``; at awaits, and at its end, save, and go on with ``after`` in a copy of the process."""

    setting: Setting
    before: tuple[Operation, ...]
    after: tuple[Operation, ...]
    points: int
    """How many awaits at most."""


class Resume(msgspec.Struct, frozen=True, tag=True):
    """Load a state into a fresh device, and go on with ``after``."""

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


class Corrupt(msgspec.Struct, frozen=True, tag=True):
    """Play ``before``, save, and load what mutations make of it."""

    setting: Setting
    before: tuple[Operation, ...]
    mutations: tuple[Mutation, ...]


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


class Point(msgspec.Struct, frozen=True):
    """A moment at which a device was saved and went on."""

    done: tuple[Operation, ...]
    checkpoint: Checkpoint
    outcome: Played | Finding


class Explored(msgspec.Struct, frozen=True, tag=True):
    points: tuple[Point, ...]


class Clean(msgspec.Struct, frozen=True, tag=True):
    """Nothing was found."""


Reply: TypeAlias = Explored | Played | Clean | Finding
_REPLIES = msgspec.msgpack.Decoder(Explored | Played | Clean | Finding)  # type: ignore[arg-type]  # a union of types


def perform(parent: AnyParent, task: Task) -> Reply:
    """Do a task; whatever the driver's code raises is a finding."""
    done: list[Operation] = []
    try:
        return _TASKS[type(task)](parent, task, done)
    except Broken as error:
        return Finding(str(error), tuple(done))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - driver code: anything can come out of it
        text = "".join(traceback.format_exception(error)).rstrip()
        return Finding(f"{type(error).__name__} came out of the driver's code: {error}\n\n{text}", tuple(done))


def _explore(parent: AnyParent, task: Explore, done: list[Operation]) -> Reply:
    player = Player(parent, task.setting, done)
    invariants = Invariants(parent, task.setting, player)
    bystander = Player(parent, task.setting)
    untouched = bystander.save()
    points: list[Point] = []
    for operation in task.before:
        for seen in invariants.watched(operation):
            is_await = isinstance(operation, Step | Advance) and bool(player.guest.device.jobs)
            if is_await and len(points) < task.points:
                points.append(_point(player, task))
            invariants.check(seen)
    points.append(_point(player, task))
    if bystander.save() != untouched:
        raise Broken("another device of the same driver, which nobody used, has another state now")
    return Explored(tuple(points))


def _point(player: Player, task: Explore) -> Point:
    checkpoint = player.save()
    outcome = in_copy(lambda: _go_on(player, task.after, checkpoint.state))
    if not isinstance(outcome, Played | Finding):
        raise TypeError(f"a copy answered {outcome!r}")
    return Point(tuple(player.done), checkpoint, outcome)


def _resume(parent: AnyParent, task: Resume, done: list[Operation]) -> Reply:
    player = Player(parent, task.setting, done)
    try:
        player.load(task.checkpoint)
    except StateError as error:
        raise Broken(f"the state that the device saved cannot be loaded: {error}") from error
    return _go_on(player, task.after, player.guest.device.save())


def _go_on(player: Player, after: tuple[Operation, ...], again: bytes) -> Played:
    seen = [player.settle()]
    rested = player.guest.device.save()
    seen += [player.play(operation, settled=True) for operation in after]
    end = player.guest.device.save()
    sweep = _sweep(player)
    seen += [player.play(operation, settled=True) for operation in sweep]
    return Played((*after, *sweep), tuple(seen), again, rested, end)


def _sweep(player: Player) -> list[Operation]:
    """A read of each register, whatever that does."""
    found: list[Operation] = []
    for place, bar in player.bars():
        region = place.bar + bar._number  # noqa: SLF001 - our own
        found += [Read(region, slot.offset, slot.size) for slot in bar._layout.slots]  # noqa: SLF001 - our own
    return found[:MOST_SWEPT]


def _rules(parent: AnyParent, task: Rules, _done: list[Operation]) -> Reply:
    difference = run_rules(parent, task.unit, task.bar, task.accesses)
    return Finding(difference) if difference else Clean()


def _account(parent: AnyParent, task: Account, _done: list[Operation]) -> Reply:
    difference = run_changes(parent, task.changes)
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
                raise Broken(f"a state that was refused has changed the device ({error}); it was {data!r}") from error
        except Exception as error:
            raise Broken(f"hostile bytes raise {error!r}: expected StateError; they were {data!r}") from error
        else:
            device.save()
            device.load(good)
    return Clean()


_TASKS: dict[type, Callable[[AnyParent, Any, list[Operation]], Reply]] = {  # Any: each its own
    Explore: _explore,
    Resume: _resume,
    Rules: _rules,
    Account: _account,
    Corrupt: _corrupt,
}


# --- copies of the process --------------------------------------------------------------------------------------


def in_copy(work: Callable[[], Reply]) -> Reply:
    """What ``work`` answers in a copy of this process; a copy that dies is a finding."""
    outgoing, incoming = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(outgoing)
        _answer(incoming, work)
    os.close(incoming)
    with os.fdopen(outgoing, "rb") as pipe:
        data = pipe.read()
    _pid, status = os.waitpid(pid, 0)
    if status:
        return Finding(_ended(status))
    return _REPLIES.decode(data)


def _answer(pipe: int, work: Callable[[], Reply]) -> None:
    """The copy's whole life."""
    status = 1
    try:
        limit_copy()
        try:
            reply: Reply = work()
        except Broken as error:
            reply = Finding(str(error))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - driver code: anything can come out of it
            reply = Finding("".join(traceback.format_exception(error)))
        with os.fdopen(pipe, "wb") as file:
            file.write(msgspec.msgpack.encode(reply))
        status = 0
    finally:
        os._exit(status)
