"""A device that goes on beside one that was saved and loaded: what the script of a finding runs."""

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from mdev_user.driver.parent import Parent
from mdev_user.testing.conformance.copies import in_copy
from mdev_user.testing.conformance.operations import Seen, Setting
from mdev_user.testing.conformance.player import Checkpoint, Player
from mdev_user.testing.conformance.states import difference
from mdev_user.testing.guest import Guest

Before = Callable[[Guest], None]
After = Callable[[Guest], Iterator[object]]


class _Told(msgspec.Struct, frozen=True):
    steps: list[tuple[str, Seen]]
    state: bytes


class _Went(msgspec.Struct, frozen=True):
    checkpoint: Checkpoint
    told: _Told


def both_ways(
    parent: type[Parent[Any, Any]],  # Any: of any profile
    type_name: str,
    before: Before,
    after: After,
    options: Mapping[str, str] | None = None,
) -> None:
    """Do ``before`` with a device and save it; then ``after`` with it, and with a fresh one that was loaded.

    Each is a copy of this process, which has made no device; ``options`` are the parent's, as `check` takes them. Jobs
    run at each ``yield`` until none can. Prints what each of them showed there, and ends the process with status 1 when
    they differ.
    """
    setting = Setting(type_name, dict(options or {}))

    def go_on() -> bytes:
        player = Player(parent, setting)
        before(player.guest)
        checkpoint = player.save()
        return msgspec.msgpack.encode(_Went(checkpoint, _told(player, after)))

    went = msgspec.msgpack.decode(in_copy(go_on), type=_Went)

    def resume() -> bytes:
        player = Player(parent, setting)
        player.load(went.checkpoint)
        return msgspec.msgpack.encode(_told(player, after))

    resumed = msgspec.msgpack.decode(in_copy(resume), type=_Told)
    differs = [_printed(*pair) for pair in zip(went.told.steps, resumed.steps, strict=False)]
    state = difference(went.told.state, resumed.state)
    if state:
        print(f"the state, in the device that was loaded: {state}")  # noqa: T201 - it is a script's
    if any(differs) or state:
        sys.exit(1)
    print("no difference")  # noqa: T201 - as above


def _told(player: Player, after: After) -> _Told:
    steps = [("jobs", player.settle())]
    steps += [(repr(answer), player.settle()) for answer in after(player.guest)]
    return _Told(steps, player.guest.device.save())


def _printed(went: tuple[str, Seen], resumed: tuple[str, Seen]) -> bool:
    one, other = (f"{answer}, pin {seen.pin:d}, messages {list(seen.messages)}" for answer, seen in (went, resumed))
    if one == other and went[1].memory != resumed[1].memory:
        other += ", other memory"
    print(one if one == other else f"{one}  |  loaded: {other}")  # noqa: T201 - it is a script's
    return one != other
