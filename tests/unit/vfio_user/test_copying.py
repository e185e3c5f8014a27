"""Other threads run while much is copied."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from mmap import mmap
from threading import Thread
from time import monotonic, sleep

import pytest

from mdev_user.units import MiB
from mdev_user.vfio_user import copying
from mdev_user.vfio_user.copying import copied, copy


@pytest.fixture
def patient() -> Iterator[None]:
    """No thread has to let others run that does not do so by itself."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(100)
    yield
    sys.setswitchinterval(interval)


def others_run(copies: Callable[[], object], seconds: float) -> bool:
    """Whether another thread got on within one of the copies that are made for so long."""
    ticks, ended = [0], False

    def tick() -> None:
        while not ended:
            ticks[0] += 1
            sleep(0)

    other, deadline, got_on = Thread(target=tick), monotonic() + seconds, False
    other.start()
    while not got_on and monotonic() < deadline:
        before = ticks[0]
        copies()
        got_on = ticks[0] > before
    ended = True
    other.join()
    return got_on


SIZE = 8 * MiB
MANY = bytes(SIZE)
WAYS: dict[str, Callable[[memoryview, memoryview], object]] = {
    "into another": copy,
    "from bytes": lambda there, _other: copy(there, memoryview(MANY)),
    "as bytes": lambda there, _other: copied(there),
}


@pytest.fixture
def memories() -> tuple[memoryview, memoryview]:
    return memoryview(mmap(-1, SIZE)), memoryview(mmap(-1, SIZE))


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("way", WAYS)
def test_other_threads_run_while_much_is_copied(way: str, memories: tuple[memoryview, memoryview]) -> None:
    assert others_run(partial(WAYS[way], *memories), 10)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("way", WAYS)
def test_other_threads_would_wait_if_it_were_copied_as_a_little_is(
    way: str, memories: tuple[memoryview, memoryview], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    monkeypatch.setattr(copying, "MUCH", 2 * SIZE)
    assert not others_run(partial(WAYS[way], *memories), 0.2)


@pytest.mark.parametrize("much", [4, 1 << 20])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_all_is_copied(kind: type[bytes], much: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "MUCH", much)
    target = bytearray(11)
    copy(memoryview(target)[1:10], memoryview(kind(b"123456789")))
    assert target == b"\x00" + b"123456789" + b"\x00"
    assert copied(memoryview(target)[1:10]) == b"123456789"
    copy(memoryview(target)[1:10], memoryview(kind(b"abc123456789def"))[3:12])
    assert target == b"\x00" + b"123456789" + b"\x00"
