"""The migration of an open device: what each state stops, and what becomes of its streams."""

from collections.abc import Iterator
from functools import partial
from uuid import UUID

import pytest
from typing_extensions import override

from mdev_user.errors import GuestError, NoDevice, StateError, UnknownRequest
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.migration import Migration, Precopy
from mdev_user.vfio.migration_states import MigrationFlags, MigrationState
from mdev_user.vfio.ops import DeviceOps
from mdev_user.vfio.requests import Region, Reply, Request
from unit.vfio.test_device import Runner

S = MigrationState
CONFIG = int(Region.CONFIG)


class Stream:
    """Both ways; writes down what happens to it."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name
        self.fault: BaseException | None = None
        log.append(f"{name} made")

    def _did(self, what: str) -> None:
        self.log.append(f"{self.name} {what}")
        if self.fault is not None:
            raise self.fault

    def read(self, most: int) -> bytes:
        self._did(f"read {most}")
        return b"x" * most

    def write(self, data: bytes) -> None:
        self._did(f"write {len(data)}")

    def stop(self) -> None:
        self._did("stop")

    def finish(self) -> None:
        self._did("finish")

    def precopy(self) -> Precopy:
        return Precopy(1, 2)

    def size(self) -> int:
        return 77

    def close(self) -> None:
        self.log.append(f"{self.name} closed")


class Movable(DeviceOps):
    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.stream: Stream | None = None

    @override
    def open_device(self, device: VfioDevice) -> None:
        self.device = device

    @override
    def read(self, region: int, offset: int, count: int) -> bytes:
        return bytes(count)

    @override
    def write(self, region: int, offset: int, data: bytes) -> None:
        self.log.append(f"write to {region}")

    @override
    def ioctl(self, request: Request) -> Reply:
        self.log.append(type(request).__name__)
        return None

    @override
    def migration_flags(self) -> MigrationFlags:
        return MigrationFlags(7)

    @override
    def save_state(self, *, precopy: bool) -> Stream:
        self.stream = Stream(self.log, "pre-copy" if precopy else "stop-copy")
        return self.stream

    @override
    def load_state(self) -> Stream:
        self.stream = Stream(self.log, "load")
        return self.stream


def opened(ops: DeviceOps, log: list[str]) -> VfioDevice:
    device = VfioDevice(UUID(int=1), "test/type", ops)
    runner = Runner(log)
    device.open(runner, runner)
    return device


def state_of(migration: Migration) -> MigrationState:
    return migration.state


Scene = tuple[VfioDevice, Migration, Movable, list[str]]


@pytest.fixture
def scene() -> Iterator[Scene]:
    log: list[str] = []
    ops = Movable(log)
    device = opened(ops, log)
    yield device, device.migration, ops, log
    device.close()


def go(scene: Scene, *states: MigrationState) -> None:
    for state in states:
        scene[1].set_state(state)


def accesses(device: VfioDevice, region: int) -> bool:
    """Whether they are performed; a read and a write alike."""
    results = []
    for access in (partial(device.read, region, 0, 4), partial(device.write, region, 0, b"1234")):
        try:
            access()
            results.append(True)
        except GuestError:
            results.append(False)
    assert len(set(results)) == 1
    return results[0]


RUNNING_ON = [S.RUNNING, S.RUNNING_P2P, S.PRE_COPY, S.PRE_COPY_P2P]


@pytest.mark.parametrize("state", [each for each in S if each is not S.ERROR])
def test_stopped_device_has_its_config_space_only(scene: Scene, state: MigrationState) -> None:
    device, migration, _ops, log = scene
    go(scene, state)
    assert state_of(migration) is state
    assert accesses(device, 0) is (state in RUNNING_ON)
    assert accesses(device, CONFIG)
    paused = [each for each in log if each in {"pause", "resume"}][-1:] == ["pause"]
    assert paused is (state not in {S.RUNNING, S.PRE_COPY})


def test_gate_stands_before_the_watcher_too(scene: Scene) -> None:
    device, _migration, ops, _log = scene

    class Watching(Movable):
        def opened(self) -> None: ...
        def closed(self) -> None: ...
        def replaced(self) -> None: ...
        def spawned(self, name: str) -> None: ...

    seen: list[str] = []
    watcher = Watching(seen)
    go(scene, S.STOP)
    device.watch(watcher)
    assert not accesses(device, 0)
    assert accesses(device, CONFIG)
    device.replace(ops)
    assert not accesses(device, 0)
    go(scene, S.RUNNING)
    assert accesses(device, 0)
    assert seen == ["write to 7", "write to 0"]
    device.watch(None)


def test_running_device_has_nothing_in_the_way(scene: Scene) -> None:
    device, _migration, ops, _log = scene
    go(scene, S.STOP, S.RUNNING, S.PRE_COPY)
    assert device.read == ops.read
    assert device.write == ops.write


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([S.STOP_COPY], ["stop-copy made"]),
        ([S.STOP_COPY, S.STOP], ["stop-copy made", "stop-copy closed"]),
        ([S.PRE_COPY, S.STOP_COPY, S.RUNNING], ["pre-copy made", "pre-copy stop", "pre-copy closed"]),
        ([S.PRE_COPY, S.RUNNING], ["pre-copy made", "pre-copy closed"]),
        ([S.PRE_COPY_P2P, S.PRE_COPY, S.PRE_COPY_P2P, S.RUNNING_P2P], ["pre-copy made", "pre-copy closed"]),
        ([S.RESUMING], ["load made"]),
        ([S.RESUMING, S.RUNNING], ["load made", "load finish", "load closed"]),
        ([S.RESUMING, S.STOP_COPY], ["load made", "load finish", "load closed", "stop-copy made"]),
        ([S.RUNNING], []),
    ],
)
def test_streams_begin_and_end_with_their_states(
    scene: Scene, states: list[MigrationState], expected: list[str]
) -> None:
    go(scene, *states)
    assert [each for each in scene[3] if each.split()[0] in {"stop-copy", "pre-copy", "load"}] == expected


def test_jobs_are_paused_before_the_stream_is_stopped_and_resumed_after_it_is_gone(scene: Scene) -> None:
    go(scene, S.PRE_COPY, S.STOP_COPY, S.RUNNING)
    log = [each for each in scene[3] if each in {"pause", "resume", "pre-copy stop", "pre-copy closed"}]
    assert log.index("pause") < log.index("pre-copy stop") < log.index("pre-copy closed") < len(log) - 1
    assert log[-1] == "resume"


def test_data_go_only_where_the_state_has_them(scene: Scene) -> None:
    migration = scene[1]
    reads: set[MigrationState] = set()
    writes, tells = reads.copy(), reads.copy()
    for state in S:
        if state is not S.ERROR:
            go(scene, S.RUNNING, state)
            for found, call in (
                (reads, lambda: migration.read(3)),
                (writes, lambda: migration.write(b"x")),
                (tells, migration.precopy),
            ):
                try:
                    call()
                    found.add(state)
                except GuestError:
                    pass
            assert migration.data_size() == 77
    assert reads == {S.PRE_COPY, S.PRE_COPY_P2P, S.STOP_COPY}
    assert writes == {S.RESUMING}
    assert tells == {S.PRE_COPY, S.PRE_COPY_P2P}


def test_reading_nothing_is_a_mistake(scene: Scene) -> None:
    go(scene, S.STOP_COPY)
    for most in (0, -1):
        with pytest.raises(GuestError, match="1 byte or more"):
            scene[1].read(most)


def test_state_that_cannot_be_loaded_leaves_the_device_resuming(scene: Scene) -> None:
    _device, migration, ops, log = scene
    go(scene, S.RESUMING)
    assert ops.stream is not None
    ops.stream.fault = StateError("damaged")
    with pytest.raises(StateError, match="damaged"):
        migration.set_state(S.RUNNING)
    assert state_of(migration) is S.RESUMING
    assert [each for each in log if each.startswith("load")] == ["load made", "load finish", "load closed", "load made"]
    migration.write(b"another")
    migration.set_state(S.RUNNING)
    assert state_of(migration) is S.RUNNING


def test_stream_begins_anew_after_a_refused_write(scene: Scene) -> None:
    _device, migration, ops, log = scene
    go(scene, S.RESUMING)
    assert ops.stream is not None
    ops.stream.fault = StateError("foreign")
    with pytest.raises(StateError):
        migration.write(b"x")
    assert log[-2:] == ["load closed", "load made"]
    assert state_of(migration) is S.RESUMING


@pytest.mark.parametrize("state", [S.PRE_COPY, S.STOP_COPY, S.RESUMING])
def test_bug_in_the_middle_is_an_error_that_only_a_reset_leaves(scene: Scene, state: MigrationState) -> None:
    device, migration, ops, log = scene
    go(scene, state)
    assert ops.stream is not None
    ops.stream.fault = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        migration.write(b"x") if state is S.RESUMING else migration.read(1)
    assert state_of(migration) is S.ERROR
    assert log[-1] == "pause"
    assert any(each.endswith("closed") for each in log)
    assert not accesses(device, 0)
    assert accesses(device, CONFIG)
    for target in S:
        with pytest.raises(GuestError):
            migration.set_state(target)
    with pytest.raises(GuestError, match="reset it"):
        migration.data_size()
    device.reset()
    assert state_of(migration) is S.RUNNING
    assert accesses(device, 0)
    assert log[-3:] == ["Reset", "resume", "write to 0"]


def test_bug_at_the_end_of_a_load_is_an_error(scene: Scene) -> None:
    _device, migration, ops, _log = scene
    go(scene, S.RESUMING)
    assert ops.stream is not None
    ops.stream.fault = GuestError("the driver's own, half way")
    with pytest.raises(GuestError):
        migration.set_state(S.STOP)
    assert state_of(migration) is S.ERROR


def test_save_that_is_refused_leaves_the_device_running(scene: Scene) -> None:
    device, migration, ops, log = scene
    go(scene, S.PRE_COPY_P2P)
    assert ops.stream is not None
    ops.stream.fault = GuestError("too large")
    with pytest.raises(GuestError):
        migration.set_state(S.STOP_COPY)
    assert state_of(migration) is S.PRE_COPY_P2P
    assert accesses(device, 0)
    assert log[-1] != "resume"


@pytest.mark.parametrize("state", [each for each in S if each is not S.ERROR])
def test_reset_leaves_every_state(scene: Scene, state: MigrationState) -> None:
    device, migration, _ops, log = scene
    go(scene, state)
    device.reset()
    assert state_of(migration) is S.RUNNING
    assert accesses(device, 0)
    assert sum(each.endswith(" made") for each in log) == sum(each.endswith(" closed") for each in log)


def test_closing_the_device_closes_its_stream(scene: Scene) -> None:
    device, _migration, _ops, log = scene
    go(scene, S.STOP_COPY)
    device.close()
    assert "stop-copy closed" in log
    with pytest.raises(NoDevice):
        device.migration  # noqa: B018 - it is there while the device is open


def test_device_that_cannot_be_migrated_says_so_to_everything() -> None:
    class Fixed(Movable):
        @override
        def migration_flags(self) -> MigrationFlags:
            return MigrationFlags(0)

    log: list[str] = []
    device = opened(Fixed(log), log)
    migration = device.migration
    for call in (
        lambda: migration.set_state(S.STOP),
        lambda: migration.read(1),
        lambda: migration.write(b"x"),
        migration.precopy,
        migration.data_size,
    ):
        with pytest.raises(UnknownRequest):
            call()
    device.reset()
    device.close()


def test_use_of_a_device_that_does_nothing_by_itself_does_not_make_it(scene: Scene) -> None:
    """It was loaded before it had this user, and its jobs wait for the first use."""
    device, _migration, _ops, log = scene
    device.wait_for_use()
    go(scene, S.RUNNING_P2P)
    assert accesses(device, 0)
    assert "resume" not in log
    go(scene, S.RUNNING)
    assert log[-1] == "resume"
