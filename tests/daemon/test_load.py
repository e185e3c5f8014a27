"""Many at once: writers that race, and a daemon that is killed while they write."""

import errno
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from daemon.support import SECONDS, eventually, processes_of
from mdev_user.daemon.run_dir import mounts_below
from mdev_user.testing.daemon import RunningDaemon

pytestmark = pytest.mark.fuse

PARENTS = 20
MDEVS = 800
CONTESTED = 60
WRITERS = 8
ROUNDS = 20
Target = tuple[str, UUID]
Outcome = tuple[UUID, int]
"""A UUID and the errno that its write ended in, 0 for a create."""
NO_LOCK = """
from contextlib import nullcontext
from mdev_user.mdev import bus
init = bus.Bus.__init__
def without_lock(self, *arguments, **named):
    init(self, *arguments, **named)
    self._lock = nullcontext()
    self._mdevs = Forgetful()
class Forgetful(dict):
    def __contains__(self, uuid):
        found = super().__contains__(uuid)
        sleep(0.05)
        return found
from time import sleep
bus.Bus.__init__ = without_lock
"""


class Writer:
    """A process that writes UUIDs to `create` files (``writer.py``) once the file ``start`` is there."""

    def __init__(self, start: Path, targets: Sequence[Target]) -> None:
        command = [sys.executable, str(Path(__file__).parent / "writer.py"), str(start)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"{file} {uuid}\n" for file, uuid in targets))
        self.process.stdin.close()
        self.process.stdin = None

    def outcomes(self) -> list[Outcome]:
        printed, _ = self.process.communicate(timeout=SECONDS * 3)
        return [(UUID(uuid), int(number)) for uuid, number in (line.split() for line in printed.splitlines())]


@contextmanager
def writers(start: Path, shares: Sequence[Sequence[Target]]) -> Iterator[list[Writer]]:
    running = [Writer(start, each) for each in shares]
    try:
        yield running
    finally:
        for each in running:
            each.process.kill()
            each.process.wait()


def create_file(daemon: RunningDaemon, parent: str) -> str:
    return f"{daemon.sys}/class/mdev_bus/{parent}/mdev_supported_types/mtty-1/create"


def on_the_bus(daemon: RunningDaemon) -> list[UUID]:
    return sorted(UUID(each.name) for each in (daemon.sys / "bus/mdev/devices").iterdir())


def wait_for_creates(daemon: RunningDaemon, number: int) -> None:
    eventually(lambda: len(list(daemon.run_dir.devices.iterdir())) >= number, f"{number} creates")


def race(daemon: RunningDaemon, parents: Sequence[str], tmp_path: Path) -> tuple[list[UUID], list[Outcome]]:
    """The UUIDs that were written, and what came of each write.

    Some are contested: every writer writes them, each to another parent (Linux lets two writers of one file wait for
    each other, so there would be no race).
    """
    files = [create_file(daemon, each) for each in parents]
    uuids = [uuid4() for _ in range(MDEVS)]
    contested, own = uuids[:CONTESTED], uuids[CONTESTED:]
    shares = [
        [(files[(n + writer) % len(files)], uuid) for n, uuid in enumerate([*contested, *own[writer::WRITERS]])]
        for writer in range(WRITERS)
    ]
    start = tmp_path / "start"
    with writers(start, shares) as running:
        start.touch()
        outcomes = [outcome for each in running for outcome in each.outcomes()]
    return sorted(uuids), outcomes


def created(outcomes: Sequence[Outcome]) -> Counter[UUID]:
    """How often each UUID was created."""
    return Counter(uuid for uuid, number in outcomes if number == 0)


def test_of_creates_by_many_writers_none_is_lost_and_none_doubled(tmp_path: Path) -> None:
    names = [f"p{number}" for number in range(PARENTS)]
    with RunningDaemon(*(f"mtty,ports={MDEVS},name={name},host=h{n % 2}" for n, name in enumerate(names))) as daemon:
        written, outcomes = race(daemon, names, tmp_path)
        assert {number for _uuid, number in outcomes} == {0, errno.EEXIST}
        assert created(outcomes) == Counter(written)
        assert on_the_bus(daemon) == written
        assert sorted(UUID(each.uuid) for each in daemon.control.mdevs()) == written
        assert sorted(UUID(each.name) for each in daemon.run_dir.devices.iterdir()) == written


def test_without_the_buss_lock_one_uuid_would_be_created_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "MDEVS", 20)
    with RunningDaemon("mtty,name=one", "mtty,name=two", preamble=NO_LOCK) as daemon:
        _written, outcomes = race(daemon, ["one", "two"], tmp_path)
        assert max(created(outcomes).values()) > 1


def test_killed_in_the_middle_of_1000_creates_the_next_start_is_clean_20_times_over(tmp_path: Path) -> None:
    with RunningDaemon("mtty,ports=1000") as daemon:
        for number in range(ROUNDS):
            start = tmp_path / f"start-{number}"
            targets = [(create_file(daemon, "mtty"), uuid4()) for _ in range(1000)]
            with writers(start, [targets[::2], targets[1::2]]) as running:
                start.touch()
                wait_for_creates(daemon, 3 + 12 * number)  # of which each writer has one under way at most
                daemon.sys.stat()  # which the kernel goes on answering when the daemon is dead
                daemon.kill()
                outcomes = [outcome for each in running for outcome in each.outcomes()]
            assert 0 < len(created(outcomes)) < 1000
            eventually(lambda: not processes_of(daemon), "the hosts are gone with their daemon")
            daemon.start()
            assert on_the_bus(daemon) == []
            assert daemon.control.mdevs() == []
            assert list(daemon.run_dir.devices.iterdir()) == []
            assert mounts_below(daemon.folder.resolve()) == [daemon.sys.resolve()]
        uuid = daemon.create("mtty-1")
        with daemon.guest(uuid) as guest:
            assert guest.region_read(0, 5, 1) == b"\x60"
