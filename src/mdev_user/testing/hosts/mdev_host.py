"""A fresh host for a test: what a test sees of it, does to it and has go wrong on it."""

import inspect
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from errno import EIO, ENOSPC
from pathlib import Path
from threading import Timer
from types import TracebackType
from typing import Literal, Self, TypeVar
from uuid import UUID, uuid4

from mdev_user.daemon.client import Client as ControlClient
from mdev_user.daemon.client import NoDaemon
from mdev_user.daemon.run_dir import RUN_DIR_VARIABLE, RunDir
from mdev_user.daemon.specification import parse_parent
from mdev_user.daemon.views import UeventLine
from mdev_user.host import PYTHON
from mdev_user.mdev.ops import LifecycleOps
from mdev_user.testing.hosts.births import HostProcess
from mdev_user.testing.hosts.faults import AnyFault, AttributeFails, CreateFails, CreateTakes, LoseEvent, RemoveTakes
from mdev_user.testing.hosts.wire import Arm, Clear, CountHits, Die, ListWaiting, Reset, Resize
from mdev_user.vfio_user.client import Client, ServedMemory

_F = TypeVar("_F", bound=AnyFault)


class MdevHost:
    """A host of its own: an mdev bus with a mounted sysfs tree, parents, events and a control API; a context manager.

    It is served by another process, which ends with the ``with`` block, or with this process, however that ends; no
    mount, process or folder stays. Any number of them can exist at once. In pytest, the fixture ``mdev_host`` is one
    and ``make_mdev_host(*parents)`` makes more.
    """

    def __init__(self, *parents: str) -> None:
        """``parents`` are those of `register`. MountError, with the cure, where no tree can be mounted."""
        self._process = HostProcess()
        self.run_dir = RunDir(self._process.folder / "run")
        """The run directory: what ``mdev-user --run-dir`` takes."""
        self.root = self.run_dir.root
        """A root directory with ``sys``, and mdevctl's definitions in ``etc/mdevctl.d``, which are this host's own."""
        self.sys = self.run_dir.sys
        """The sysfs tree: what is /sys elsewhere."""
        self.control = ControlClient(self.run_dir)
        """The control API of this host."""
        self.faults = Faults(self._process)
        """What is to go wrong."""
        self._since = self._process.number
        try:
            for parent in parents:
                self.register(parent)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The process that serves it."""
        return self._process.pid

    @property
    def log(self) -> str:
        """What the host and its drivers logged so far."""
        return self._process.log

    @property
    def environment(self) -> dict[str, str]:
        """This process's environment and what mdevctl >= 1.4 and ``mdev-user`` need to work on this host."""
        return {**os.environ, "MDEVCTL_ENV_ROOT": str(self.root), RUN_DIR_VARIABLE: str(self.run_dir.path)}

    # --- parents and mdevs ----------------------------------------------------------------------------------

    def register(self, parent: str | type[LifecycleOps]) -> "HostParent":
        """Register a parent: ``"mtty"``, ``"mbochs,name=4d44:00:01.0"``, ``"FILE.py:CLASS,lanes=2"``, or its class.

        A relative FILE.py is one of the working directory; a class is at the top of its file. Options as of
        ``mdev-user serve``. ConfigError or Refused, with the reason, when that cannot be.
        """
        specification = parse_parent(parent if isinstance(parent, str) else _specification(parent))
        self.control.register_parent(specification.text)
        if specification.file is None:
            self._process.used(specification.driver)
        return self.parent(specification.name)

    def unregister(self, parent: str) -> None:
        """Remove the parent's mdevs, then the parent. Refused (EAGAIN) while somebody uses one of them."""
        self.control.unregister_parent(parent)

    def parent(self, name: str) -> "HostParent":
        """A registered parent. ValueError when there is none of this name."""
        path = self.sys / "class/mdev_bus" / name
        if not path.is_symlink():
            raise ValueError(f"no parent {name!r} is registered; there are: {', '.join(self.parents()) or 'none'}")
        return HostParent(name, path)

    def parents(self) -> list[str]:
        """The names in class/mdev_bus."""
        return sorted(each.name for each in (self.sys / "class/mdev_bus").iterdir())

    def create(self, type_id: str, parent: str | None = None, uuid: UUID | None = None) -> UUID:
        """Write a UUID to the type's ``create``. OSError with the errno of the write(2), such as ENOSPC.

        Without ``parent``: on the only one that has the type; ValueError when that is not one.
        """
        return (self.parent(parent) if parent is not None else self._only_parent_with(type_id)).create(type_id, uuid)

    def remove(self, uuid: UUID) -> None:
        """Write 1 to the mdev's ``remove``; waits while it is in use. OSError with the errno."""
        _write(self.mdev(uuid) / "remove", "1")

    def mdev(self, uuid: UUID) -> Path:
        """The mdev's directory, by its link in bus/mdev/devices; it need not exist."""
        return self.sys / "bus/mdev/devices" / str(uuid)

    def mdevs(self) -> list[UUID]:
        """Those in bus/mdev/devices."""
        return sorted(UUID(each.name) for each in (self.sys / "bus/mdev/devices").iterdir())

    def guest(self, uuid: UUID, memory: ServedMemory | None = None, timeout: float = 20.0) -> Client:
        """A connected and negotiated vfio-user client of an mdev, which has it open; ``timeout`` of each wait in s."""
        return Client(self.run_dir.socket(uuid), memory, timeout)

    # --- events ---------------------------------------------------------------------------------------------

    def events(self, after: int = 0) -> list[UeventLine]:
        """The uevents so far, oldest first, without those of the bus itself and from before a `reset`.

        ``after`` is the number of one: those that came later.
        """
        with self.control.events(max(after, self._since), follow=False) as lines:
            return [each for each in lines if each.kind == "uevent"]

    def wait_for(
        self,
        action: str | None = None,
        *,
        subsystem: str | None = None,
        name: str | UUID | None = None,
        after: int = 0,
        seconds: float = 5.0,
        **properties: str,
    ) -> UeventLine:
        """The first uevent that fits, at once where it has come: ``wait_for("change", MDEV_STATE="registered")``.

        ``name`` is the last part of DEVPATH: an mdev's UUID, a parent's name. ``after`` is a uevent's number.
        TimeoutError, with what there was, when none has come within ``seconds``.
        """
        wanted = {"action": action, "subsystem": subsystem, "name": None if name is None else str(name), **properties}
        wanted = {key: value for key, value in wanted.items() if value is not None}
        with self.control.events(max(after, self._since), follow=True) as lines:
            timer = Timer(seconds, lines.hang_up)
            timer.start()
            try:
                return next(each for each in lines if each.kind == "uevent" and wanted.items() <= _facts(each).items())
            except NoDaemon:
                told = "".join(f"\n  {each.number} {each.action} {each.devpath}" for each in self.events(after))
                raise TimeoutError(f"no uevent {wanted} within {seconds:g} s; there were:{told or ' none'}") from None
            finally:
                timer.cancel()

    # --- programs -------------------------------------------------------------------------------------------

    def run(
        self,
        *command: str | Path,
        seconds: float = 60.0,
        stdin: str | None = None,
        events: Literal["none", "private", "host"] = "none",
    ) -> subprocess.CompletedProcess[str]:
        """Run a program for which /sys is this host's tree, by ``mdev-user run``; its output is captured as text.

        ``events="private"`` tells libudev's listeners in it of the uevents, in a network of its own. TimeoutExpired
        after ``seconds``, when it and what it started are killed. The exit status is not looked at.
        """
        options = ["--run-dir", str(self.run_dir.path), "--sysfs-only", f"--events={events}", "--"]
        with subprocess.Popen(
            [*PYTHON, "mdev_user", "run", *options, *map(str, command)],
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            start_new_session=True,
        ) as process:
            try:
                output, errors = process.communicate(stdin, seconds)
            except BaseException:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    # --- its end --------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """As new, in milliseconds: no parent, mdev, definition, fault or event; who uses an mdev is disconnected.

        What hypothesis wants between two examples.
        """
        self._since = self._process.ask(Reset()).number

    def close(self) -> None:
        """End it; returns when its process, mount and folder are gone."""
        self._process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        self.close()

    def _only_parent_with(self, type_id: str) -> "HostParent":
        parents = [self.parent(each) for each in self.parents()]
        found = [each for each in parents if type_id in each.types()]
        if len(found) == 1:
            return found[0]
        raise ValueError(f"expected one parent with the type {type_id!r}, given {_given(type_id, found, parents)}")


@dataclass(frozen=True)
class HostParent:
    """A registered parent: its name and its directory, by its link in class/mdev_bus."""

    name: str
    path: Path

    def types(self) -> list[str]:
        """The ids of its types."""
        return sorted(each.name for each in (self.path / "mdev_supported_types").iterdir())

    def type(self, type_id: str) -> Path:
        """The directory of a type: ``create``, ``available_instances`` and so on. ValueError for an unknown one."""
        path = self.path / "mdev_supported_types" / type_id
        if not path.is_dir():
            raise ValueError(f"parent {self.name} has no type {type_id!r}; it has: {', '.join(self.types())}")
        return path

    def available(self, type_id: str) -> int:
        """What the type's ``available_instances`` says."""
        return int((self.type(type_id) / "available_instances").read_text())

    def create(self, type_id: str, uuid: UUID | None = None) -> UUID:
        """Write a UUID to the type's ``create``. OSError with the errno of the write(2)."""
        chosen = uuid or uuid4()
        _write(self.type(type_id) / "create", str(chosen))
        return chosen


