"""The process of one host of a test: the whole front, its parents in the same process, and a place for faults.

It lives as long as the test holds the other end of its channel and the test's process lives, and leaves nothing.
"""

import logging
import os
import select
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec

from mdev_user.daemon.config import Given, load_config
from mdev_user.daemon.front import Front
from mdev_user.daemon.run_dir import mounts_below
from mdev_user.driver import Parent
from mdev_user.errors import MountError, NoDevice
from mdev_user.host.remote import RemoteParent
from mdev_user.mdev.bus import Bus
from mdev_user.mdev.parent import MdevParent
from mdev_user.mdev.types import MdevAttribute
from mdev_user.sysfs import mountpoint
from mdev_user.testing.hosts.faults import AnyFault, conditions
from mdev_user.testing.hosts.in_process import InProcessHost, path_of
from mdev_user.testing.hosts.injection import Injection
from mdev_user.testing.hosts.lossy_log import LossyLog
from mdev_user.testing.hosts.wire import (
    LARGEST,
    Answer,
    Arm,
    Birth,
    Born,
    Clear,
    CountHits,
    Die,
    Done,
    Failed,
    ListWaiting,
    Request,
    Reset,
    Resize,
)

_log = logging.getLogger(__name__)

_FAREWELL = 3.0
"""Seconds for the parents' end; the tree goes all the same."""
_TICK = 0.01


class Served:
    """One host and what its test asks of it."""

    def __init__(self, run_dir: Path) -> None:
        self.injection = Injection()
        start_host = partial(InProcessHost, injection=self.injection)
        self.front = Front(load_config(None, Given(run_dir=run_dir)), start_host, LossyLog(self.injection.loses))
        # Any: each takes its own kind of request; the table pairs them.
        self._operations: dict[type[Request], Callable[[Any], Answer | None]] = {
            Arm: self._arm,
            Clear: lambda request: self.injection.clear(request.fault),
            CountHits: lambda request: Done(number=self.injection.hits(request.fault)),
            ListWaiting: lambda _request: Done(faults=self.injection.waiting()),
            Resize: self._resize,
            Die: self._die,
            Reset: lambda _request: Done(number=self.reset()),
        }

    def start(self) -> None:
        """MountError where the tree cannot be mounted: a host without one is none."""
        self.front.start()
        status = self.front.status()
        if status.sysfs is None:
            raise MountError(status.sysfs_reason)

    def answer(self, request: Request) -> Answer:
        """Whatever is wrong with it is an answer, too."""
        try:
            return self._operations[type(request)](request) or Done()
        except ValueError as error:  # the test's own mistake
            return Failed("ValueError", str(error))
        except Exception as error:  # noqa: BLE001 - the test is told
            _log.exception("%r", request)
            return Failed(type(error).__name__, str(error))

    def reset(self) -> int:
        """No parent, mdev, definition or fault; who uses an mdev is disconnected. Returns the last uevent's number."""
        self.injection.clear(None)
        names = [each.name for each in self.front.registered.views()]
        with ThreadPoolExecutor(max(1, len(names))) as pool:
            unregistering = [pool.submit(self._unregister, name) for name in names]
            while wait(unregistering, _TICK).not_done:
                self._disconnect_all()
        for each in unregistering:
            each.result()
        _forget_definitions(self.front.run_dir.root / "etc" / "mdevctl.d")
        return self.front.snapshot().number

    def _unregister(self, name: str) -> None:
        with suppress(NoDevice):  # somebody else was quicker
            self.front.registered.unregister(name)

    def _disconnect_all(self) -> None:
        for mdev in self.front.bus.mdevs():
            if isinstance(mdev.parent.ops, RemoteParent):
                with suppress(NoDevice):
                    mdev.parent.ops.disconnect(mdev.uuid)

    def _arm(self, request: Arm) -> None:
        _check_conditions(self.front.bus, request.fault)
        self.injection.arm(request.fault)

    def _resize(self, request: Resize) -> None:
        parent = _parent(self.front.bus, request.parent)
        ops = _host(parent).parent(parent.name)
        if not isinstance(ops, Parent):
            raise ValueError(f"parent {parent.name} has a driver written by hand, which counts for itself")
        known = {**ops._pools, **ops._instances}  # noqa: SLF001 - our own
        for name in request.totals:
            if name not in known:
                raise ValueError(f"parent {parent.name} has no pool {name!r}; it has: {', '.join(known)}")
        for name, total in request.totals.items():
            if name in ops._pools:  # noqa: SLF001 - our own
                ops._accounts.resize(name, total)  # noqa: SLF001 - our own
            else:
                parent.ops.max_instances = total

    def _die(self, request: Die) -> None:
        _host(_parent(self.front.bus, request.parent)).die("was killed by signal 9")


