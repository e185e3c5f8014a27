"""A program's accesses to a device's regions, answered by either kind of supervisor."""

import select
import threading
from collections.abc import Iterator
from errno import EFAULT, EPERM

import pytest

from core import core_skip
from daemon.support import eventually
from mdev_user.uapi.program import Program
from mdev_user.vfio_user.loops import CHOICE, why_not_native
from unit.uapi.traced import BAR0, PATIENCE, Traced


@pytest.fixture(params=["python", "native"])
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    if name == "native" and (absent := why_not_native()):
        core_skip(absent)
    monkeypatch.setenv(CHOICE, name)
    return name


@pytest.fixture
def traced(loop: str) -> Iterator[Traced]:
    traced = Traced()
    yield traced
    traced.close()


def test_each_access_is_made_once_and_has_its_value(traced: Traced, loop: str) -> None:
    assert traced.ask(f"os.pwrite(4000, b'abcd', {BAR0} + 8)") == 4
    before = traced.ops.accesses
    assert traced.ask(f"[os.pread(4000, 4, {BAR0} + 8) for _ in range(500)] == [b'abcd'] * 500") is True
    assert traced.ops.accesses - before == 500
    assert (traced.supervisor.calls < 100) is (loop == "native"), "which one answered"


def test_a_refused_access_has_the_devices_errno(traced: Traced, loop: str) -> None:
    traced.ask(f"os.pread(4000, 4, {BAR0})")
    assert traced.ask(f"os.pread(4000, 4, {BAR0} + 72)") == -EPERM
    assert traced.ask(f"os.pread(4000, 4, {BAR0} + 4096)") == -EFAULT
    assert traced.ask(f"os.pread(4000, 4, {BAR0})") == bytes(4)
    assert traced.supervisor.begun == (loop == "native")


def test_a_number_that_becomes_another_file_is_not_the_device_any_more(traced: Traced) -> None:
    traced.ask(f"os.pwrite(4000, b'abcd', {BAR0})")
    traced.ask(f"os.pread(4000, 4, {BAR0})")
    before = traced.ops.accesses
    assert traced.ask("os.dup2(os.memfd_create('other'), 4000)") == 4000
    assert traced.ask(f"os.pread(4000, 4, {BAR0})") == b""
    assert traced.ops.accesses == before


def test_a_slow_device_does_not_delay_other_calls(traced: Traced) -> None:
    traced.ask(f"os.pread(4000, 4, {BAR0})")
    traced.ask("exec('import threading') or 0")
    traced.ask(f"exec('global t; t = threading.Thread(target=os.pread, args=(4000, 4, {BAR0} + 64)); t.start()') or 0")
    assert traced.ops.reading.wait(PATIENCE)
    assert traced.ask("os.close(os.open(os.devnull, os.O_RDWR)) or 5") == 5
    assert not traced.ops.impatient
    traced.ops.may_go_on.set()
    assert traced.ask("t.join() or 6") == 6


def test_a_second_access_to_a_slow_device_does_not_delay_other_calls(traced: Traced) -> None:
    begin = f"t = threading.Thread(target=os.pread, args=(4000, 4, {BAR0} + 64)); t.start(); all_of.append(t)"
    traced.ask("exec('global all_of; import threading; all_of = []') or 0")
    traced.ask(f"exec({begin!r}) or 0")
    assert traced.ops.reading.wait(PATIENCE)
    traced.ask(f"exec({begin!r}) or 0")
    assert traced.ask("os.close(os.open(os.devnull, os.O_RDWR)) or 5") == 5
    assert not traced.ops.impatient
    traced.ops.may_go_on.set()
    assert traced.ask("[each.join() for each in all_of] and 6") == 6


ASKING = """
import fcntl, threading

def ask(command):
    try:
        fcntl.ioctl(4000, command, bytes(64))
    except OSError:
        pass

def start(target, *args):
    global t
    t = threading.Thread(target=target, args=args)
    t.start()
"""
API_VERSION, DEVICE_RESET = 0x3B64, 0x3B6F


def test_an_ioctl_that_waits_for_the_tables_does_not_delay_other_calls(traced: Traced) -> None:
    traced.ask(f"exec({ASKING!r}) or 0")
    with traced.supervisor.tables:
        traced.ask(f"start(ask, {API_VERSION}) or 0")
        traced.begin("os.close(os.open(os.devnull, os.O_RDWR)) or 5")
        assert traced.process.stdout is not None
        assert select.select([traced.process.stdout], [], [], PATIENCE)[0], "one call waits for another's lock"
    assert traced.answer() == 5
    assert traced.ask("t.join() or 6") == 6


def test_an_ioctl_that_waits_for_its_device_does_not_delay_other_devices(traced: Traced) -> None:
    traced.ask(f"exec({ASKING!r}) or 0")
    traced.ask(f"start(os.pread, 4000, 4, {BAR0} + 64) or 0")
    assert traced.ops.reading.wait(PATIENCE)
    calls = traced.supervisor.calls
    traced.ask(f"start(ask, {DEVICE_RESET}) or 0")
    eventually(lambda: traced.supervisor.calls > calls, "the ioctl is looked at")
    assert traced.ask("os.close(os.open(os.devnull, os.O_RDWR)) or 5") == 5
    assert traced.supervisor.tables.acquire(timeout=PATIENCE / 2), "it waits with the lock that all others need"
    traced.supervisor.tables.release()
    assert not traced.ops.impatient
    traced.ops.may_go_on.set()
    assert traced.ask("t.join() or 6") == 6


def test_a_path_that_is_slow_to_follow_does_not_delay_other_calls(
    traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's file system may be on the way."""
    followed = threading.Event()

    def resolve(_self: Program, _directory: int, path: str) -> str:
        assert followed.wait(PATIENCE)
        return path

    monkeypatch.setattr(Program, "resolve", resolve)
    traced.ask(f"exec({ASKING!r}) or 0")
    traced.ask("exec('def look():\\n try: os.open(\"/tmp/absent/7\", os.O_RDWR)\\n except OSError: pass') or 0")
    traced.ask("start(look) or 0")
    traced.begin("os.close(os.open(os.devnull, os.O_RDWR)) or 5")
    assert traced.process.stdout is not None
    in_time = select.select([traced.process.stdout], [], [], PATIENCE / 2)[0]
    followed.set()
    assert in_time
    assert traced.answer() == 5
    assert traced.ask("t.join() or 6") == 6
