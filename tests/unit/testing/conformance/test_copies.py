"""Copies of a process: their answer, their end, their freshness."""

import os
import signal
import time

import pytest

from drivers import everything
from drivers.bad import hidden
from mdev_user.driver import Parent, Pool
from mdev_user.errors import DriverError
from mdev_user.testing.conformance.copies import CopyDied, in_copy
from mdev_user.testing.conformance.fresh import FreshInterpreters
from mdev_user.testing.conformance.operations import Finding, Read, Setting, Write
from mdev_user.testing.conformance.player import Checkpoint
from mdev_user.testing.conformance.tasks import Explore, Explored, Moved, Resume

# Newer Pythons warn of a fork beside threads that other tests have left; what is copied here takes no lock.
pytestmark = pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")

SEEN: list[int] = []


def test_copy_answers_and_leaves_nothing_behind() -> None:
    def work() -> bytes:
        SEEN.append(1)
        return b"x" * 1_000_000

    assert in_copy(work) == b"x" * 1_000_000
    assert SEEN == []


def test_copy_that_does_not_end_is_ended() -> None:
    def forever() -> bytes:
        while True:
            time.sleep(1)

    with pytest.raises(CopyDied, match=r"did not come to an end within 0\.2 s"):
        in_copy(forever, seconds=0.2)


def test_copy_that_dies_is_told() -> None:
    def die() -> bytes:
        os.kill(os.getpid(), signal.SIGKILL)
        return b""

    with pytest.raises(CopyDied, match="signal SIGKILL"):
        in_copy(die)
    with pytest.raises(CopyDied, match="status 3"):
        in_copy(lambda: os._exit(3))


def test_each_task_has_an_interpreter_of_its_own() -> None:
    task = Explore(Setting("1"), (Write(0, 0, bytes(4)),), (Read(0, 4, 4),), 0)
    with FreshInterpreters(hidden.Card) as interpreters:
        for _ in range(2):
            reply = interpreters.do(task)
            assert isinstance(reply, Explored)
            outcome = reply.points[0].outcome
            assert isinstance(outcome, Moved)
            assert outcome.played.seen[1].answer == b"\x01\0\0\0"  # how often this interpreter's global was counted up


def test_interpreter_goes_on_after_a_task_that_fails() -> None:
    damaged = Checkpoint(b"no state", {}, {}, 0)
    with FreshInterpreters(everything.Card) as interpreters:
        reply = interpreters.do(Resume(Setting("one"), damaged, ()))
        assert isinstance(reply, Finding)
        assert "cannot be loaded" in reply.text
        assert isinstance(interpreters.do(Explore(Setting("one"), (), (), 0)), Explored)


def test_class_that_no_other_interpreter_can_import_is_refused() -> None:
    class Local(Parent[everything.Slice]):
        function = everything.Everything
        lanes, banks = Pool(5), Pool(6)
        types = {"one": everything.Slice(lanes=1, banks=1)}

    with pytest.raises(DriverError, match="at the top of a file"):
        FreshInterpreters(Local)


def test_driver_that_cannot_be_imported_is_told() -> None:
    with (
        FreshInterpreters(hidden.Card, preamble="raise ValueError('no luck')") as interpreters,
        pytest.raises(DriverError, match="no luck"),
    ):
        interpreters.do(Explore(Setting("1"), (), (), 0))
