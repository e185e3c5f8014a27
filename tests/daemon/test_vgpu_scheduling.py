"""Mdevs of one vgpu that all want to draw: what each gets follows their weights, limits and the parent's policy."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from statistics import median
from time import monotonic, sleep
from uuid import UUID

import pytest

from mdev_user.testing.daemon import RunningDaemon

CLIENT = Path(__file__).parents[2] / "bench" / "gpu_client.py"
UNWEIGHTED = Path(__file__).parent / "parents" / "unweighted.py"
WIDTH, HEIGHT = 1024, 768
TYPES = ("vgpu-GVTg_V5_8", "vgpu-GVTg_V5_8", "vgpu-GVTg_V5_8")
ENOUGH = 40 * WIDTH * HEIGHT
"""Pixels of the one that draws least, which a ratio is measured over."""


class Drawing:
    """Guests that draw as much as they can, on a daemon of their own."""

    def __init__(self, daemon: RunningDaemon, uuids: list[UUID], guests: "list[subprocess.Popen[str]]") -> None:
        self.daemon, self.uuids, self.guests = daemon, uuids, guests

    def file(self, guest: int, name: str) -> Path:
        return self.daemon.sys / "bus/mdev/devices" / str(self.uuids[guest]) / "scheduling" / name

    def drawn(self) -> list[int]:
        return [int(self.file(guest, "drawn").read_text()) for guest in range(len(self.uuids))]

    def shares(self) -> list[float]:
        """What each draws from now on, in parts of what the first draws."""
        before, grown, end = self.drawn(), [0], monotonic() + 60
        while min(grown) < ENOUGH:
            assert monotonic() < end, f"they draw too little: {grown}"
            sleep(0.1)
            grown = [after - earlier for after, earlier in zip(self.drawn(), before, strict=True)]
        return [each / grown[0] for each in grown]

    def expect(self, shares: list[float]) -> None:
        """Several times, since on a busy machine a guest may not ask for all that it could have."""
        found = [self.shares()]
        while found[-1] != pytest.approx(shares, rel=0.1):
            assert len(found) < 5, f"expected {shares}, found {found}"
            found.append(self.shares())

    def worked(self, seconds: float) -> float:
        """The part of a processor's time that the thread has from now on that works for all mdevs."""
        tasks = list(Path(f"/proc/{self.daemon.host_pids()['vgpu']}/task").iterdir())
        before, began = [_processor(each) for each in tasks], monotonic()
        sleep(seconds)  # what is measured is how much it is in a time
        used = [_processor(each) - earlier for each, earlier in zip(tasks, before, strict=True)]
        return max(used) / (monotonic() - began)

    @contextmanager
    def alone(self, guest: int) -> Iterator[None]:
        """The others want nothing."""
        others = [each for number, each in enumerate(self.guests) if number != guest]
        for each in others:
            each.send_signal(SIGSTOP)
        try:
            yield
        finally:
            for each in others:
                each.send_signal(SIGCONT)

    def updates(self, guest: int) -> tuple[int, float]:
        """Of its picture so far, and the seconds since it began."""
        stream = self.guests[guest]
        assert stream.stdin is not None
        assert stream.stdout is not None
        stream.stdin.write("count\n")
        stream.stdin.flush()
        done, seconds = stream.stdout.readline().split()
        return int(done), float(seconds)


def _processor(task: Path) -> float:
    """Seconds that a thread had of a processor."""
    return int((task / "schedstat").read_text().split()[0]) / 1e9


@contextmanager
def drawing(driver: str) -> Iterator[Drawing]:
    with RunningDaemon(driver) as daemon, ExitStack() as stack:
        uuids = [daemon.create(each) for each in TYPES]
        made = Drawing(daemon, uuids, [stack.enter_context(_guest(daemon.run_dir.socket(each))) for each in uuids])
        for guest in range(len(uuids)):
            made.updates(guest)  # it answers when it draws
        yield made


@contextmanager
def _guest(socket: Path) -> "Iterator[subprocess.Popen[str]]":
    command = [sys.executable, str(CLIENT), str(socket), str(WIDTH), str(HEIGHT), "0", "4"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def scene() -> Iterator[Drawing]:
    with drawing("vgpu") as made:
        yield made


def test_guests_draw_by_weight_and_a_new_weight_is_felt_at_once(scene: Drawing) -> None:
    for guest, weight in enumerate((1, 2, 4)):
        scene.file(guest, "weight").write_text(f"{weight}\n")
    scene.expect([1, 2, 4])
    scene.file(0, "schedule").write_text("weight=8 frame_rate_limit=0\n")
    scene.expect([1, 0.25, 0.5])


def test_equal_share_asks_for_no_weight(scene: Drawing) -> None:
    for guest, weight in enumerate((1, 2, 4)):
        scene.file(guest, "weight").write_text(f"{weight}\n")
    parent = scene.daemon.sys / "class/mdev_bus/vgpu/scheduling/policy"
    parent.write_text("equal_share\n")
    try:
        scene.expect([1, 1, 1])
    finally:
        parent.write_text("best_effort\n")


@pytest.mark.parametrize(("policy", "part"), [("fixed_share", 1 / 4), ("equal_share", 1 / 3)])
def test_part_holds_while_the_others_are_idle(scene: Drawing, policy: str, part: float) -> None:
    """Of all that is done for it: where only turns were paced, it was 1.6 times as much."""
    for guest, weight in enumerate((8, 4, 4)):
        scene.file(guest, "weight").write_text(f"{weight}\n")
    parent = scene.daemon.sys / "class/mdev_bus/vgpu/scheduling/policy"
    parent.write_text(f"{policy}\n")
    try:
        with scene.alone(2):
            scene.worked(0.2)  # what others had begun is done, and what was paid is over
            drawn = scene.drawn()[2]
            assert median(scene.worked(0.4) for _each in range(3)) < part * 1.2  # a machine that is stopped, works
            assert scene.drawn()[2] > drawn
    finally:
        parent.write_text("best_effort\n")


def test_frame_rate_limit_holds(scene: Drawing) -> None:
    scene.file(1, "schedule").write_text("frame_rate_limit=20")
    sleep(0.5)
    before, since = scene.updates(1)
    sleep(1)
    done, seconds = scene.updates(1)
    scene.file(1, "frame_rate_limit").write_text("0")
    assert 0 < done - before <= 20 * (seconds - since) + 5


def test_schedule_is_taken_whole_or_not_at_all(scene: Drawing) -> None:
    scene.file(2, "schedule").write_text("weight=4 frame_rate_limit=0")
    for refused in ("weight=8 frame_rate_limit=-1", "weight=17 frame_rate_limit=5", "weight=8 wait=1"):
        with pytest.raises(OSError, match="Invalid argument"):
            scene.file(2, "schedule").write_text(refused)
        assert scene.file(2, "schedule").read_text() == "weight=4 frame_rate_limit=0\n"


def test_without_weights_all_draw_alike() -> None:
    """The negative control."""
    with drawing(f"{UNWEIGHTED}:Card,name=vgpu") as made:
        for guest, weight in enumerate((1, 2, 4)):
            made.file(guest, "weight").write_text(f"{weight}\n")
        made.expect([1, 1, 1])
