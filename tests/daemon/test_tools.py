"""Looking into a running mdev and tracing it: without effects, bounded, and gone when nobody looks any more."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic
from typing import IO
from uuid import UUID, uuid4

import pytest

from daemon.parents import engine
from daemon.support import PARENTS, SECONDS, eventually
from mdev_user.daemon.client import Refused
from mdev_user.host.trace import MOST_READERS
from mdev_user.testing.daemon import RunningDaemon
from mdev_user.vfio.inspection import NamedValue

PANEL = f"{Path(__file__).parents[1]}/unit/driver/panel.py:PanelCard"
EVENTS, TICKET, WIDE, PAGE, COMMAND, MISSING = 0x04, 0x08, 0x10, 0x18, 0x1A, 0x1C
TYPE = "panel-1"


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[RunningDaemon]:
    """A declared driver and one by hand, in one host: what sticks in one must not hold up the other."""
    with RunningDaemon(f"{PANEL},name=panel,host=one", f"{PARENTS}/engine.py:Card,host=one") as daemon:
        yield daemon


def command(daemon: RunningDaemon, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "mdev_user", *map(str, arguments), "--run-dir", str(daemon.run_dir.path)]


def output(daemon: RunningDaemon, *arguments: object) -> str:
    done = subprocess.run(command(daemon, *arguments), capture_output=True, text=True, timeout=2 * SECONDS, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def values(daemon: RunningDaemon, uuid: UUID) -> dict[str, NamedValue]:
    return {each.name: each for each in daemon.control.values(uuid).values}


# --- show --registers and --unmodelled --------------------------------------------------------------------------


def test_registers_of_a_guest_are_shown_while_it_uses_them(daemon: RunningDaemon) -> None:
    uuid = daemon.create(TYPE)
    with daemon.guest(uuid) as guest:
        guest.region_write(0, 0, b"\x03\0\0\0")
        guest.region_write(0, WIDE, b"\xff" * 8)
        shown = output(daemon, "show", uuid, "--registers").splitlines()
        assert shown[0].split() == ["PLACE", "NAME", "VALUE", "SEEN", "FIELDS"]
        assert shown[1].split() == [
            "BAR0+0x000", "regs.control", "0x00000003,", "0xf00", "computed", "on=1", "mode=FAST", "level=computed",
        ]  # fmt: skip
        assert shown[4].split() == ["BAR0+0x010", "regs.wide", "0xffffffffffffffff"]
        assert shown[7].split() == ["BAR0+0x019", "regs.high", "0x00", "while", "page.high,", "not", "now"]
        assert len(shown) == 16
        view = json.loads(output(daemon, "show", uuid, "--registers", "-o", "json"))
        assert (view["uuid"], view["opened"]) == (str(uuid), True)
        assert view["values"][3]["value"] == (1 << 64) - 1


def test_looking_has_no_effect_that_a_guest_could_see(daemon: RunningDaemon) -> None:
    uuid = daemon.create(TYPE)
    with daemon.guest(uuid) as guest:
        for _ in range(5):
            assert values(daemon, uuid)["regs.ticket"].value is None
        assert guest.region_read(0, TICKET, 4) == b"\1\0\0\0"
        assert guest.region_read(0, TICKET, 4) == b"\2\0\0\0"  # the control: looking as a guest does have one


def test_registers_of_an_mdev_that_nobody_has_open_are_what_was_left(daemon: RunningDaemon) -> None:
    uuid = daemon.create(TYPE)
    assert "Nobody has the mdev open" in output(daemon, "show", uuid, "--registers")
    with daemon.guest(uuid) as guest:
        guest.region_write(0, WIDE, b"\x05" + bytes(7))
    eventually(lambda: daemon.control.mdev(uuid).client is None, "the guest has left")
    view = daemon.control.values(uuid)
    assert not view.opened
    assert {each.name: each.value for each in view.values}["regs.wide"] == 5


def test_what_a_guest_missed_is_offered_as_a_declaration(daemon: RunningDaemon) -> None:
    uuid = daemon.create(TYPE)
    assert output(daemon, "show", uuid, "--unmodelled").startswith("# Nothing is missing")
    with daemon.guest(uuid) as guest:
        for _ in range(12):
            guest.region_read(0, 0x40, 4)
        guest.region_write(0, 0x44, b"\1\0")
        guest.region_read(0, MISSING, 4)
    assert output(daemon, "show", uuid, "--unmodelled").splitlines() == [
        "# class Regs; from mdev_user.driver import U16, U32, UNIMPL, WO",
        "    unknown_0x40 = U32(0x40, UNIMPL)  # read 12 times",
        "    unknown_0x44 = U16(0x44, WO)  # written once",
    ]


def test_a_driver_by_hand_has_no_names_and_says_so(daemon: RunningDaemon) -> None:
    uuid = daemon.create("card-engine")
    with pytest.raises(Refused, match=r"written by hand and has no inspect.*\(EINVAL\)"):
        daemon.control.values(uuid)
    with pytest.raises(Refused, match=r"written by hand: .*\(EINVAL\)"):
        daemon.control.unmodelled(uuid)


def test_an_mdev_that_is_not_there_is_refused(daemon: RunningDaemon) -> None:
    for ask in (daemon.control.values, daemon.control.unmodelled):
        with pytest.raises(Refused, match=r"no mdev .*ENODEV"):
            ask(uuid4())
    with pytest.raises(Refused, match=r"no mdev .*ENODEV"), daemon.control.trace(uuid4()):
        pass


def test_a_stuck_mdev_is_told_as_such_and_holds_up_nobody(daemon: RunningDaemon) -> None:
    stuck, other = daemon.create("card-engine"), daemon.create(TYPE)
    with daemon.guest(stuck) as guest, daemon.guest(other) as neighbour:
        guest.region_write(0, engine.MILLISECONDS, (6000).to_bytes(4, "little"))
        guest.region_write(0, engine.DOORBELL, engine.SLOW.to_bytes(4, "little"))
        began = monotonic()
        with pytest.raises(Refused, match=r"its driver is stuck \(EBUSY\)"):
            daemon.control.values(stuck)
        with pytest.raises(Refused, match=r"its driver is stuck \(EBUSY\)"), daemon.control.trace(stuck):
            pass
        assert monotonic() - began < 6
        began = monotonic()
        neighbour.region_write(0, WIDE, b"\7")
        assert values(daemon, other)["regs.wide"].value == 7
        assert monotonic() - began < 2
        assert guest.region_read(0, engine.STATUS, 4)[0] == engine.DONE  # in the end


LARGE = """
from dataclasses import dataclass
from mdev_user.driver import U64, Bar, Each, Function, MiB, Parent, PciId, Pool, Profile, RegisterFile