class Faults:
    """What is to go wrong on a host. ``parent`` and ``type_id`` narrow it down; ``times=None`` is always.

    A fault is a value; each method arms one and returns it, for `hits` and `clear`. ValueError for one that could
    never happen: an unknown parent, type or attribute, or no errno.
    """

    def __init__(self, process: HostProcess) -> None:
        self._process = process

    def create_fails(
        self,
        errno: int = ENOSPC,
        *,
        parent: str | None = None,
        type_id: str | None = None,
        times: int | None = 1,
    ) -> CreateFails:
        """The driver refuses a create: uevents `add` and `remove`, and nothing is left."""
        return self._armed(CreateFails(errno=errno, parent=parent, type_id=type_id, times=times))

    def create_takes(
        self,
        seconds: float,
        *,
        parent: str | None = None,
        type_id: str | None = None,
        times: int | None = 1,
    ) -> CreateTakes:
        """The driver needs so long for a create; the other parents do not wait."""
        return self._armed(CreateTakes(seconds=seconds, parent=parent, type_id=type_id, times=times))

    def remove_takes(
        self,
        seconds: float,
        *,
        parent: str | None = None,
        type_id: str | None = None,
        times: int | None = 1,
    ) -> RemoveTakes:
        """An mdev needs so long to go, as one that a program has open."""
        return self._armed(RemoveTakes(seconds=seconds, parent=parent, type_id=type_id, times=times))

    def attribute_fails(
        self,
        errno: int = EIO,
        *,
        attribute: str | None = None,
        parent: str | None = None,
        times: int | None = 1,
    ) -> AttributeFails:
        """A read or write of a driver's own attribute fails: ``attribute="vendor/resolution"``."""
        return self._armed(AttributeFails(errno=errno, attribute=attribute, parent=parent, times=times))

    def lose_event(
        self,
        action: str | None = None,
        *,
        subsystem: str | None = None,
        name: str | UUID | None = None,
        times: int | None = 1,
    ) -> LoseEvent:
        """A uevent reaches nobody; ``name`` is an mdev's UUID or a parent's name."""
        last = None if name is None else str(name)
        return self._armed(LoseEvent(action=action, subsystem=subsystem, name=last, times=times))

    def capacity(self, parent: str, totals: dict[str, int]) -> None:
        """Let a parent have so much of its pools from now on: ``{"ports": 2}``.

        What was taken stays taken; where that is more, nothing is available. ValueError for an unknown pool, or a
        driver that counts for itself.
        """
        for name, total in totals.items():
            if type(total) is not int or total < 0:
                raise ValueError(f"{name}: expected a number of at least 0, given {total!r}")
        self._process.ask(Resize(parent, totals))

    def host_dies(self, parent: str) -> None:
        """The process with the parent's driver ends as if killed: its mdevs go, and it comes back after 0.2 s."""
        self._process.ask(Die(parent))

    def arm(self, fault: AnyFault) -> None:
        """Let a fault happen; of several that fit, the first one that was armed does."""
        self._armed(fault)

    def hits(self, fault: AnyFault) -> int:
        """How often it has happened. A test whose fault did not happen has shown nothing."""
        return self._process.ask(CountHits(fault)).number

    def waiting(self) -> list[AnyFault]:
        """The faults that have not happened as often as they were to."""
        return self._process.ask(ListWaiting()).faults

    def clear(self, fault: AnyFault | None = None) -> None:
        """Forget a fault, or all of them; what one delays goes on at once."""
        self._process.ask(Clear(fault))

    def _armed(self, fault: _F) -> _F:
        self._process.ask(Arm(fault))
        return fault


