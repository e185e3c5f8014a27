"""Target: the loader of saved states, with every shipped driver: msgpack from a stranger.

The first byte is which driver. What is refused changes nothing; what is taken can be saved, loaded and used again.
"""

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from itertools import product
from pathlib import Path
from random import Random

import msgspec

from fuzz import mutation
from fuzz.devices import GROWN, LOADED, SETS, STATEFUL, device_of, vfio_device
from fuzz.grown import BeforeParent, StatefulParent
from fuzz.target import Target, expect
from mdev_user.driver import Device
from mdev_user.driver.saving import snapshot
from mdev_user.driver.saving.pages import places_of
from mdev_user.errors import GuestError, StateError
from mdev_user.host.jobs import Jobs
from mdev_user.testing.ram import Ram
from mdev_user.testing.stretches import Stretches
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio_user.token_lock import TokenLock

STATES = Path(__file__).resolve().parents[1] / "state"
HEAD = snapshot._HEADER.size
_FILES = ("edu", "crc", "mtty", "mbochs", "mdpy")
MOST_STEPS = 50


class Used:
    """A device that is open, with jobs that run by hand; nothing is behind its DMA."""

    def __init__(self, vfio: VfioDevice) -> None:
        self.vfio = vfio
        assert isinstance(vfio.ops, Device)
        self.device = vfio.ops
        self.failures: list[str] = []
        self.stretches = Stretches(Ram())
        jobs = Jobs(self.stretches, TokenLock(), vfio, self.stretches, self._failed)
        vfio.open(jobs, _Memory())

    def _failed(self, error: Exception, step: str) -> None:
        self.failures.append(f"{error!r} in {step}")

    def work(self, text: bytes = b"anything") -> None:
        """A little, always the same; and ``text`` is in its memory."""
        chance = Random(1)
        for region, space in self.device._spaces.items():
            for slot in space._layout.slots[:64]:
                self._write(region, slot.offset, chance.randbytes(slot.size))
        for place in places_of(self.device):
            place.view[4096 : 4096 + len(text)] = text

    def _write(self, region: int, offset: int, data: bytes) -> None:
        with suppress(GuestError):
            self.vfio.write(region, offset, data)

    def run(self) -> None:
        """Whatever jobs there are; what they raise is the driver's fault, or ours."""
        careless = type(self.device.function) is StatefulParent.function
        for _ in range(0 if careless else MOST_STEPS):
            if not self.stretches.step():
                if self.stretches.next_timer is None:
                    break
                self.stretches.wait_until(self.stretches.next_timer)
        expect(not self.failures, f"after a load: {self.failures}")

    def check_jobs(self) -> None:
        """No more of them than the driver allows."""
        for (unit, name), count in Counter((each.unit, each.name) for each in self.device.jobs).items():
            limit = self.device.units[unit]._plan.jobs[name]._limit
            expect(count <= limit, f"{count} jobs {name} are under way, at most {limit} may be")

    def read_all(self) -> None:
        for region, space in self.device._spaces.items():
            for slot in space._layout.slots[:64]:
                try:
                    self.vfio.read(region, slot.offset, slot.size)
                except GuestError:
                    continue

    def close(self) -> None:
        self.vfio.close()


class _Memory:
    """The mappable regions, of which nobody has a file."""

    fd = -1

    def __init__(self) -> None:
        self._regions: dict[int, bytearray] = {}

    def view(self, index: int, size: int) -> memoryview:
        return memoryview(self._regions.setdefault(index, bytearray(size)))


@cache
def second(index: int) -> VfioDevice:
    return VfioDevice(vfio_device(index).uuid, "second", device_of(LOADED[index]))


def one(data: bytes) -> None:
    if not data:
        return
    index = data[0] % len(LOADED)
    used = Used(vfio_device(index))
    try:
        _load(index, used, data[1:])
    finally:
        used.close()


def _load(index: int, used: Used, data: bytes) -> None:
    before = used.device.save()
    try:
        used.device.load(data)
    except StateError:
        expect(used.device.save() == before, "a refused state has changed something")
        return
    used.check_jobs()
    saved = used.device.save()
    other = Used(second(index))
    try:
        other.device.load(saved)
        expect(other.device.save() == saved, "what was loaded and saved is another state when it is loaded again")
    finally:
        other.close()
    used.run()
    used.read_all()
    used.device.save()


