"""Autostart: when mdevctl is called, that nobody waits for it, and that nothing of it outlives the daemon."""

import logging
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from daemon.support import alive, eventually
from mdev_user.daemon import autostart
from mdev_user.daemon.autostart import Starter
from mdev_user.daemon.run_dir import RunDir
from mdev_user.mdev.bus import Bus
from mdev_user.mdev.events import Event, EventKind
from unit.mdev.scene import Parent

MDEVCTL = """#!/bin/sh
echo "$@" >> {folder}/called
. {folder}/does
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where an mdevctl writes down how it was called, and does what the file ``does`` says."""
    mdevctl = tmp_path / "bin" / "mdevctl"
    mdevctl.parent.mkdir()
    mdevctl.write_text(MDEVCTL.format(folder=tmp_path))
    mdevctl.chmod(0o755)
    (tmp_path / "does").write_text("echo done")
    monkeypatch.setenv("PATH", f"{mdevctl.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(Starter, "_in_run", lambda _self: [])
    define(tmp_path, "defined")
    return tmp_path


@pytest.fixture
def started(folder: Path) -> Iterator[Starter]:
    found = Starter(RunDir(folder))
    found.start()
    yield found
    found.stop()


def define(folder: Path, parent: str) -> None:
    definition = folder / "root/etc/mdevctl.d" / parent / "11111111-1111-4111-8111-111111111111"
    definition.parent.mkdir(parents=True)
    definition.touch()


def register(to: Starter, *names: str) -> None:
    bus = Bus()
    bus.subscribe(to.on_event)
    for name in names:
        bus.register_parent(name, Parent())


def called(folder: Path) -> list[str]:
    file = folder / "called"
    return file.read_text().splitlines() if file.exists() else []


def test_mdevctl_starts_what_is_defined_for_a_parent(
    started: Starter, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    define(folder, "too")
    (folder / "root/etc/mdevctl.d/empty").mkdir()
    register(started, "other", "defined", "empty", "too")
    eventually(lambda: "autostart of too: done: done" in caplog.text, "the last one is done")
    assert called(folder) == ["start-parent-mdevs defined", "start-parent-mdevs too"]


def test_only_registering_is_of_interest(started: Starter, folder: Path) -> None:
    for kind in EventKind:
        if kind is not EventKind.PARENT_REGISTERED:
            started.on_event(Event(1, kind, Bus().register_parent("defined", Parent())))
    started.stop()
    assert called(folder) == []


def test_what_mdevctl_complains_of_is_logged(started: Starter, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "does").write_text("echo no room >&2; exit 3")
    register(started, "defined")
    eventually(lambda: "autostart of defined: mdevctl ended with status 3: no room" in caplog.text, "it is logged")


def test_without_mdevctl_nothing_is_done(
    started: Starter, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(autostart, "_SYSTEM", str(folder))
    register(started, "defined")
    started.stop()
    assert "autostart" not in caplog.text


def test_registering_does_not_wait(started: Starter, folder: Path) -> None:
    (folder / "does").write_text("sleep 100")
    before = monotonic()
    register(started, "defined", "again")
    assert monotonic() - before < 10


def test_what_takes_too_long_is_killed_with_its_children(
    started: Starter, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autostart, "MOST_SECONDS", 0.5)
    (folder / "does").write_text(f"sleep 100 & echo $! > {folder}/child; wait")
    register(started, "defined")
    eventually(lambda: "ended with status -9: (killed after 0 s)" in caplog.text, "it is killed")
    assert not alive(int((folder / "child").read_text()))


def test_what_is_in_a_session_of_its_own_holds_nobody_up(
    started: Starter, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autostart, "MOST_SECONDS", 0.5)
    monkeypatch.setattr(autostart, "_MOMENT", 0.1)
    (folder / "does").write_text(f"setsid sh -c 'echo $$ > {folder}/child; exec sleep 100' & wait")
    register(started, "defined")
    eventually(lambda: "held by a process that it started (killed after 0 s)" in caplog.text, "it is given up")
    os.kill(int((folder / "child").read_text()), signal.SIGKILL)


def test_the_working_directory_holds_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mdev_user.py").write_text("print('of the working directory')")
    monkeypatch.chdir(tmp_path)
    command = Starter(RunDir(tmp_path))._in_run()
    subprocess.run([*command[: command.index("run")], "--help"], check=True)
    assert "of the working directory" not in capfd.readouterr().out


def test_nothing_outlives_the_daemon(started: Starter, folder: Path) -> None:
    define(folder, "later")
    (folder / "does").write_text(f"sleep 100 & echo $! > {folder}/child; wait")
    register(started, "defined", "later")
    child = int(eventually(lambda: (folder / "child").exists() and (folder / "child").read_text(), "it begins"))
    started.stop()
    eventually(lambda: not alive(child), "it ends")
    assert called(folder) == ["start-parent-mdevs defined"]


def test_the_supervisor_hears_nothing_of_it(started: Starter, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "NOTIFY_SOCKET", "/run/somebody")
    (folder / "does").write_text(f"echo ${{NOTIFY_SOCKET-unset}} > {folder}/notify")
    register(started, "defined")
    eventually(lambda: (folder / "notify").exists() and (folder / "notify").read_text() == "unset\n", "it is unset")
