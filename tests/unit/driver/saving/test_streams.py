"""Streams: a moved device is the same in the other place, however it is read, and whatever changes meanwhile."""

import gc
import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any
from uuid import UUID

import pytest
from typing_extensions import override

from mdev_user.driver import (
    PAGE,
    U32,
    Bar,
    Device,
    Function,
    Memory,
    PciId,
    Profile,
    ResetKind,
    Saved,
    Snapshot,
    StateError,
)
from mdev_user.driver.saving import outgoing, pages, transfer
from mdev_user.driver.saving.landing import InPlace
from mdev_user.driver.saving.pages import CHUNK
from mdev_user.driver.saving.records import Kind
from mdev_user.driver.saving.shadow import Shadow
from mdev_user.drivers.crc import Card
from mdev_user.errors import DriverError, GuestError, NoDevice
from mdev_user.host.region_file import RegionFile
from mdev_user.units import MiB
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.migration_states import MigrationFlags
from mdev_user.vfio.migration_states import MigrationState as S
from unit.driver.bench import Bench, Jobs
from unit.driver.saving.moving import everything, give, move, records, stream_of
from unit.driver.stateful import Machine, in_use, machine

VRAM = 2 * MiB


class Screen(Function[Profile]):
    """Much memory in two places, and little else."""

    identity = PciId(vendor=0x1DE5, device=10, class_code=0x120000)

    class Regs(Bar, index=0, size=PAGE):
        width = U32(0)

    regs = Regs()
    vram = Memory(index=2, size=VRAM)
    edge = Memory(index=4, size=PAGE)


class Benches(list[Bench]):
    def add(self, bench: Bench) -> Bench:
        self.append(bench)
        return bench


@pytest.fixture
def benches() -> Iterator[Benches]:
    benches = Benches()
    yield benches
    for each in benches:
        each.close()


def screen(bench: Bench) -> Screen:
    made = bench.device.function
    assert isinstance(made, Screen)
    return made


def assert_same(here: Bench, there: Bench) -> None:
    assert there.device.save() == here.device.save()


@pytest.mark.parametrize("passes", [0, 1, 3])
def test_moved_device_is_the_same(benches: Benches, passes: int) -> None:
    here, there = benches.add(in_use()), benches.add(Bench(Machine))
    assert here.device.save() != there.device.save()
    move(here, there, passes=passes)
    assert_same(here, there)
    assert machine(there).cache == {"loaded": 7}
    assert [each.name for each in there.device.jobs] == ["work", "serve", "send"]