def live(channel: socket.socket, birth: int, log: int, folder: Path) -> None:
    """The whole life of a host, in a process of its own; everything of it lies in ``folder``."""
    _become_independent(log)
    with os.fdopen(birth, "rb") as file:
        asked = msgspec.msgpack.decode(file.read(), type=Birth)
    os.environ.clear()
    os.environb.update(asked.environment)
    sys.path[:] = map(os.fsdecode, asked.path)
    test = os.pidfd_open(asked.pid)
    run_dir = folder / "run"
    _make_private(run_dir)
    try:
        served = Served(run_dir)
        served.start()
    except Exception as error:  # noqa: BLE001 - the test is told
        _log.exception("the host cannot be served")
        _send(channel, Failed(type(error).__name__, str(error)))
    else:
        _send(channel, Born(str(folder), os.getpid(), served.front.snapshot().number))
        _converse(channel, test, served)
        ending = Thread(target=served.front.registered.stop, daemon=True)
        served.injection.clear(None)
        ending.start()
        ending.join(_FAREWELL)
    _end_children()
    take_away(folder)


def take_away(folder: Path) -> None:
    """Unmount what is mounted below a host's folder, and remove it; it stays while something is mounted there."""
    for each in mounts_below(folder):
        mountpoint.detach(each)
    left = mounts_below(folder)
    if left:
        _log.error("still mounted: %s", left)
        return
    shutil.rmtree(folder, ignore_errors=True)


def _end_children() -> None:
    """What computes for a driver, or starts mdevs, with all that it started in its process group."""
    for children in Path("/proc/self/task").glob("*/children"):
        for pid in map(int, children.read_text().split()):
            with suppress(OSError):
                group = os.getpgid(pid)
                os.kill(pid, signal.SIGKILL) if group == os.getpgrp() else os.killpg(group, signal.SIGKILL)


def _become_independent(log: int) -> None:
    """Of the test's terminal: Ctrl-C reaches the test, whose end is ours."""
    os.setsid()
    os.chdir("/")
    os.dup2(log, 1)
    os.dup2(log, 2)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname).1s %(message)s", force=True)


def _make_private(run_dir: Path) -> None:
    """Definitions of mdevctl that are the machine's are no test's: made before the front would link to them."""
    definitions = run_dir / "root" / "etc" / "mdevctl.d"
    definitions.mkdir(parents=True)
    for folder in (run_dir, run_dir / "root"):
        folder.chmod(0o711 if folder == run_dir else 0o755)


def _forget_definitions(folder: Path) -> None:
    """And scripts, but not the folders for scripts: without them mdevctl 1.2 ends."""
    for path, folders, files in os.walk(folder, topdown=False):
        for name in files:
            Path(path, name).unlink()
        for name in folders:
            inner = Path(path, name)
            if inner.is_symlink():
                inner.unlink()
            elif "scripts.d" not in inner.relative_to(folder).parts:
                inner.rmdir()


def _converse(channel: socket.socket, test: int, served: Served) -> None:
    """Until the test is over, or its process is."""
    decoder = msgspec.msgpack.Decoder(Request)
    waiting = select.poll()
    waiting.register(channel, select.POLLIN)
    waiting.register(test, select.POLLIN)
    while True:
        ready = [fd for fd, _events in waiting.poll()]
        if test in ready or not (data := channel.recv(LARGEST)):
            return
        _send(channel, served.answer(decoder.decode(data)))


def _send(channel: socket.socket, answer: Answer) -> None:
    with suppress(OSError):  # the test is gone; _converse sees it too
        channel.send(msgspec.msgpack.encode(answer))


def _parent(bus: Bus, name: str) -> MdevParent:
    parents = {each.name: each for each in bus.parents()}
    if name not in parents:
        raise ValueError(f"no parent {name!r} is registered; there are: {', '.join(parents) or 'none'}")
    return parents[name]


def _host(parent: MdevParent) -> InProcessHost:
    ops = parent.ops
    if not (isinstance(ops, RemoteParent) and isinstance(ops.host, InProcessHost)):
        raise TypeError(f"parent {parent.name} does not live in this process")
    return ops.host


def _check_conditions(bus: Bus, fault: AnyFault) -> None:
    """ValueError for a fault that could never happen: an unknown parent, type or attribute."""
    given = conditions(fault)
    parents = [_parent(bus, given["parent"])] if "parent" in given else bus.parents()
    known = {
        "type_id": [type_id for each in parents for type_id in each.types],
        "attribute": [path_of(each) for parent in parents for each in _attributes(parent)],
    }
    for name, values in known.items():
        if name in given and given[name] not in values:
            where = ", ".join(each.name for each in parents) or "no parent is registered"
            raise ValueError(f"no {name} {given[name]!r} ({where}); there are: {', '.join(values) or 'none'}")


def _attributes(parent: MdevParent) -> list[MdevAttribute]:
    return [*parent.ops.attributes, *parent.ops.parent_attributes]
