"""Jobs that a write starts run in the thread that performs it, after the reply."""

import threading
from collections.abc import Iterator

import pytest
from typing_extensions import override

from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.ops import DeviceOps
from mdev_user.vfio.work import Near, Sleep
from mdev_user.vfio_user.accesses import Accesses
from unit.host.parts import Clock, OpenMdev, eventually

DOORBELL = 0


class Bell(DeviceOps):
    """A write starts a job, which notes what it does and in which thread."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.threads: list[int] = []
        self.fails = False
        self.device: VfioDevice | None = None

    @override
    def write(self, region: int, offset: int, data: bytes) -> None:
        assert self.device is not None
        self.done.append("write")
        self.device.spawn(self.work(), "work")

    async def work(self) -> None:
        self.note("job")
        if self.fails:
            raise ZeroDivisionError
        await Sleep(1)
        self.note("awake")

    def note(self, what: str) -> None:
        self.done.append(what)
        self.threads.append(threading.get_ident())

    def reply(self, _message: bytes) -> None:
        self.done.append("reply")


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    yield clock
    clock.thread.stop()


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture
def mdev(clock: Clock, bell: Bell) -> OpenMdev:
    mdev = OpenMdev(clock.thread, bell)
    bell.device = mdev.device
    return mdev


def ring(mdev: OpenMdev, bell: Bell) -> bytes:
    with mdev.lock:
        return Accesses(mdev.device).write_and_go_on(bell.reply, 1, DOORBELL, 0, b"\x01")


def test_a_job_begins_after_the_reply_and_in_its_thread(mdev: OpenMdev, bell: Bell) -> None:
    assert ring(mdev, bell) == b""
    assert bell.done == ["write", "reply", "job"]
    assert bell.threads == [threading.get_ident()]


def test_what_it_does_later_is_the_job_threads(clock: Clock, mdev: OpenMdev, bell: Bell) -> None:
    ring(mdev, bell)
    clock.advance(1.5)
    eventually(lambda: bell.done[-1] == "awake")
    assert bell.threads[1] != threading.get_ident()


def test_a_write_without_jobs_gives_its_reply(mdev: OpenMdev, bell: Bell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mdev.device, "write", lambda _region, _offset, _data: None)
    assert ring(mdev, bell)
    assert bell.done == []


def test_jobs_wait_for_those_that_became_ready_before(mdev: OpenMdev, bell: Bell) -> None:
    with mdev.lock:
        mdev.jobs.submit(lambda: bell.done.append("older"))
        assert Accesses(mdev.device).write_and_go_on(bell.reply, 1, DOORBELL, 0, b"\x01")
        assert bell.done == ["write"]
    eventually(lambda: bell.done == ["write", "older", "job"])


def test_a_driver_that_fails_there_has_answered(mdev: OpenMdev, bell: Bell) -> None:
    bell.fails = True
    ring(mdev, bell)
    assert bell.done == ["write", "reply", "job"]
    assert [type(error) for error, _name in mdev.failures] == [ZeroDivisionError]


def test_other_steps_leave_them_to_the_job_thread(mdev: OpenMdev, bell: Bell) -> None:
    with mdev.lock:
        mdev.device.write(DOORBELL, 0, b"\x01")
        assert bell.done == ["write"]
    eventually(lambda: bell.done == ["write", "job"])
    assert bell.threads != [threading.get_ident()]


def test_if_it_ran_them_before_the_reply_the_order_would_show_it(
    mdev: OpenMdev, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def impatient(near: Near) -> list[object]:
        for stretch in near.stretches:
            stretch()
        near.stretches = []
        return []

    monkeypatch.setattr(Near, "take", impatient)
    ring(mdev, bell)
    assert bell.done == ["write", "job", "reply"]