def test_device_without_its_state_would_be_another_one(benches: Benches, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: all that is not memory is left out."""
    monkeypatch.setattr(transfer.Prepared, "take_over", lambda _self, take_memory: take_memory())
    here, there = benches.add(in_use()), benches.add(Bench(Machine))
    move(here, there)
    with pytest.raises(AssertionError):
        assert_same(here, there)


def test_what_changes_between_passes_is_there(benches: Benches) -> None:
    here, there = benches.add(Bench(Screen)), benches.add(Bench(Screen))
    random, vram = Random(1), screen(here).vram
    vram[: 100 * PAGE] = random.randbytes(100 * PAGE)

    def change() -> None:
        for page in random.sample(range(VRAM // PAGE), 5):
            vram[page * PAGE + 7] ^= 0xFF
        vram[50 * PAGE : 51 * PAGE] = bytes(PAGE)
        screen(here).edge[0] ^= 1
        here.write(0, random.randrange(1 << 32))

    sizes = move(here, there, change, passes=4)
    assert bytes(screen(there).vram) == bytes(vram)
    assert_same(here, there)
    assert sizes[0] > 100 * PAGE
    assert all(2 * PAGE < each < 12 * PAGE for each in sizes[1:]), sizes


def test_page_that_was_not_sent_again_would_be_missed(benches: Benches, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: the pass after the device has stopped sends no dirty page."""
    here, there = benches.add(Bench(Screen)), benches.add(Bench(Screen))
    differing = Shadow._differing
    monkeypatch.setattr(Shadow, "_differing", lambda shadow, *ends: differing(shadow, *ends) if shadow.kept else [])

    def change() -> None:
        screen(here).vram[5] = 1

    move(here, there, change, passes=1)
    with pytest.raises(AssertionError):
        assert_same(here, there)


@pytest.mark.parametrize("most", [1, 7, 4096, 100_000])
def test_stream_is_the_same_in_pieces_of_any_size(benches: Benches, most: int) -> None:
    here, there = benches.add(in_use()), benches.add(Bench(Machine))
    stream = stream_of(here, most)
    assert stream == stream_of(here)
    give(there, *(stream[at : at + most] for at in range(0, len(stream), most)))
    assert_same(here, there)


def test_moved_device_can_be_moved_again(benches: Benches) -> None:
    here, there, further = benches.add(in_use()), benches.add(Bench(Machine)), benches.add(Bench(Machine))
    move(here, there)
    move(there, further, passes=0)
    assert_same(here, further)
    here.vfio.migration.set_state(S.RUNNING)
    assert stream_of(further) == stream_of(here)


def test_saving_changes_nothing_and_can_be_given_up(benches: Benches) -> None:
    here = benches.add(in_use())
    before, migration = here.device.save(), here.vfio.migration
    for states in ([S.PRE_COPY], [S.PRE_COPY, S.STOP_COPY], [S.STOP_COPY], [S.PRE_COPY_P2P]):
        for state in states:
            migration.set_state(state)
            migration.read(10)
        migration.set_state(S.RUNNING)
        assert here.device.save() == before
    assert len(here.jobs.waiting) == 3


def test_pass_over_an_idle_device_finds_nothing(benches: Benches) -> None:
    here = benches.add(Bench(Screen))
    screen(here).vram[0] = 1
    migration = here.vfio.migration
    migration.set_state(S.PRE_COPY)
    first, second = everything(migration), everything(migration)
    assert sum(map(len, first)) > PAGE
    assert 0 < sum(map(len, second)) < 100
    migration.set_state(S.RUNNING)


def test_one_read_of_a_running_device_is_bounded(benches: Benches) -> None:
    class Large(Screen):
        vram = Memory(index=2, size=16 * MiB)

    here = benches.add(Bench(Large))
    memory = screen(here).vram
    memory[0 : 4 * MiB] = os.urandom(PAGE) * (4 * MiB // PAGE)
    migration = here.vfio.migration
    migration.set_state(S.PRE_COPY)
    pieces = everything(migration, 64 * MiB)
    assert max(map(len, pieces)) <= outgoing.RUNNING.found + PAGE
    assert len(pieces) >= 4 * MiB // outgoing.RUNNING.found + 12 * MiB // outgoing.RUNNING.compared
    migration.set_state(S.STOP_COPY)
    assert len(everything(migration, 64 * MiB)) == 2  # STATE and END
    migration.set_state(S.RUNNING)


def test_estimates_follow_what_is_read(benches: Benches) -> None:
    here = benches.add(Bench(Screen))
    memory, migration = screen(here).vram, here.vfio.migration
    memory[: 10 * PAGE] = b"x" * (10 * PAGE)
    assert migration.data_size() >= VRAM
    migration.set_state(S.PRE_COPY)
    assert (migration.precopy().initial_bytes, migration.precopy().dirty_bytes) == (VRAM + PAGE, 0)
    everything(migration)
    assert (migration.precopy().initial_bytes, migration.precopy().dirty_bytes) == (0, 10 * PAGE)
    memory[5] = 7
    everything(migration)
    assert migration.precopy().dirty_bytes == PAGE
    everything(migration)
    assert migration.precopy().dirty_bytes == 0
    assert migration.data_size() == outgoing.OTHERS
    migration.set_state(S.STOP_COPY)
    everything(migration)
    assert migration.data_size() == 0
    with pytest.raises(GuestError):
        migration.precopy()
    migration.set_state(S.RUNNING)


def test_what_was_read_in_part_is_in_the_estimates(benches: Benches) -> None:
    here = benches.add(Bench(Screen))
    migration = here.vfio.migration
    migration.set_state(S.STOP_COPY)
    size = migration.data_size()
    migration.read(1)
    assert migration.data_size() > size - PAGE
    migration.set_state(S.RUNNING)


def test_page_that_the_stream_does_not_have_is_zero(benches: Benches) -> None:
    here, there = benches.add(Bench(Screen)), benches.add(Bench(Screen))
    screen(here).vram[3 * PAGE] = 1
    for at in (0, 3 * PAGE + 5, 9 * PAGE, VRAM - 1):
        screen(there).vram[at] = 9
    screen(there).edge[0] = 9
    move(here, there)
    assert_same(here, there)
    assert bytes(screen(there).vram[: 4 * PAGE]).count(0) == 4 * PAGE - 1


def test_memory_whose_size_is_no_chunk_is_compared_to_its_end(benches: Benches) -> None:
    assert PAGE % CHUNK
    here, there = benches.add(Bench(Screen)), benches.add(Bench(Screen))

    def change() -> None:
        screen(here).edge[PAGE - 1] += 1

    move(here, there, change)
    assert screen(there).edge[PAGE - 1] == 2


def test_changes_of_every_extent_are_found() -> None:
    """Where the touched extents begin and end anywhere, also in the middle of a chunk."""
    view = memoryview(bytearray(40 * CHUNK + PAGE))
    extents = [(PAGE, 2 * PAGE), (3 * PAGE, 3 * PAGE + 1), (5 * CHUNK + 1, 8 * CHUNK - 1), (40 * CHUNK, len(view))]
    place = pages.Place("m", view, lambda: extents)
    assert list(pages.stretches_of(place, 2 * CHUNK)) == [
        (0, CHUNK), (5 * CHUNK, 7 * CHUNK), (7 * CHUNK, 8 * CHUNK), (40 * CHUNK, len(view)),
    ]  # fmt: skip
    for at in (PAGE, 6 * CHUNK, len(view) - 1):
        view[at] = 1
    assert list(pages.occupied(place)) == [1, 6 * CHUNK // PAGE, len(view) // PAGE - 1]
    shadow = Shadow(0, place, kept=True)
    given = [each for each in shadow.changed(outgoing.RUNNING) if each]
    assert [run for each in given for run in each.runs] == [(1, 1), (24, 1), (160, 1)]
    assert not any(shadow.changed(outgoing.RUNNING))


# --- memory that nobody touched ------------------------------------------------------------------------------------


def on_file() -> tuple[VfioDevice, Device, RegionFile]:
    device, file = Device(Screen, Profile(), UUID(int=1)), RegionFile("test")
    vfio = VfioDevice(UUID(int=1), "test/type", device)
    vfio.open(Jobs(vfio), file)
    return vfio, device, file


def test_memory_that_nobody_touched_takes_no_room_here_or_there() -> None:
    here, there = on_file(), on_file()
    here[1].function.__dict__["vram"][MiB] = 1
    touched = os.fstat(here[2].fd).st_blocks
    assert 0 < touched * 512 < MiB
    for vfio in (here[0], there[0]):
        vfio.migration.set_state(S.PRE_COPY if vfio is here[0] else S.RESUMING)
    for _ in range(2):
        for piece in everything(here[0].migration):
            there[0].migration.write(piece)
    here[0].migration.set_state(S.STOP_COPY)
    for piece in everything(here[0].migration):
        there[0].migration.write(piece)
    there[0].migration.set_state(S.RUNNING)
    assert there[1].save() == here[1].save()
    assert os.fstat(here[2].fd).st_blocks * 512 <= CHUNK  # what lies in one chunk with it was looked at
    assert os.fstat(there[2].fd).st_blocks * 512 <= CHUNK
    for vfio, _device, file in (here, there):
        vfio.close()
        file.close()


def test_memory_goes_with_its_user_whatever_was_loaded_into_it(benches: Benches) -> None:
    """And not when Python looks for what refers to itself, which in an idle host is never."""
    stream = stream_of(benches.add(Bench(Screen)))
    vfio, _device, file = on_file()
    gc.disable()
    try:
        vfio.migration.set_state(S.RESUMING)
        vfio.migration.write(stream)
        vfio.migration.set_state(S.RUNNING)
        region = weakref.ref(file._maps[2])
        vfio.close()
        file.close()
        assert region() is None
    finally:
        gc.enable()


# --- whose stream it is ------------------------------------------------------------------------------------------


def test_device_can_be_migrated_in_every_way(benches: Benches) -> None:
    assert benches.add(Bench(Machine)).vfio.migration.flags == MigrationFlags(7)


@pytest.mark.parametrize("verb", ["read", "write", "finish"])
def test_stream_of_a_device_that_was_replaced_ends(benches: Benches, verb: str) -> None:
    bench = benches.add(Bench(Machine))
    migration = bench.vfio.migration
    migration.set_state(S.STOP_COPY if verb == "read" else S.RESUMING)
    user, bench.device._vfio = bench.device._vfio, None
    with pytest.raises(NoDevice):
        {"read": lambda: migration.read(1), "write": lambda: migration.write(b"x"), "finish": go_on(migration)}[verb]()
    bench.device._vfio = user
    bench.vfio.reset()


def go_on(migration: Any) -> Any:  # Any: a call
    return lambda: migration.set_state(S.RUNNING)


def test_another_type_is_refused_in_clear_words(benches: Benches) -> None:
    small, large = (benches.add(Bench(Card.function, Card.types[name])) for name in ("small", "large"))
    stream = stream_of(small)
    with pytest.raises(
        StateError, match=r"type has (buffer = 16777216, and this one's has 67108864|lanes = 1, .* 4): load"
    ):
        give(large, stream)
    assert large.vfio.migration.state is S.RESUMING
    large.vfio.reset()


def test_another_driver_is_refused(benches: Benches) -> None:
    with pytest.raises(StateError, match="expected one of Screen, given one of 'Machine'"):
        give(benches.add(Bench(Screen)), stream_of(benches.add(Bench(Machine))))


def test_what_a_release_adds_is_as_after_a_reset(benches: Benches) -> None:
    """Memory in another order, one more of it, and a profile with one more field."""

    @dataclass(frozen=True)
    class More(Profile):
        lanes: int = 1

    class Newer(Function[Profile]):
        identity = PciId(vendor=0x1DE5, device=10, class_code=0x120000)
        regs, edge = Screen.Regs(), Memory(index=4, size=PAGE)
        vram, added = Memory(index=2, size=VRAM), Memory(index=9, size=PAGE)

    Newer.__name__ = "Screen"
    here, there = benches.add(Bench(Screen)), benches.add(Bench(Newer, More()))
    screen(here).vram[9], screen(here).edge[8] = 1, 2
    new = there.device.function
    assert isinstance(new, Newer)
    new.added[0] = 5
    move(here, there)
    assert (new.vram[9], new.edge[8], new.added[0]) == (1, 2, 0)


class Old(Function[Profile]):
    identity = PciId(vendor=0x1DE5, device=11, class_code=0x120000)
    ram, count = Memory(index=2, size=4 * PAGE), Saved(0)


def doubled(snapshot: Snapshot) -> Snapshot:
    """The count was kept in halves, and the memory had another name."""
    count = snapshot.values["count"]
    assert isinstance(count, int)
    return Snapshot(
        snapshot.driver, snapshot.version, {"count": 2 * count}, (), {"store": snapshot.memory["ram"]},
        snapshot.config, snapshot.levels, snapshot.pending, snapshot.vectors, snapshot.events,
    )  # fmt: skip


class New(Function[Profile]):
    identity = PciId(vendor=0x1DE5, device=11, class_code=0x120000)
    state_version = 2
    upgrades = {1: doubled}
    store, count = Memory(index=2, size=4 * PAGE), Saved(0)


New.__name__ = "Old"


def test_stream_of_an_older_version_is_upgraded_with_its_memory(benches: Benches) -> None:
    here, there = benches.add(Bench(Old)), benches.add(Bench(New))
    old, new = here.device.function, there.device.function
    assert isinstance(old, Old)
    assert isinstance(new, New)
    old.ram[PAGE : PAGE + 3], old.count = b"abc", 21
    new.store[0] = 9

    def change() -> None:
        old.ram[2 * PAGE] += 1

    move(here, there, change)
    assert (new.count, bytes(new.store)) == (42, bytes(old.ram))
    with pytest.raises(StateError, match=r"state version 2.*update the driver here first"):
        give(here, stream_of(there))
    here.vfio.reset()


def test_state_in_one_piece_loads_as_a_stream(benches: Benches) -> None:
    here, there = benches.add(in_use()), benches.add(Bench(Machine))
    state = here.device.save()
    give(there, state[:5], state[5:300], state[300:])
    assert_same(here, there)


# --- what a driver does wrong ------------------------------------------------------------------------------------


def test_driver_that_refuses_too_late_is_an_error(benches: Benches) -> None:
    class Late(Screen):
        @override
        def loaded(self) -> None:
            raise StateError("I do not like it")

    here, there = benches.add(Bench(Late)), benches.add(Bench(Late))
    with pytest.raises(DriverError, match="in the middle of a load: I do not like it"):
        move(here, there)
    assert there.vfio.migration.state is S.ERROR
    there.vfio.reset()


def test_state_that_is_too_large_is_the_drivers_mistake(benches: Benches) -> None:
    class Large(Screen):
        text = Saved("")

    here = benches.add(Bench(Large))
    made = here.device.function
    assert isinstance(made, Large)
    made.text = "x" * (5 * MiB)
    with pytest.raises(DriverError, match="keep what is large in Memory"):
        stream_of(here)
    here.vfio.migration.set_state(S.RUNNING)


# --- while it is stopped -----------------------------------------------------------------------------------------


def test_time_of_a_stopped_device_is_that_of_its_stop(benches: Benches) -> None:
    """What a job has slept is told by the jobs' clock, which stands still (`host.jobs`)."""
    here, there = benches.add(in_use()), benches.add(Bench(Machine))
    here.jobs.now = 2.5
    move(here, there)
    slept = [each.slept.seconds(there.jobs.now) for each in there.device.jobs]
    assert slept == [each.slept.seconds(here.jobs.now) for each in here.device.jobs]
    assert slept[0] == 2.5
    assert here.jobs.paused
    assert not there.jobs.paused


def test_config_space_can_be_written_until_the_end(benches: Benches) -> None:
    here, there = benches.add(Bench(Screen)), benches.add(Bench(Screen))
    migration = here.vfio.migration
    migration.set_state(S.STOP_COPY)
    here.write(0x3C, b"\5", 7)
    give(there, *everything(migration))
    migration.set_state(S.RUNNING)
    assert there.read(0x3C, 1, 7) == here.read(0x3C, 1, 7)


class Marked(Screen):
    """Its reset writes to its memory."""

    @override
    def reset(self, kind: ResetKind) -> None:
        if kind is ResetKind.FUNCTION:
            self.vram[:4] = b"BIOS"


def test_what_a_reset_in_the_middle_of_a_stream_leaves_is_the_resets(benches: Benches) -> None:
    here, there = benches.add(Bench(Marked)), benches.add(Bench(Marked))
    screen(here).vram[: 2 * PAGE] = b"x" * (2 * PAGE)
    there.vfio.migration.set_state(S.RESUMING)
    there.vfio.migration.write(stream_of(here))
    there.vfio.reset()
    assert bytes(screen(there).vram[: 2 * PAGE]) == b"BIOS".ljust(2 * PAGE, b"\0")


def test_stream_is_what_the_page_in_the_decisions_says(benches: Benches) -> None:
    kinds = [kind for kind, _payload in records(stream_of(benches.add(in_use())))]
    assert kinds == [Kind.HEADER, Kind.PAGES, Kind.STATE, Kind.END]


def test_refused_stream_is_put_nowhere(benches: Benches) -> None:
    bench = benches.add(Bench(Screen))
    place = pages.places_of(bench.device)[0]
    landing = InPlace([place])
    with pytest.raises(StateError):
        landing.put(0, memoryview(pages.RUN.pack(0, 2)), memoryview(bytes(PAGE)))
    with pytest.raises(StateError, match="memory 1: expected less than 1"):
        landing.put(1, memoryview(b""), memoryview(b""))
