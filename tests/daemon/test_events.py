"""Uevents of a whole daemon: as the kernel tells them, and as the system's libudev hears them beside ``run``."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from core import core_skip
from daemon.support import SECONDS, eventually, output
from mdev_user.daemon.views import UeventLine
from mdev_user.testing.daemon import RunningDaemon
from mdev_user.vfio.device_numbers import CDEV_MAJOR, GROUP_MAJOR
from sysfs import udev_listener
from unit.sysfs.scene import UUID1, uuid_of

pytestmark = pytest.mark.fuse

TYPE = "class/mdev_bus/mtty/mdev_supported_types/mtty-1"
PARENT = "/devices/virtual/mtty/mtty"
MDEV = f"{PARENT}/{UUID1}"
SCRIPT = f"""
    echo {UUID1} > {TYPE}/create
    echo add > bus/mdev/devices/{UUID1}/uevent
    echo change > bus/mdev/devices/{UUID1}/uevent
    echo add {UUID1} A=1 > bus/mdev/devices/{UUID1}/uevent
    echo change > class/mdev_bus/mtty/uevent
    echo add > bus/mdev/drivers/mtty/uevent
    echo add > bus/mdev/uevent
    echo 1 > bus/mdev/devices/{UUID1}/remove
"""
ASKED = {"SYNTH_UUID": "0"}
BOUND = {"DRIVER": "mtty"}
GROUP = {"MAJOR": str(GROUP_MAJOR), "MINOR": "N", "DEVNAME": "vfio/N"}
# the recorded kernel has no cdevs: these are the properties of whatever has a node
CDEV = {"MAJOR": str(CDEV_MAJOR), "MINOR": "N", "DEVNAME": "vfio/devices/vfioN"}
# the steps uev-create to uev-remove of the kernel's transcript
TOLD: list[tuple[str, str, str, Mapping[str, str]]] = [
    ("add", MDEV, "mdev", {}),
    ("add", "/devices/virtual/vfio/N", "vfio", GROUP),
    ("add", f"{MDEV}/vfio-dev/vfioN", "vfio-dev", CDEV),
    ("bind", MDEV, "mdev", BOUND),
    ("add", MDEV, "mdev", ASKED | BOUND),
    ("change", MDEV, "mdev", ASKED | BOUND),
    ("add", MDEV, "mdev", {"SYNTH_UUID": str(UUID1), "SYNTH_ARG_A": "1"} | BOUND),
    ("change", PARENT, "mtty", ASKED),
    ("add", "/bus/mdev/drivers/mtty", "drivers", ASKED),
    ("add", "/bus/mdev", "bus", ASKED),
    ("remove", f"{MDEV}/vfio-dev/vfioN", "vfio-dev", CDEV),
    ("remove", "/devices/virtual/vfio/N", "vfio", GROUP),
    ("unbind", MDEV, "mdev", {}),
    ("remove", MDEV, "mdev", {}),
]


def told_since(daemon: RunningDaemon, number: int) -> list[UeventLine]:
    with daemon.control.events(number, follow=False) as stream:
        return [line for line in stream if line.kind == "uevent"]


def test_a_shells_work_is_told_as_the_kernel_tells_it(daemon: RunningDaemon) -> None:
    before = daemon.control.snapshot().number
    output(daemon, SCRIPT)
    lines = told_since(daemon, before)
    group = lines[1].properties["MINOR"]
    expected = [
        (action, path.replace("N", group), subsystem, {key: value.replace("N", group) for key, value in more.items()})
        for action, path, subsystem, more in TOLD
    ]
    assert [(line.action, line.devpath, line.subsystem, line.properties) for line in lines] == expected
    assert [list(line.properties) for line in lines] == [list(more) for *_, more in TOLD]
    assert [line.number for line in lines] == list(range(before + 1, before + 1 + len(TOLD)))
    assert daemon.control.snapshot().number == lines[-1].number


def test_what_the_snapshot_tells_is_in_the_tree(daemon: RunningDaemon) -> None:
    daemon.create("mtty-1", UUID1)
    told = {line.devpath for line in daemon.control.snapshot().uevents}
    assert {MDEV, PARENT, "/class/mtty", "/module/mtty", "/bus/mdev/drivers/mtty"} < told
    # of the framework's own module Linux tells, too; ours is none
    assert {path for path in told if not (daemon.sys / path[1:]).exists()} <= {"/module/mdev"}


class Heard:
    """What the listener has printed so far."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def lines(self) -> list[dict[str, str]]:
        whole = self._file.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()[1:]]  # behind "ready"

    def mdevs(self) -> set[str]:
        """The names of those there are, as far as it was told."""
        there: set[str] = set()
        for line in self.lines():
            if line["ACTION"] in {"add", "remove"}:
                name = Path(line["DEVPATH"]).name
                assert (name in there) is (line["ACTION"] == "remove"), line
                there ^= {name}
        return there


