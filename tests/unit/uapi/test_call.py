"""What a call may do to the program and to others that call at the same time."""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from errno import EACCES, EIO
from types import SimpleNamespace

import pytest
from typing_extensions import override

from mdev_user.uapi import seccomp
from mdev_user.uapi.call import Descriptors
from mdev_user.uapi.files import Files
from mdev_user.uapi.program import Program
from mdev_user.uapi.seccomp import Notification
from uapi.ourselves import Ourselves, OwnCall, packed

BASE, LIMIT = 200, 260


@pytest.fixture
def files() -> Iterator[Files]:
    files = Files()
    yield files
    files.close()


def descriptors(files: Files) -> Descriptors:
    return Descriptors(files, BASE, LIMIT, lambda: 0.0)


class Thread(Program):
    """One of many of the program's, each with every file."""

    @override
    def identity(self, number: int) -> tuple[int, int]:
        return 1, number


def test_what_is_remembered_has_a_bound_whatever_the_program_does(files: Files) -> None:
    found = descriptors(files)
    for tid in range(1000):
        for number in (BASE, BASE + tid):
            found.find(Thread(tid), number)
    assert sum(len(each) for each in found._known.values()) < 1000


def test_a_program_that_may_not_be_looked_at_is_refused_what_seems_ours(files: Files) -> None:
    class Hidden(Program):
        @override
        def identity(self, number: int) -> tuple[int, int]:
            raise PermissionError(EACCES, "it is not dumpable")

    with pytest.raises(PermissionError):
        descriptors(files).find(Hidden(1), BASE)
    assert descriptors(files).find(Hidden(1), BASE - 1) is None


def test_two_that_choose_a_number_at_once_have_one_each(files: Files) -> None:
    found, barrier, chosen = descriptors(files), threading.Barrier(2, timeout=10), list[int | None]()

    class Slow(Program):
        """Its process is looked at by both threads before either has its number, if they can."""

        @override
        def has_fd(self, number: int) -> bool:
            if number == BASE:
                with suppress(threading.BrokenBarrierError):
                    barrier.wait(0.2)
            return False

    threads = [threading.Thread(target=lambda: chosen.append(found.free(Slow(os.getpid())))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(str(each) for each in chosen) == [str(BASE), str(BASE + 1)]


def test_without_more_threads_a_call_waits_as_the_one_that_receives() -> None:
    class Full(Ourselves):
        @override
        def hand_over(self) -> None:
            raise RuntimeError("can't start new thread")

    call = Full().call()
    call.may_wait()
    assert not call.handed_over


@pytest.mark.parametrize(("errno", "answered"), [(0, 0), (22, 22), (512, EIO), (516, EIO), (1 << 31, EIO), (-1, EIO)])
def test_errno_that_no_system_call_has_is_not_passed_on(
    errno: int, answered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """512 and some after it make the kernel do the call again: a device's write would come twice."""
    sent = list[bytes]()
    monkeypatch.setattr(seccomp, "fcntl", SimpleNamespace(ioctl=lambda _fd, _command, data: sent.append(data)))
    seccomp.respond(3, 7, 5, errno)
    assert seccomp._RESP.unpack(sent[0]) == (7, 5, -answered, 0)


class Killed(OwnCall):
    """Its caller is gone, and the number may be another's."""

    __slots__ = ()

    @override
    def still_valid(self) -> bool:
        return False


def test_after_it_waited_a_call_does_not_touch_who_has_the_number_now() -> None:
    call = Killed(Ourselves(), Notification(1, os.getpid(), 0, (0,) * 6), Program(os.getpid()))
    memory = packed(b"mine")
    at = ctypes.addressof(memory)
    call.write(at, b"here")
    call.may_wait()
    for touch in (lambda: call.write(at, b"away"), lambda: call.read(at, 4), lambda: call.take_fd(0)):
        with pytest.raises(ProcessLookupError):
            touch()
    assert memory.raw == b"here"