def _given(type_id: str, found: Sequence[HostParent], parents: Sequence[HostParent]) -> str:
    """What there is in place of the one parent, and what to do."""
    if found:
        names = ", ".join(each.name for each in found)
        return f"{len(found)}: {names}; say which, as in create({type_id!r}, {found[0].name!r})"
    if not parents:
        return "a host without parents; register one first, as in register('mtty')"
    types = "; ".join(f"{each.name} with {', '.join(each.types())}" for each in parents)
    return f"{types}; register a parent that has it, or create one of these types"


def _write(path: Path, text: str) -> None:
    """By one write(2). A Python file with a buffer tries again when it is closed, one without takes EAGAIN for None."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _facts(uevent: UeventLine) -> dict[str, str]:
    """By which one is found."""
    name = uevent.devpath.rpartition("/")[2]
    return {**uevent.properties, "action": uevent.action, "subsystem": uevent.subsystem, "name": name}


def _specification(parent: type[LifecycleOps]) -> str:
    file = inspect.getsourcefile(parent)
    if file is None or "." in parent.__qualname__:
        raise ValueError(f"{parent.__qualname__}: expected a class at the top of a file, which the host can load")
    return f"{os.path.abspath(file).replace(',', ',,')}:{parent.__qualname__}"  # noqa: PTH100 - links stay
