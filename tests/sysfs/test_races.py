"""Many writers at once: one winner, no over-commit; and a slow or blocked file delays nobody else."""

import errno
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Barrier, BrokenBarrierError
from threading import Event as Flag
from uuid import UUID

import pytest
from typing_extensions import override

from mdev_user.mdev.device import Mdev
from mdev_user.mdev.parent import MdevParent
from sysfs.access import read, write
from sysfs.mounted import Mounted, mounted_scene
from unit.sysfs.scene import MDPY, MTTY, MTTY_TYPES, PATIENCE, UUID1, UUID2, until, uuid_of

pytestmark = pytest.mark.fuse

CREATES = (f"{MTTY}/create", f"{MTTY_TYPES}/mtty-2/create", f"{MDPY}/create")
BLOCKED = 40


def at_once(actions: Sequence[Callable[[], int]]) -> Counter[int]:
    start = Barrier(len(actions))

    def run(action: Callable[[], int]) -> int:
        start.wait(PATIENCE)
        return action()

    with ThreadPoolExecutor(len(actions)) as pool:
        return Counter(pool.map(run, actions))


def writers(paths: Sequence[Path], texts: Sequence[bytes]) -> list[Callable[[], int]]:
    return [partial(write, path, text) for path, text in zip(paths, texts, strict=True)]


def test_of_many_creates_of_one_uuid_one_wins(mounted: Mounted) -> None:
    for _ in range(10):
        paths = [mounted / CREATES[index % 3] for index in range(9)]
        assert at_once(writers(paths, [str(UUID1).encode()] * 9)) == {36: 1, -errno.EEXIST: 8}
        assert write(mounted / f"bus/mdev/devices/{UUID1}/remove", b"1") == 1


def test_40_creates_on_21_free_instances_make_21(mounted: Mounted) -> None:
    mounted.scene.mtty.free = 21
    texts = [str(uuid_of(number)).encode() for number in range(40)]
    assert at_once(writers([mounted / CREATES[0]] * 40, texts)) == {36: 21, -errno.ENOSPC: 19}
    assert len(mounted.names("bus/mdev/devices")) == 21
    assert read(mounted / f"{MTTY}/available_instances") == "0\n"


def test_20_creates_on_a_parent_with_4_make_4(mounted: Mounted) -> None:
    texts = [str(uuid_of(number)).encode() for number in range(20)]
    assert at_once(writers([mounted / CREATES[2]] * 20, texts)) == {36: 4, -errno.EUSERS: 16}


def test_of_many_removes_one_wins(mounted: Mounted) -> None:
    for _ in range(10):
        mounted.scene.create()
        path = mounted / f"bus/mdev/devices/{UUID1}/remove"
        found = at_once(writers([path] * 8, [b"1"] * 8))
        assert found[1] == 1
        assert set(found) <= {1, -errno.ENODEV, -errno.ENOENT}
        assert mounted.names("bus/mdev/devices") == []


def test_creates_that_race_the_end_of_their_parent_are_made_and_gone_or_refused(mounted: Mounted) -> None:
    mounted.scene.mtty.free = 1000
    for round_ in range(5):
        parent = mounted.scene.bus.parent("mtty")
        texts = [str(uuid_of(100 * round_ + number)).encode() for number in range(12)]

        def unregister(parent: MdevParent = parent) -> int:
            mounted.scene.bus.unregister_parent(parent)
            return 0

        actions = [*writers([mounted / CREATES[0], mounted / CREATES[1]] * 6, texts), unregister]
        assert set(at_once(actions)) <= {0, 36, -errno.ENODEV, -errno.ENOENT}
        assert mounted.names("bus/mdev/devices") == mounted.names("kernel/iommu_groups") == []
        assert not (mounted / "devices/virtual/mtty").exists()
        assert mounted.scene.mtty.free == 1000
        mounted.scene.bus.register_parent("mtty", mounted.scene.mtty)


class Unlocked:
    """Instead of a lock."""

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        return


class Meeting(dict[UUID, Mdev]):
    """What is on the bus; two who look up the same UUID at once meet there, if nothing keeps them apart."""

    def __init__(self) -> None:
        super().__init__()
        self._both = Barrier(2)

    @override
    def __contains__(self, uuid: object) -> bool:
        found = super().__contains__(uuid)
        with suppress(BrokenBarrierError):
            self._both.wait(1.0)
        return found


@pytest.mark.parametrize(("locked", "winners"), [(True, 1), (False, 2)])
def test_without_the_lock_two_creates_of_one_uuid_would_win(mounted: Mounted, locked: bool, winners: int) -> None:
    """The negative control, and with the lock the same two threads."""
    bus = mounted.scene.bus
    bus._mdevs = Meeting()
    if not locked:
        bus._lock = Unlocked()  # type: ignore[assignment]  # a lock in form only
    paths = [mounted / CREATES[index] for index in range(2)]
    assert at_once(writers(paths, [str(UUID1).encode()] * 2))[36] == winners


