"""Other threads run while much is copied."""

import sys
from collections.abc import Iterator
from mmap import mmap
from threading import Thread
from time import monotonic, sleep

import pytest

from mdev_user.units import MiB
from mdev_user.vfio_user import copying
from mdev_user.vfio_user.copying import copy


@pytest.fixture
def patient() -> Iterator[None]:
    """No thread has to let others run that does not do so by itself."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(100)
    yield
    sys.setswitchinterval(interval)


def others_run(seconds: float) -> bool:
    """Whether another thread got on within one of the copies that are made for so long."""
    ticks, ended = [0], False

    def tick() -> None:
        while not ended:
            ticks[0] += 1
            sleep(0)

    target, source = (memoryview(mmap(-1, 8 * MiB)) for _ in range(2))
    other, deadline, got_on = Thread(target=tick), monotonic() + seconds, False
    other.start()
    while not got_on and monotonic() < deadline:
        before = ticks[0]
        copy(target, source)
        got_on = ticks[0] > before
    ended = True
    other.join()
    return got_on


@pytest.mark.usefixtures("patient")
def test_other_threads_run_while_much_is_copied() -> None:
    assert others_run(10)


@pytest.mark.usefixtures("patient")
def test_other_threads_would_wait_if_it_were_copied_as_a_little_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    monkeypatch.setattr(copying, "MUCH", 16 * MiB)
    assert not others_run(0.2)


@pytest.mark.parametrize("much", [4, 1 << 20])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_all_is_copied(kind: type[bytes], much: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "MUCH", much)
    target = bytearray(11)
    copy(memoryview(target)[1:10], memoryview(kind(b"123456789")))
    assert target == b"\x00" + b"123456789" + b"\x00"
