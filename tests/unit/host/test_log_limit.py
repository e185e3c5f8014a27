"""How many lines an mdev may log, and that what was left out is counted."""

import logging
import threading
from collections.abc import Iterator

import pytest
from typing_extensions import override

from mdev_user.host import log_limit
from mdev_user.host.job_thread import JOBS
from mdev_user.host.log_limit import MDEV_LINES, OTHER_LINES, LogLimit


class Lines(logging.Handler):
    """Keeps what gets through."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Scene:
    def __init__(self) -> None:
        self.now = 100.0
        self.working_for = ""
        self.handler = Lines()
        self.limit = LogLimit(lambda: self.working_for, lambda: self.now)
        self.handler.addFilter(self.limit)
        self.log = logging.getLogger("test.log_limit")
        self.log.propagate = False
        self.log.addHandler(self.handler)
        self.log.setLevel(logging.INFO)

    def say(self, thread: str, count: int = 1) -> list[str]:
        """What gets through of so many lines of a thread of this name."""
        before = len(self.handler.lines)

        def run() -> None:
            for number in range(count):
                self.log.info("line %d", number)

        talking = threading.Thread(target=run, name=thread)
        talking.start()
        talking.join()
        return self.handler.lines[before:]


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.log.removeHandler(scene.handler)


def test_an_mdev_gets_its_lines_and_then_one_a_second(scene: Scene) -> None:
    assert len(scene.say("mdev 1", 1000)) == MDEV_LINES
    scene.now += 2.5
    assert len(scene.say("mdev 1", 1000)) == 2


def test_the_next_line_says_how_many_were_left_out(scene: Scene) -> None:
    scene.say("mdev 1", MDEV_LINES + 7)
    scene.now += 1
    assert scene.say("mdev 1") == ["line 0 [before it 7 lines of mdev 1 were left out]"]
    scene.now += 1
    assert scene.say("mdev 1") == ["line 0"]


def test_others_lines_get_through(scene: Scene) -> None:
    scene.say("mdev 1", 1000)
    assert scene.say("mdev 2") == ["line 0"]
    assert scene.say("poll") == ["line 0"]
    assert len(scene.say("call_1", 1000)) == OTHER_LINES - 1


def test_a_line_of_a_job_is_its_mdevs(scene: Scene) -> None:
    scene.working_for = "mdev 1"
    assert len(scene.say(JOBS, 1000)) == MDEV_LINES
    assert scene.say("mdev 1") == []
    scene.working_for = "mdev 2"
    assert scene.say(JOBS) == ["line 0"]


def test_accounts_of_mdevs_that_are_quiet_again_are_forgotten(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_limit, "_FEW", 10)
    scene.say("mdev loud", 100)
    for number in range(50):
        scene.say(f"mdev {number}")
        scene.now += 2
    assert len(scene.limit._accounts) <= 11
    assert "were left out" in scene.say("mdev loud")[0]
