"""Autostart: mdevctl starts the mdevs that it has defined for a parent when that parent is registered.

On Linux a udev rule of mdevctl's does it (60-mdevctl.rules, at the uevent MDEV_STATE=registered). udevd takes uevents
from nobody but the kernel, so the daemon calls mdevctl itself, in `mdev-user run`.
"""

import logging
import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from signal import SIGKILL
from threading import Event as Flag
from threading import Lock, Thread

from mdev_user.daemon.run_dir import RunDir
from mdev_user.host import PYTHON
from mdev_user.mdev.events import Event, EventKind

_log = logging.getLogger(__name__)

MOST_SECONDS = 60.0
"""What mdevctl, with the scripts that it calls, may take for the mdevs of one parent."""

_MOMENT = 1.0
_SYSTEM = "/usr/sbin:/sbin"
"""Where Debian's mdevctl is, and what an ordinary user's PATH lacks."""


class Starter:
    """Has a thread of its own, in which one parent's mdevs are started after another's; registering waits for none."""

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir = run_dir
        self._registered: SimpleQueue[str | None] = SimpleQueue()
        self._stopping = Flag()
        self._lock = Lock()
        self._running: subprocess.Popen[str] | None = None
        self._thread = Thread(target=self._run, name="autostart", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End what runs, with all that it started; nothing is started any more."""
        self._stopping.set()
        self._registered.put(None)
        with self._lock:
            if self._running is not None:
                _kill(self._running)
        if self._thread.ident is not None:
            self._thread.join(_MOMENT)

    def on_event(self, event: Event) -> None:
        """The listener for `Bus.subscribe`, after the tree's."""
        if event.kind is EventKind.PARENT_REGISTERED:
            self._registered.put(event.parent.name)

    def _run(self) -> None:
        while (parent := self._registered.get()) is not None and not self._stopping.is_set():
            try:
                self._start_mdevs(parent)
            except OSError as error:
                _log.warning("autostart of %s: %s", parent, error)

    def _start_mdevs(self, parent: str) -> None:
        mdevctl = _mdevctl()
        if mdevctl is None or not _has_definitions(self._run_dir.root / "etc" / "mdevctl.d" / parent):
            return
        _log.info("autostart: mdevctl start-parent-mdevs %s", parent)
        status, said = self._finished([*self._in_run(), mdevctl, "start-parent-mdevs", parent])
        if self._stopping.is_set():
            return
        text = f": {said}" if said else ""
        if status:
            _log.warning("autostart of %s: mdevctl ended with status %d%s", parent, status, text)
        else:
            _log.info("autostart of %s: done%s", parent, text)

    def _in_run(self) -> list[str]:
        return [*PYTHON, "mdev_user", "run", "--sysfs-only", "--run-dir", str(self._run_dir.path), "--"]

    def _finished(self, command: Sequence[str]) -> tuple[int, str]:
        """The exit status and what was said, on one line; a program that takes too long is killed."""
        with self._lock:
            if self._stopping.is_set():
                return 0, ""
            self._running = process = _begin(command)
        try:
            said, _nothing = process.communicate(timeout=MOST_SECONDS)
        except subprocess.TimeoutExpired:
            _kill(process)
            said = f"{_rest(process)} (killed after {MOST_SECONDS:.0f} s)"
        finally:
            with self._lock:
                self._running = None
        return process.returncode, " ".join(said.split())


def _mdevctl() -> str | None:
    return shutil.which("mdevctl", path=f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM}")


def _begin(command: Sequence[str]) -> "subprocess.Popen[str]":
    environment = {key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"}
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def _kill(process: "subprocess.Popen[str]") -> None:
    """With what it started: the scripts that mdevctl calls are in its process group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, SIGKILL)


def _rest(process: "subprocess.Popen[str]") -> str:
    """What a process that was killed had said; a script with a session of its own may still hold the pipe."""
    try:
        said, _nothing = process.communicate(timeout=_MOMENT)
    except subprocess.TimeoutExpired:
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        return "its output is held by a process that it started"
    return said


def _has_definitions(folder: Path) -> bool:
    try:
        return any(each.is_file() for each in folder.iterdir())
    except OSError:
        return False