# --- a mutator of values -----------------------------------------------------------------------------------------


def mutate(data: bytes, chance: Random) -> bytes:
    """One value somewhere in the state is another one, or a key is; else other bytes."""
    if chance.randrange(5) == 0:
        return mutation.mutated(data, chance)
    try:
        tree = msgspec.msgpack.decode(data[1 + HEAD :])
        changed = changed_state(tree, chance)
        return data[: 1 + HEAD] + msgspec.msgpack.encode(changed)
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError, TypeError, AttributeError):
        return mutation.mutated(data, chance)


def changed_state(tree: object, chance: Random) -> object:
    """Every second time in one of its smaller pieces, which would not often be chosen otherwise."""
    if not isinstance(tree, dict) or chance.randrange(2):
        return changed_value(tree, chance)
    piece = chance.choice(_PIECES)
    if piece == "jobs" and chance.randrange(2):
        return {**tree, piece: [*tree.get(piece, []), chance.choice([*tree.get(piece, []), *_JOBS])]}
    if piece == "memory" and tree.get("driver") in _MEMORIES and chance.randrange(4):
        return {**tree, piece: {_MEMORIES[tree["driver"]]: [_runs(chance), bytes(4096)]}}
    return {**tree, piece: changed_value(tree.get(piece, b""), chance)}


def _runs(chance: Random) -> bytes:
    """One run of a page, or two: somewhere at the begin or the end of what a memory may have."""
    numbers = (
        (chance.choice(_PAGES), 1) if chance.randrange(3) else (chance.choice(_PAGES), 1, chance.choice(_PAGES), 0)
    )
    return b"".join(each.to_bytes(8, "little") for each in numbers)


_MEMORIES = {"Everything": "buffer", "Grown": "ram", "Machine": "ram", "Display": "video"}
_PAGES = (0, 1, 2, 3, 4, 7, 8, 63, 64, 1023, 1024, (1 << 64) - 1)


_PIECES = ("jobs", "memory", "vectors", "levels", "pending", "events", "config", "version")
_JOBS: tuple[dict[str, object], ...] = (
    {"unit": "", "name": "compute", "arguments": {"value": 3}, "slept": 0.0, "again": False},
    {"unit": "ports[0]", "name": "carry", "arguments": {}, "slept": 1.0, "again": True},
    {"unit": "", "name": "tick", "arguments": {"ticks": 3, "value": 4}, "slept": 2.5, "again": False},
)


def changed_value(tree: object, chance: Random) -> object:
    match tree:
        case dict() if tree and chance.randrange(8):
            key = chance.choice(list(tree))
            return _other_keys({**tree, key: changed_value(tree[key], chance)}, key, chance)
        case list() if tree and chance.randrange(8):
            at = chance.randrange(len(tree))
            kept = tree[at + 1 :] if chance.randrange(6) else []
            return [*tree[:at], changed_value(tree[at], chance), *kept]
        case bytes() if tree and len(tree) <= 64 and len(tree) % 8 == 0 and chance.randrange(2):
            return _other_word(tree, chance)
        case bytes() if chance.randrange(4):
            return mutation.mutated(tree, chance)
        case int() if not isinstance(tree, bool) and chance.randrange(4):
            return tree ^ 1 << chance.randrange(64)
        case _:
            return _value(chance)


