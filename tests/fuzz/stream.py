"""Target: the migration stream, through the states of migration, with every shipped driver.

The first byte is which driver, the second how the rest is cut into writes. What is refused leaves the device as it was,
its memory included, and RESUMING; what is taken can run, and be moved once more.
"""

from collections.abc import Sequence
from random import Random

import msgspec

from fuzz import mutation
from fuzz.devices import GROWN, LOADED, device_of, vfio_device
from fuzz.grown import BeforeParent
from fuzz.loader import Used, changed_state, second
from fuzz.target import Finding, Target, expect
from mdev_user.driver.saving.outgoing import PAGES
from mdev_user.driver.saving.pages import RUN
from mdev_user.driver.saving.records import PREFIX, Kind, Writer
from mdev_user.errors import GuestError, StateError
from mdev_user.units import PAGE
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.migration_states import MigrationState

_PIECES = (1 << 30, 1 << 30, 1 << 30, 7, 64, 4096, 1)
_HEAD = 12
"""Bytes of a record's head: kind, length, checksum."""
_MAGIC = PREFIX.size
MOST_RECORDS = 64
_STOP, _RUNNING, _STOP_COPY, _RESUMING, _PRE_COPY = (
    MigrationState.STOP,
    MigrationState.RUNNING,
    MigrationState.STOP_COPY,
    MigrationState.RESUMING,
    MigrationState.PRE_COPY,
)


def one(data: bytes) -> None:
    if len(data) < 2:
        return
    index = data[0] % len(LOADED)
    used = Used(vfio_device(index))
    try:
        _resume(index, used, data[2:], _PIECES[data[1] % len(_PIECES)])
    finally:
        used.close()


def _resume(index: int, used: Used, stream: bytes, piece: int) -> None:
    migration = used.vfio.migration
    used.work(b"something else")
    before = used.device.save()
    migration.set_state(_RESUMING)
    try:
        for at in range(0, len(stream), piece):
            migration.write(stream[at : at + piece])
        migration.set_state(_STOP)
    except StateError:
        expect(migration.state is _RESUMING, f"a refused stream leaves the state {migration.state.name}")
        expect(used.device.save() == before, "a refused stream has changed something")
        used.vfio.reset()
        expect(migration.state is _RUNNING, f"after a reset the state is {migration.state.name}")
        return
    _check_refusals(used)
    migration.set_state(_RUNNING)
    used.check_jobs()
    saved = used.device.save()
    _move_on(index, used, saved)
    used.run()
    used.read_all()
    used.device.save()


def _check_refusals(used: Used) -> None:
    """A stopped device answers no access to its BARs, and has nothing to tell of pre-copy."""
    try:
        used.vfio.migration.precopy()
    except GuestError:
        pass
    else:
        raise Finding("a stopped device copies before it stops")
    try:
        used.vfio.read(0, 0, 4)
    except GuestError:
        return
    raise Finding("a stopped device answers")


def _move_on(index: int, used: Used, saved: bytes) -> None:
    """What was loaded goes on elsewhere, and is the same there."""
    other = Used(second(index))
    try:
        other.vfio.migration.set_state(_RESUMING)
        other.vfio.migration.write(stream_of(used))
        other.vfio.migration.set_state(_RUNNING)
        expect(other.device.save() == saved, "what was moved once more is another device")
    finally:
        other.close()


def stream_of(used: Used, state: MigrationState = _STOP_COPY) -> bytes:
    """Of a device that runs, and runs again after it."""
    migration, made = used.vfio.migration, []
    migration.set_state(state)
    if state is not _STOP_COPY:
        for most in (100, 1 << 20, 5000) * 6:
            made.append(migration.read(most))
            told = migration.precopy()
            expect(told.initial_bytes >= 0 and told.dirty_bytes >= 0, f"{told}")
            expect(migration.data_size() >= 0, "less than nothing is to be moved")
        migration.set_state(_STOP_COPY)
    while piece := migration.read(100_000):
        made.append(piece)
        expect(migration.data_size() >= 0, "less than nothing is to be moved")
    migration.set_state(_RUNNING)
    return b"".join(made)


# --- a mutator of records ----------------------------------------------------------------------------------------


def records_of(stream: bytes) -> list[tuple[int, bytes]]:
    """Kind and payload; whatever cannot be told apart any more is one record of a kind that there is not."""
    found: list[tuple[int, bytes]] = []
    at = _MAGIC
    while at + _HEAD <= len(stream) and len(found) < MOST_RECORDS:
        kind, size = (int.from_bytes(stream[at + place : at + place + 4], "little") for place in (0, 4))
        found.append((kind, stream[at + _HEAD : at + _HEAD + size]))
        at += _HEAD + size
    return found


