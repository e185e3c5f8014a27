"""The parents that the daemon was asked for, and the host processes in which they live.

A host that dies takes its own parents' mdevs and nothing else; by policy it is started again, each time after a
longer pause, and its parents are registered anew.
"""

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock, Thread

from mdev_user.daemon.config import Restart
from mdev_user.daemon.reload import Loaded, look
from mdev_user.daemon.run_dir import remove_device_folder
from mdev_user.daemon.specification import ParentSpecification
from mdev_user.daemon.views import ParentView
from mdev_user.errors import AlreadyExists, MdevUserError, NoDevice
from mdev_user.host.remote import Host, RemoteHost, RemoteParent, StartHost
from mdev_user.host.wire import Load
from mdev_user.mdev.bus import Bus
from mdev_user.mdev.parent import MdevParent

_log = logging.getLogger(__name__)

_PCI_DEVICES = Path("/sys/bus/pci/devices")
"""The machine's own: a program is shown both in one directory."""
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 30.0
_HEALTHY = 60.0
"""Seconds: a host that lived this long is started again after the first, short pause."""


@dataclass
class _Host:
    process: Host
    began: float = field(default_factory=time.monotonic)


@dataclass
class _Parent:
    specification: ParentSpecification
    registered: MdevParent | None = None
    leaving: Lock = field(default_factory=Lock)
    """Held by whoever takes it from the bus, until it is gone from there."""
    state: str = "registered"
    reason: str = ""
    restarting: bool = False
    """A thread is at it."""
    restarts: int = 0
    reloads: int = 0
    pause: float = _FIRST_PAUSE
    loaded: Loaded | None = None

    def look_at_file(self) -> None:
        """To be called before the driver is loaded: a change from then on is one that was not loaded."""
        if (file := self.specification.file) is not None:
            self.loaded = Loaded(file, look(file))