def _other_word(data: bytes, chance: Random) -> bytes:
    """As in the runs of pages: numbers of 64 bits, mostly small."""
    at, word = 8 * chance.randrange(len(data) // 8), mutation.number(chance)
    if chance.randrange(4):
        word = chance.randrange(5)
    return data[:at] + word.to_bytes(8, "little") + data[at + 8 :]


def _other_keys(tree: dict[object, object], key: object, chance: Random) -> dict[object, object]:
    match chance.randrange(24):
        case 0:
            tree[f"{key}x"] = tree.pop(key)
        case 1:
            del tree[key]
        case 2:
            tree[chance.choice(_NAMES)] = _value(chance)
        case _:
            pass
    return tree


_NAMES = (
    "regs.status", "regs.irq", "regs.number", "buffer", "total", "table", "history", "regs.command",
    "ports[0].regs.lcr", "ports[0].fifo", "ports[0].trigger", "regs.control", "regs.high", "regs.cause",
    "used", "pace", "desk.level",
)  # fmt: skip


def _value(chance: Random) -> object:
    number = mutation.number(chance)
    pages = chance.choice((0, 1, 4095, 4096, 8192))
    values: tuple[object, ...] = (
        number, -1, 0.5, float("nan"), None, True, "text", b"", bytes(pages), [], {}, [[1, 2], [1, 3]], [[3, 4]],
        *_JOBS,
        {"regs": [number.to_bytes(16, "little"), bytes(pages)]},
        {"buffer": [bytes(8) + b"\1" + bytes(7), bytes(pages)]},
    )  # fmt: skip
    return chance.choice(values)


def seeds() -> Sequence[bytes]:
    """The recorded states, and those of devices that were just opened or have worked a little."""
    made = [bytes((_FILES.index(name),)) + state for name, state in _recorded()]
    for index in range(len(LOADED)):
        used = Used(vfio_device(index))
        made.append(bytes((index,)) + used.device.save())
        used.work()
        made.append(bytes((index,)) + used.device.save())
        used.close()
    before = Used(VfioDevice(vfio_device(0).uuid, "before", device_of(BeforeParent)))
    before.work()
    made.append(bytes((GROWN,)) + before.device.save())
    before.close()
    return made + [_changed(made, *each) for each in _CHANGED]


def _changed(seeds: list[bytes], index: int, key: str, value: object) -> bytes:
    """The last seed of this driver, with other values or jobs."""
    seed = next(each for each in reversed(seeds) if each[0] == index)
    tree = msgspec.msgpack.decode(seed[1 + HEAD :])
    tree[key] = {**tree.get(key, {}), **value} if isinstance(value, dict) else value
    return seed[: 1 + HEAD] + msgspec.msgpack.encode(tree)


def _deep(levels: int) -> object:
    """A large map in so many lists."""
    value: object = {str(number): number for number in range(20)}
    for _ in range(levels):
        value = [value]
    return value


_ALIKE = list(product((-1, -2), repeat=7))
"""128 tuples of one hash: -1 and -2 have the same."""
_SERVE = {"unit": "", "name": "serve", "arguments": {"queue": 1}, "slept": 0.0, "again": True}
_CHANGED: tuple[tuple[int, str, object], ...] = (
    (SETS, "values", {"ids": _ALIKE}),
    (
        SETS,
        "values",
        {"ids": [[1], [2, 3]], "maybe": [[1]], "rows": [[[1]], []], "pair": [1, [[2]]], "nested": [[[1]]]},
    ),
    (SETS, "values", {"rows": [[[1]], _ALIKE]}),
    (SETS, "values", {"nested": [[[1]]]}),
    (SETS, "values", {"nested": [[[1]], _ALIKE]}),
    (SETS, "values", {"tree": {"ids": [[1]], "inner": {"inner": {"ids": _ALIKE}}}}),
    (SETS, "values", {"tree": {"ids": [[1]], "other": 1}}),
    (SETS, "values", {"ids": 1}),
    (SETS, "values", {"tree": 1}),
    (SETS, "values", {"rows": 1}),
    (SETS, "values", {"pair": 1}),
    (STATEFUL, "values", {"point": {"x": 1, "z": [2]}}),
    (STATEFUL, "values", {"named": [{"y": 1, "x": 2}]}),
    (STATEFUL, "values", {"total": msgspec.Raw(b"\xd3" + bytes(8))}),
    (STATEFUL, "jobs", [_SERVE]),
    *((GROWN, "values", {"total": _deep(levels)}) for levels in (0, 1, 70)),
)


def _recorded() -> list[tuple[str, bytes]]:
    found = []
    for path in sorted(STATES.glob("*.json")):
        name = path.stem.rpartition("-")[0]
        recorded = json.loads(path.read_text())
        if name in _FILES and "state" in recorded:
            found.append((name, bytes.fromhex(recorded["state"])))
    return found


TARGET = Target(
    "loader",
    "the loader of saved states (format 1), with every shipped driver",
    one,
    seeds,
    (
        "mdev_user.driver.saving.snapshot",
        "mdev_user.driver.saving.state",
        "mdev_user.driver.saving.pages",
        "mdev_user.driver.saving.jobs",
        "mdev_user.driver.saving.transfer",
        "mdev_user.driver.saving.kinds",
        "mdev_user.driver.saving.collisions",
    ),
    mutate,
    longest=1 << 16,
)