@contextmanager
def listening(daemon: RunningDaemon, events: str = "private") -> Iterator[Heard]:
    """A program with libudev in `mdev-user run`, which filters for mdevs."""
    try:
        udev_listener.load()
    except OSError:
        core_skip("libudev is absent: apt install libudev1")
    file = daemon.folder / f"heard-{events}"
    run = ["run", "--run-dir", str(daemon.run_dir.path), "--events", events, "--"]
    with file.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "mdev_user", *run, sys.executable, udev_listener.__file__, "mdev"],
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        eventually(lambda: file.read_text().startswith("ready\n"), "a listener")
        yield Heard(file)
    finally:
        process.kill()
        process.wait(SECONDS)


def in_tree(daemon: RunningDaemon) -> set[str]:
    return {each.name for each in (daemon.sys / "bus/mdev/devices").iterdir()}


def test_libudev_hears_what_happens_and_knows_what_is_there(daemon: RunningDaemon) -> None:
    before = daemon.control.snapshot().number
    with listening(daemon) as heard, listening(daemon, "none") as outside:
        for number in range(12):
            output(daemon, f"echo {uuid_of(number)} > {TYPE}/create")
        for number in range(5):
            daemon.control.remove(uuid_of(number), wait=0, force=False)
        expected = [
            (str(line.number), line.action, line.devpath)
            for line in told_since(daemon, before)
            if line.subsystem == "mdev"
        ]
        eventually(lambda: len(heard.lines()) >= len(expected), "all uevents at the listener")
        assert [(line["SEQNUM"], line["ACTION"], line["DEVPATH"]) for line in heard.lines()] == expected
        assert outside.lines() == []  # who is in the machine's own network namespace
        assert heard.mdevs() == in_tree(daemon) == {str(uuid_of(number)) for number in range(5, 12)}


def test_a_daemon_that_was_killed_and_started_again_leaves_no_listener_behind(daemon: RunningDaemon) -> None:
    daemon.create("mtty-1", uuid_of(1))  # before the listener, which is not told of it
    with listening(daemon) as heard:
        daemon.create("mtty-1", uuid_of(2))
        daemon.create("mtty-1", uuid_of(3))
        eventually(lambda: len(heard.mdevs()) == 2, "both mdevs at the listener")
        daemon.kill()
        eventually(lambda: added_and_not_removed(heard) == set(), "removes of what the daemon took along")
        eventually(lambda: ("remove", str(uuid_of(1))) in events_of(heard), "the remove of the one added before")
        daemon.start()
        daemon.create("mtty-1", uuid_of(3))
        daemon.create("mtty-1", uuid_of(4))
        eventually(lambda: added_and_not_removed(heard) == {str(uuid_of(3)), str(uuid_of(4))}, "the new ones")
        assert in_tree(daemon) == added_and_not_removed(heard)


def added_and_not_removed(heard: Heard) -> set[str]:
    last = {name: action for action, name in events_of(heard) if action in {"add", "remove"}}
    return {name for name, action in last.items() if action == "add"}


def events_of(heard: Heard) -> list[tuple[str, str]]:
    return [(line["ACTION"], Path(line["DEVPATH"]).name) for line in heard.lines()]