@contextmanager
def blocked_removes(mounted: Mounted, number: int) -> Iterator[list[Future[int]]]:
    """Removes of mdevs that are in use, each in its thread, until the block ends."""
    driver = mounted.scene.driver
    mounted.scene.mtty.free = 1000
    uuids = [uuid_of(1000 + each) for each in range(number)]
    with ThreadPoolExecutor(number) as pool:
        try:
            futures = []
            for uuid in uuids:
                mounted.scene.create(uuid)
                driver.hold(uuid)
                futures.append(pool.submit(write, mounted / f"bus/mdev/devices/{uuid}/remove", b"1"))
            until(lambda: driver.waiting == set(uuids))
            yield futures
        finally:
            driver.release_all()


def use_everything(mounted: Mounted) -> None:
    """What an administrator does: list, read, create, remove."""
    assert mounted.names("class/mdev_bus") == ["mdpy", "mtty"]
    assert read(mounted / f"{MTTY}/name") == "Single port serial\n"
    assert write(mounted / CREATES[0], str(UUID1).encode()) == 36
    assert read(mounted / f"bus/mdev/devices/{UUID1}/uevent") == "DRIVER=mtty\n"
    assert write(mounted / f"bus/mdev/devices/{UUID1}/remove", b"1") == 1


def test_40_blocked_removes_delay_nobody(mounted: Mounted) -> None:
    with blocked_removes(mounted, BLOCKED) as removes:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(use_everything, mounted).result(PATIENCE / 2)
        assert len(mounted.names("kernel/iommu_groups")) == BLOCKED
        assert write(mounted / CREATES[0], str(uuid_of(1000)).encode()) == -errno.EEXIST
        assert mounted.names(f"devices/virtual/mtty/mtty/{uuid_of(1000)}") == ["iommu_group"]
        assert not any(remove.done() for remove in removes)
    assert {remove.result(PATIENCE) for remove in removes} == {1}
    assert mounted.names("bus/mdev/devices") == mounted.names("kernel/iommu_groups") == []


def test_with_libfuses_own_limit_blocked_removes_would_delay_everybody() -> None:
    """The negative control: with ten threads, ten blocked removes are the end of the tree."""
    with mounted_scene(max_threads=10) as mounted, ThreadPoolExecutor(1) as pool:
        with blocked_removes(mounted, 10):
            waiting = pool.submit(use_everything, mounted)
            with pytest.raises(TimeoutError):
                waiting.result(1.0)
        waiting.result(PATIENCE)


def test_a_slow_create_delays_neither_other_types_nor_readers(mounted: Mounted) -> None:
    begun, go = Flag(), Flag()

    def slow() -> None:
        begun.set()
        go.wait(PATIENCE)

    mounted.scene.mtty.on_create = slow
    with ThreadPoolExecutor(2) as pool:
        creating = pool.submit(write, mounted / CREATES[0], str(UUID1).encode())
        try:
            assert begun.wait(PATIENCE)
            assert read(mounted / f"{MTTY}/available_instances") == "24\n"
            assert pool.submit(write, mounted / CREATES[2], str(UUID2).encode()).result(PATIENCE / 2) == 36
            assert read(mounted / f"devices/virtual/mtty/mtty/{UUID1}/uevent") == ""
            assert write(mounted / f"bus/mdev/devices/{UUID1}/remove", b"1") == -errno.EAGAIN
        finally:
            go.set()
        assert creating.result(PATIENCE) == 36


def test_a_blocked_show_delays_no_other_reader_of_the_same_file(mounted: Mounted) -> None:
    mounted.scene.create()
    begun, go = Flag(), Flag()

    def show() -> str:
        if begun.is_set():
            return "quick\n"
        begun.set()
        go.wait(PATIENCE)
        return "slow\n"

    mounted.scene.mtty.on_show = show
    speed = mounted / f"bus/mdev/devices/{UUID1}/vendor/speed"
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(read, speed)
        try:
            assert begun.wait(PATIENCE)
            assert read(speed) == "quick\n"
            assert write(speed, b"1") == 1
        finally:
            go.set()
        assert slow.result(PATIENCE) == "slow\n"


def test_the_tree_can_be_taken_away_while_removes_wait() -> None:
    with mounted_scene() as mounted, blocked_removes(mounted, 5) as blocked:
        mounted.mount.unmount()
        assert {future.result(PATIENCE) for future in blocked} <= {-errno.ENOTCONN, -errno.ECONNABORTED}
        assert list(mounted.root.iterdir()) == []