class Parents:
    """Registers and unregisters parents, and looks after their hosts. Methods may be called from any thread."""

    def __init__(self, bus: Bus, devices: Path, restart: Restart, start_host: StartHost = RemoteHost) -> None:
        self._bus = bus
        self._devices = devices
        self._restart = restart
        self._start_host = start_host
        self._lock = Lock()
        self._hosts: dict[str, _Host] = {}
        self._parents: dict[str, _Parent] = {}
        self._stopping = Event()

    def register(self, specification: ParentSpecification) -> None:
        """Start the parent's host where it is not running, load the driver in it, and register the parent."""
        name = specification.name
        if (_PCI_DEVICES / name).is_symlink():
            raise AlreadyExists(f"this machine has a PCI function {name}; give the parent a name in another PCI domain")
        with self._lock:
            if name in self._parents:
                raise AlreadyExists(f"a parent {name} is registered; give the new one another name: ...,name=NAME")
            self._parents[name] = record = _Parent(specification)
        try:
            self._bring_up(record)
        except BaseException:
            self._forget(record)
            self._release_host(specification.host)
            raise

    def reload(self, name: str) -> None:
        """Let a parent go on with what is in its driver's file now. What is wrong with that is logged and shown."""
        with self._lock:
            record = self._parents.get(name)
        parent = record.registered if record is not None else None
        if record is None or parent is None or not isinstance(parent.ops, RemoteParent):
            return
        record.look_at_file()
        try:
            lost = parent.ops.reload()
        except (MdevUserError, OSError) as error:
            record.reason = f"not reloaded, the old driver goes on: {error}"
            _log.error("parent %s: %s", name, record.reason)
            return
        record.reason = lost
        record.reloads += 1
        _log.info("parent %s: reloaded%s", name, f"; {lost}" if lost else "")

    def unregister(self, name: str) -> None:
        """Remove the parent's mdevs (waits for those in use), then the parent, then a host that nobody needs."""
        with self._lock:
            record = self._parents.get(name)
            known = ", ".join(self._parents) or "none"
        if record is None:
            raise NoDevice(f"no parent {name}; there are: {known}")
        self._unregister(record)
        self._forget(record)
        self._unregister(record)  # a restart may have brought it back meanwhile, and brings back no more
        self._release_host(record.specification.host)

    def files(self) -> dict[str, Loaded]:
        """The drivers' files of the parents that have one, by the parent's name."""
        with self._lock:
            return {name: each.loaded for name, each in self._parents.items() if each.loaded is not None}

    def views(self) -> list[ParentView]:
        with self._lock:
            return [self._view(each) for each in self._parents.values()]

    def view(self, name: str) -> ParentView:
        with self._lock:
            return self._view(self._parents[name])

    def stop(self) -> None:
        """End every host: users are disconnected, mdevs go with their parents."""
        self._stopping.set()
        with self._lock:
            hosts = [each.process for each in self._hosts.values()]
            self._hosts.clear()
        if hosts:
            with ThreadPoolExecutor(len(hosts)) as pool:  # each may need its time
                list(pool.map(lambda host: host.stop(), hosts))
        for mdev in self._bus.mdevs():  # a host that had to be killed left them
            remove_device_folder(self._devices / mdev.name)

    def _forget(self, record: _Parent) -> None:
        """Its name may be another's by now, when two unregister it."""
        with self._lock:
            if self._is_wanted(record):
                del self._parents[record.specification.name]

    def _is_wanted(self, record: _Parent) -> bool:
        """Until it is forgotten; the caller holds the lock."""
        return self._parents.get(record.specification.name) is record

    def _unregister(self, record: _Parent) -> None:
        parent = self._leave(record)
        if parent is not None and isinstance(parent.ops, RemoteParent):
            _unload(parent.ops)

    def _leave(self, record: _Parent) -> MdevParent | None:
        """Take it from the bus, or wait for who does that already. What was registered, if it still was."""
        with record.leaving:
            parent = record.registered
            if parent is not None:
                self._bus.unregister_parent(parent)
                record.registered = None
            return parent

    def _bring_up(self, record: _Parent) -> None:
        host = self._host(record.specification.host)
        specification = record.specification
        record.look_at_file()
        load = Load(specification.name, specification.driver, specification.options, specification.busy_poll)
        ops = RemoteParent(host, load)
        try:
            record.registered = self._bus.register_parent(specification.name, ops)
        except BaseException:
            _unload(ops)  # its host may have other parents, and be asked for this one again
            raise
        record.state = "registered"
        if host.gone:  # between its answer and here; `_ended` may have looked before there was anything to take down
            self._take_down(record, _killed(host))
            raise NoDevice(record.reason)
        with self._lock:
            wanted = self._is_wanted(record)
        if not wanted:  # nobody else takes it down any more
            self._unregister(record)
            raise NoDevice(f"parent {specification.name} was unregistered before it was there")

    def _host(self, name: str) -> Host:
        with self._lock:
            if self._stopping.is_set():
                raise NoDevice("the daemon is stopping")
            if name not in self._hosts:
                self._hosts[name] = _Host(self._start_host(name, self._devices, self._ended))
            return self._hosts[name].process

    def _release_host(self, name: str) -> None:
        with self._lock:
            if any(each.specification.host == name for each in self._parents.values()):
                return
            host = self._hosts.pop(name, None)
        if host is not None:
            host.process.stop()

    def _ended(self, process: Host, reason: str) -> None:
        """A host died: its parents go, and come back by policy. Runs in that host's own thread."""
        _log.error("host %s (pid %d) %s", process.name, process.pid, reason)
        with self._lock:
            host = self._hosts.get(process.name)
            if host is None or host.process is not process:
                return
            del self._hosts[process.name]
            affected = [each for each in self._parents.values() if each.specification.host == process.name]
        healthy = time.monotonic() - host.began > _HEALTHY
        for record in affected:
            record.pause = _FIRST_PAUSE if healthy else record.pause
            self._take_down(record, _killed(process))
        if self._restart is Restart.ALWAYS:
            for record in affected:
                self._begin_restart(record)

    def _take_down(self, record: _Parent, reason: str) -> None:
        record.state = "restarting" if self._restart is Restart.ALWAYS else "failed"
        record.reason = reason
        self._leave(record)

    def _begin_restart(self, record: _Parent) -> None:
        """In a thread for each parent: one that does not come up must not keep its host's others down."""
        with self._lock:
            if record.restarting:  # its host died again while it was started again
                return
            record.restarting = True
        Thread(target=self._restart_parent, args=(record,), name="restart", daemon=True).start()

    def _restart_parent(self, record: _Parent) -> None:
        while self._needs_restart(record) and not self._stopping.wait(record.pause):
            if self._needs_restart(record):
                self._try_again(record)

    def _needs_restart(self, record: _Parent) -> bool:
        """Not while it is registered, nor when it is not wanted any more."""
        with self._lock:
            record.restarting = self._is_wanted(record) and record.registered is None
            return record.restarting

    def _try_again(self, record: _Parent) -> None:
        record.pause = min(record.pause * 2, _LONGEST_PAUSE)
        record.restarts += 1
        try:
            self._bring_up(record)
        except (MdevUserError, OSError) as error:
            record.reason = f"{record.reason.partition(';')[0]}; starting again failed: {error}"
            _log.error("parent %s: %s", record.specification.name, record.reason)
            self._release_host(record.specification.host)  # if it was unregistered meanwhile
        else:
            _log.warning("parent %s: registered again", record.specification.name)

    def _view(self, record: _Parent) -> ParentView:
        parent = record.registered
        ops = parent.ops if parent is not None else None
        return ParentView(
            name=record.specification.name,
            specification=record.specification.text,
            driver=ops.driver_name if ops is not None else record.specification.driver,
            state=record.state if parent is not None or record.reason else "registering",
            reason=record.reason,
            host_pid=ops.host.pid if isinstance(ops, RemoteParent) else None,
            restarts=record.restarts,
            reloads=record.reloads,
            mdevs=parent.instances if parent is not None else 0,
        )


def _unload(ops: RemoteParent) -> None:
    with suppress(NoDevice):  # its host is gone, and all with it
        ops.unload()


def _killed(host: Host) -> str:
    return f"its host (pid {host.pid}) {host.gone}"