class Cell(RegisterFile):
    a_register_with_a_long_name, another_register_with_a_long_name = U64(0), U64(8)

class Regs(Bar, index=0, size=1 * MiB):
    the_cells_of_a_large_device = Each(Cell, at=0, count=2000)

@dataclass(frozen=True)
class One(Profile):
    n: int

class Large(Function[One]):
    identity = PciId(vendor=1, device=1, class_code=0)
    regs = Regs()

class Card(Parent[One]):
    function = Large
    n = Pool(4)
    types = {"1": One(n=1)}
"""


def test_a_device_with_more_registers_than_a_packet_takes_is_shown_whole(tmp_path: Path) -> None:
    file = tmp_path / "large.py"
    file.write_text(LARGE)
    with RunningDaemon(f"{file}:Card") as daemon:
        uuid = daemon.create("large-1")
        with daemon.guest(uuid) as guest:
            guest.region_write(0, 16 * 1999 + 8, b"\xff" * 8)
            found = daemon.control.values(uuid).values
        assert len(found) == len({each.name for each in found}) == 4000
        assert (found[-1].name, found[-1].value) == (
            "regs.the_cells_of_a_large_device[1999].another_register_with_a_long_name",
            (1 << 64) - 1,
        )


# --- trace ------------------------------------------------------------------------------------------------------


class Tracing:
    """``mdev-user trace`` in a process of its own; begun when this is made."""

    def __init__(self, daemon: RunningDaemon, uuid: UUID, *options: str) -> None:
        self.process = subprocess.Popen(
            command(daemon, "trace", uuid, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.out: IO[str] = self.process.stdout
        assert self.process.stderr.readline() == f"tracing {uuid}; Ctrl-C ends it\n"

    def next(self) -> str:
        """A line without its time."""
        when, _space, text = self.out.readline().rstrip("\n").partition(" ")
        assert len(when) == len("12:00:01.123456")
        return text

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def tracing(daemon: RunningDaemon, uuid: UUID, *options: str) -> Iterator[Tracing]:
    trace = Tracing(daemon, uuid, *options)
    try:
        yield trace
    finally:
        trace.close()


def test_a_trace_follows_a_guest_through_its_life(daemon: RunningDaemon) -> None:
    uuid = daemon.create(TYPE)
    with tracing(daemon, uuid) as trace:
        for value in (b"\x03\0\0\0", b"\x05\0\0\0"):
            with daemon.guest(uuid) as guest:
                guest.region_write(0, 0, value)
                guest.region_read(0, 0x40, 4)
                guest.region_write(7, 4, b"\x06\0")
                guest.reset()
        user = f"pid {os.getpid()} ({Path('/proc/self/comm').read_text().strip()})"
        assert [trace.next() for _ in range(12)] == [
            f"opened by {user}",
            "w regs.control = 0x00000003 (on=1 mode=FAST level=0); regs.control.on 0 -> 1, "
            "regs.control.mode IDLE -> FAST",
            "r BAR0+0x040 = 0x00000000 [unmodelled]",
            "w CONFIG+0x004 = 0x0006",
            "reset",
            f"closed by {user}",
            f"opened by {user}",
            "w regs.control = 0x00000005 (on=1 mode=SLOW level=0); regs.control.on 0 -> 1, "
            "regs.control.mode IDLE -> SLOW",
            "r BAR0+0x040 = 0x00000000 [unmodelled]",
            "w CONFIG+0x004 = 0x0006",
            "reset",
            f"closed by {user}",
        ]
        trace.process.send_signal(signal.SIGINT)
        assert trace.process.wait(SECONDS) == 0


def test_a_jobs_work_is_seen(daemon: RunningDaemon) -> None:
    uuid = daemon.create(TYPE)
    with tracing(daemon, uuid, "--count", "4") as trace, daemon.guest(uuid) as guest:
        guest.region_write(0, COMMAND, b"\1\0")
        eventually(lambda: values(daemon, uuid)["regs.control"].value == 1, "the job has ended")
        guest.region_read(0, PAGE, 1)
        assert [trace.next().partition(" by ")[0] for _ in range(4)] == [
            "opened",
            "w regs.command = 0x0001; regs.command 0x0 -> 0x1",
            "job work is started",
            "r regs.page = 0x00 (high=0); before it regs.control.on 0 -> 1",
        ]
        assert trace.process.wait(SECONDS) == 0


def test_a_driver_by_hand_is_traced_by_offset(daemon: RunningDaemon) -> None:
    uuid = daemon.create("card-engine")
    with daemon.guest(uuid) as guest, tracing(daemon, uuid) as trace:
        guest.region_write(0, engine.LENGTH, b"\x10\0\0\0")
        assert trace.next() == "w BAR0+0x010 = 0x00000010"


def test_several_traces_of_one_mdev_see_the_same(daemon: RunningDaemon) -> None:
    uuid = daemon.create(TYPE)
    with daemon.guest(uuid) as guest, ExitStack() as stack:
        one, other = (stack.enter_context(tracing(daemon, uuid)) for _ in range(2))
        guest.region_read(0, PAGE, 1)
        assert one.next() == other.next() == "r regs.page = 0x00 (high=0)"
        one.close()
        guest.region_read(0, WIDE, 1)
        assert other.next() == "r regs.wide = 0x00"


def test_a_tracer_that_is_killed_leaves_its_place_to_another(daemon: RunningDaemon) -> None:
    uuid = daemon.create(TYPE)
    with daemon.guest(uuid) as guest, ExitStack() as stack:
        killed = Tracing(daemon, uuid)
        stack.callback(killed.close)
        traces = [stack.enter_context(daemon.control.trace(uuid)) for _ in range(MOST_READERS - 1)]
        with pytest.raises(Refused, match=r"traced 8 times, which is the most \(EBUSY\)"), daemon.control.trace(uuid):
            pass
        killed.process.kill()
        killed.process.wait()

        def begins() -> bool:
            try:
                traces.append(stack.enter_context(daemon.control.trace(uuid)))
            except Refused:
                return False
            return True

        eventually(begins, "the killed tracer is forgotten")
        guest.region_read(0, PAGE, 1)
        assert {next(each).kind for each in traces} == {"read"}


def test_a_tracer_that_does_not_read_loses_lines_and_the_guest_does_not_wait(daemon: RunningDaemon) -> None:
    uuid = daemon.create(TYPE)
    with tracing(daemon, uuid, "-o", "json") as trace, daemon.guest(uuid) as guest:
        trace.process.send_signal(signal.SIGSTOP)
        for _ in range(15_000):  # more than there is room for on the way; had one of them to wait, it would be for ever
            guest.region_read(0, WIDE, 8)
        trace.process.send_signal(signal.SIGCONT)
        lines = (json.loads(trace.out.readline()) for _ in range(20_000))
        lost = next(line for line in lines if line["kind"] == "lost")
        assert 0 < lost["count"] < 15_000


def test_a_trace_goes_on_with_a_newer_version_of_the_driver(tmp_path: Path) -> None:
    file, source = tmp_path / "panel.py", Path(PANEL.partition(":")[0]).read_text()
    file.write_text(source)
    with RunningDaemon("--reload", f"{file}:PanelCard,name=panel") as daemon:
        uuid = daemon.create(TYPE)
        with daemon.guest(uuid) as guest, daemon.control.trace(uuid) as lines:
            newer = source.replace("wide = U64", "broad = U64")
            written_at = 0.0

            def is_reloaded() -> bool:  # a change at once after the start may be before the daemon's first look
                nonlocal newer, written_at
                if monotonic() - written_at > 1:
                    file.write_text(newer := f"{newer}# and a line\n")
                    written_at = monotonic()
                return daemon.control.status().parents[0].reloads > 0

            eventually(is_reloaded, "the newer version is loaded")
            assert next(lines).kind == "reloaded"
            guest.region_write(0, WIDE, b"\x05" + bytes(7))
            written = next(line for line in lines if line.kind == "write")
            assert written.decoded is not None
            assert [(each.name, each.value) for each in written.decoded.registers] == [("regs.broad", 5)]
            assert values(daemon, uuid)["regs.broad"].value == 5


def test_a_trace_ends_when_the_mdev_does(daemon: RunningDaemon) -> None:
    uuid = daemon.create(TYPE)
    with daemon.control.trace(uuid) as lines:
        daemon.control.remove(uuid, wait=0, force=False)
        with pytest.raises(Refused, match="the trace has ended: no vfio device"):
            next(lines)


def test_a_host_that_dies_ends_its_traces_and_is_told() -> None:
    with RunningDaemon(f"{PANEL},name=panel") as daemon:
        uuid = daemon.create(TYPE)
        with daemon.control.trace(uuid) as lines:
            os.kill(daemon.host_pids()["panel"], signal.SIGKILL)
            with pytest.raises(Refused, match="the trace has ended: host panel is gone: was killed by signal 9"):
                next(lines)
        asks: list[Callable[[UUID], object]] = [daemon.control.values, daemon.control.unmodelled]
        for ask in asks:
            with pytest.raises(Refused, match="ENODEV"):
                ask(uuid)


def test_a_daemon_that_ends_is_not_held_up_by_a_reload_that_hangs(tmp_path: Path) -> None:
    file, source, hangs = tmp_path / "panel.py", Path(PANEL.partition(":")[0]).read_text(), tmp_path / "hangs"
    file.write_text(source)
    with RunningDaemon("--reload", f"{file}:PanelCard,name=panel") as daemon:
        daemon.create(TYPE)
        hanging = f"import time, pathlib\npathlib.Path({str(hangs)!r}).touch()\ntime.sleep(600)\n"
        file.write_text(hanging)
        eventually(hangs.exists, "the newer version is being loaded")
        assert daemon.stop() == 0


def test_a_daemon_that_ends_is_not_held_up_by_a_trace() -> None:
    daemon = RunningDaemon(f"{PANEL},name=panel")
    with daemon:
        with tracing(daemon, daemon.create(TYPE)) as trace:
            assert daemon.stop() == 0
            assert trace.process.wait(SECONDS) == 1
        assert "Traceback" not in daemon.log