def mutate(data: bytes, chance: Random) -> bytes:
    """A record is changed, moved, left out or there twice, and the checksums are right; else other bytes."""
    if chance.randrange(6) == 0 or len(data) < 2 + _MAGIC:
        return mutation.mutated(data, chance)
    records = records_of(data[2:])
    if not records:
        return mutation.mutated(data, chance)
    at = chance.randrange(len(records))
    match chance.randrange(10):
        case 0:
            del records[at]
        case 1:
            records.insert(chance.randrange(len(records) + 1), records[at])
        case 2:
            other = chance.randrange(len(records))
            records[at], records[other] = records[other], records[at]
        case 3:
            records.insert(at, _record(chance))
        case _:
            records[at] = records[at][0], _changed(*records[at], chance)
    return data[:2] + sealed(records, data[2 : 2 + _MAGIC])


def sealed(records: Sequence[tuple[int, bytes]], prefix: bytes) -> bytes:
    """The stream of these records, with right checksums as far as their kinds exist."""
    writer, made = Writer(), [prefix]
    for kind, payload in records:
        known = Kind(kind) if kind in Kind.__members__.values() else Kind.NOTHING
        record = writer.record(known, payload)
        made.append(record if known == kind else kind.to_bytes(4, "little") + record[4:])
    return b"".join(made)


def _record(chance: Random) -> tuple[int, bytes]:
    count = chance.randrange(3)
    runs = b"".join(mutation.number(chance).to_bytes(8, "little") for _ in range(2 * count))
    head = chance.choice((0, 1, mutation.number(chance) & 0xFFFF_FFFF)).to_bytes(4, "little")
    pages = head + count.to_bytes(4, "little") + runs + bytes(chance.choice((0, 4096, 8192, 100)))
    return chance.choice(((Kind.PAGES, pages), (Kind.NOTHING, b""), (Kind.END, b""), (Kind.NOTHING, b"x"), (9, b"")))


def _changed(kind: int, payload: bytes, chance: Random) -> bytes:
    if kind not in {Kind.HEADER, Kind.STATE}:
        return mutation.mutated(payload[:64], chance) + payload[64:]
    try:
        return msgspec.msgpack.encode(changed_state(msgspec.msgpack.decode(payload), chance))
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError, TypeError, AttributeError):
        return mutation.mutated(payload, chance)


def seeds() -> Sequence[bytes]:
    """Of each driver the stream of a device that has worked, with and without pre-copy; and states in one piece."""
    made = []
    for index in range(len(LOADED)):
        used = Used(vfio_device(index))
        used.work()
        heads = [bytes((index, cut)) for cut in (0, 3)]
        made += [head + stream_of(used, state) for head in heads for state in (_STOP_COPY, _PRE_COPY)]
        made.append(heads[0] + used.device.save())
        used.close()
    before = Used(VfioDevice(vfio_device(0).uuid, "before", device_of(BeforeParent)))
    before.work()
    made += [bytes((GROWN, 0)) + stream_of(before, state) for state in (_STOP_COPY, _PRE_COPY)]
    before.close()
    return [*made, *_memories(made[-1])]


def _memories(seed: bytes) -> list[bytes]:
    """A stream of the older version, with other memory: none, zeros, more than there is; or more behind its end."""
    header, *records = records_of(seed[2:])
    told = msgspec.msgpack.decode(header[1])
    larger = header[0], msgspec.msgpack.encode({**told, "memories": [[told["memories"][0][0], 64]]})
    changed = (
        [header, (Kind.PAGES, b"x"), *records],
        [header, (Kind.PAGES, _pages(1)), records[-2], records[-1]],
        [larger, (Kind.PAGES, _pages(10)), *records],
    )
    return [seed + bytes(3), *(seed[:2] + sealed(each, seed[2 : 2 + _MAGIC]) for each in changed)]


def _pages(count: int) -> bytes:
    """Of the first memory, and nothing is in them."""
    return b"".join((PAGES.pack(0, 1), RUN.pack(0, count), bytes(count * PAGE)))


TARGET = Target(
    "stream",
    "migration streams through the states of migration, with every shipped driver",
    one,
    seeds,
    (
        "mdev_user.driver.saving.records",
        "mdev_user.driver.saving.header",
        "mdev_user.driver.saving.incoming",
        "mdev_user.driver.saving.landing",
        "mdev_user.driver.saving.outgoing",
        "mdev_user.driver.saving.shadow",
        "mdev_user.driver.saving.pages",
        "mdev_user.vfio.migration",
        "mdev_user.vfio.migration_states",
    ),
    mutate,
    longest=1 << 16,
)
