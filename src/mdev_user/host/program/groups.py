"""Control groups (version 2): what a process of an mdev's own has of memory, threads and processor time, by the kernel.

In version 2 a group that has processes cannot share out controllers to groups below it. So a daemon that a group was
delegated to moves itself into one below that, and makes another one beside it, in which each process has its own. Who
delegates is systemd (``Delegate=yes``), whoever gives an ordinary user a group, or nobody where there is but the root.
(Linux, Documentation/admin-guide/cgroup-v2.rst: no internal process constraint, delegation.)
"""

import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from itertools import count
from pathlib import Path
from threading import Lock

from mdev_user.units import MiB

CONTROLLERS = ("memory", "pids", "cpu")
"""Those that are used; the first must be there."""
BESIDE = 64 * MiB
"""What a process has beside the memory that it was promised: page tables, stacks, libraries' relocated data."""
MOST_THREADS = 1024
_DAEMON, _PROGRAMS = "mdev-user.daemon.", "mdev-user.programs."
_MARKS = ("user.delegate", "trusted.delegate")
"""Extended attributes by which systemd tells what it has delegated."""

_log = logging.getLogger(__name__)


class Refused(Exception):
    """There are no control groups for us; the text says why."""


class DaemonGroup:
    """The daemon's own groups, while it runs. Hosts that it starts are in them, and find their place by that."""

    def __init__(self) -> None:
        """Refused where there are none. To be made before there is another process or thread of ours."""
        self._parent = _delegated()
        name = _birth(os.getpid())
        self._programs, self._own = self._parent / f"{_PROGRAMS}{name}", self._parent / f"{_DAEMON}{name}"
        self._shared_out: list[str] = []
        """Of the parent's controllers: others of its groups have limits by those that were before."""
        _remove_leftovers(self._parent)
        try:
            self._programs.mkdir()
            self._own.mkdir()
            enter(self._own)
            self._shared_out = _share_out(self._parent)
            _share_out(self._programs)
        except OSError as error:
            self.close()
            raise Refused(f"{self._parent}: {error.strerror}") from error

    def close(self) -> None:
        """As it was before, if all others have ended."""
        _remove_below(self._programs)
        with suppress(OSError):
            self._programs.rmdir()
            for each in self._shared_out:  # or nobody may enter it
                with suppress(OSError):
                    (self._parent / "cgroup.subtree_control").write_text(f"-{each}")
            enter(self._parent)
            self._own.rmdir()

    @property
    def folder(self) -> Path:
        """In which each process has a group."""
        return self._programs


class HostGroups:
    """Makes the groups of one host's processes."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._numbers = count(1)
        self._left: list[Path] = []
        self._lock = Lock()
        _remove_leftovers(programs)

    def create(self, memory: int | None, nice: int) -> "Group | None":
        """``memory`` is what all in it may have; None: as much as there is. None when there cannot be one."""
        folder = self._programs / f"{_birth(os.getpid())}.{next(self._numbers)}"
        self._remove_left()
        try:
            folder.mkdir()
        except OSError as error:
            _warn(folder, error)
            return None
        try:
            return Group(folder, memory, nice, self._leave)
        except OSError as error:
            self._leave(folder)
            _warn(folder, error)
            return None

    def _leave(self, folder: Path) -> None:
        """To be removed, at a later time if it still has a process."""
        with self._lock:
            self._left.append(folder)
        self._remove_left()

    def _remove_left(self) -> None:
        with self._lock:
            self._left = [each for each in self._left if not _is_removed(each)]


def _warn(folder: Path, error: OSError) -> None:
    _log.warning("no control group for a process: %s: %s", folder, error.strerror)


class Group:
    """The group of one process."""

    def __init__(self, folder: Path, memory: int | None, nice: int, leave: Callable[[Path], None]) -> None:
        """OSError when the limits cannot be set."""
        self.folder, self._leave = folder, leave
        self._memory, self._beside = memory, 0
        if memory is not None:
            self._set("memory.max", memory + BESIDE)
            self._set_if_there("memory.swap.max", 0)
            self._set_if_there("memory.oom.group", 1)
        self._set_if_there("pids.max", MOST_THREADS)
        self._set_if_there("cpu.weight.nice", nice)  # niceness counts within a group only

    def allow(self, beside: int) -> None:
        """So many bytes of other's memory, which count for whoever touches a page first.

        Once allowed is always: what was touched still counts when it is not mapped any more.
        """
        if self._memory is not None and beside > self._beside:
            self._beside = beside
            with suppress(OSError):
                self._set("memory.max", self._memory + BESIDE + beside)

    @property
    def is_exhausted(self) -> bool:
        """Whether something in it was killed for memory."""
        with suppress(OSError):
            lines = (self.folder / "memory.events").read_text().split("\n")
            return any(each.startswith("oom_kill ") and each != "oom_kill 0" for each in lines)
        return False

    def remove(self) -> None:
        """Its process is gone."""
        self._leave(self.folder)

    def _set(self, name: str, value: int) -> None:
        (self.folder / name).write_text(str(value))

    def _set_if_there(self, name: str, value: int) -> None:
        if (self.folder / name).exists():
            self._set(name, value)


def refusal() -> str:
    """Why a daemon that is started where we are has no control groups; empty where it has."""
    try:
        _delegated()
    except Refused as refused:
        return str(refused)
    return ""


def host_groups() -> HostGroups | None:
    """Those of this process, which its daemon has made; None where there are none. In any thread."""
    with _finding:
        return _host_groups()


_finding = Lock()


@cache
def _host_groups() -> HostGroups | None:
    with suppress(Refused):
        own = _own_group()
        if own.name.startswith(_DAEMON):
            programs = own.parent / (_PROGRAMS + own.name.removeprefix(_DAEMON))
            return HostGroups(programs) if programs.is_dir() else None
    return None


# --- where we are ---------------------------------------------------------------------------------------------------


def _own_group(proc: Path = Path("/proc/self")) -> Path:
    """The folder of this process' group."""
    try:
        mounts, groups = (os.fsdecode((proc / each).read_bytes()) for each in ("mountinfo", "cgroup"))
    except OSError as error:
        raise Refused(str(error)) from error
    path = next((line[3:] for line in groups.split("\n") if line.startswith("0::")), None)
    for line in mounts.split("\n"):
        fields, _, kind = line.partition(" - ")
        if path is not None and kind.startswith("cgroup2 "):
            root, place = (re.sub(r"\\(\d{3})", _character, each) for each in fields.split(" ")[3:5])
            if Path(path).is_relative_to(root) and ".." not in Path(path).parts:
                return Path(place) / Path(path).relative_to(root)
    raise Refused("no control groups of version 2 are mounted")


def _character(escaped: re.Match[str]) -> str:
    """As mountinfo has a blank in a name."""
    return chr(int(escaped[1], 8))


def _delegated() -> Path:
    """Our own group, if it is ours to divide."""
    own = _own_group()
    try:
        controllers = (own / "cgroup.controllers").read_text().split()
        others = set((own / "cgroup.procs").read_text().split()) - {str(os.getpid())}
    except OSError as error:
        raise Refused(f"{own}: {error.strerror}") from error
    if CONTROLLERS[0] not in controllers:
        raise Refused(f"{own} has no controller {CONTROLLERS[0]} (only {' '.join(controllers) or 'none'})")
    is_root = not (own / "cgroup.type").exists()
    if not is_root and not _is_marked(own):
        raise Refused(f"{own} was not delegated to this daemon (systemd: Delegate=yes)")
    if not is_root and others:
        raise Refused(f"{own} has other processes: {' '.join(sorted(others)[:5])}")
    return own


def _is_marked(group: Path) -> bool:
    for name in _MARKS:
        with suppress(OSError):
            if os.getxattr(group, name) == b"1":
                return True
    return os.geteuid() != 0 and group.stat().st_uid == os.geteuid()


def _birth(pid: int) -> str:
    """Of which there is no other, ever: the pid, and when the process began (proc(5), stat, field 22)."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return f"{pid}.{stat.rpartition(')')[2].split()[19]}"


# --- groups ---------------------------------------------------------------------------------------------------------


def enter(group: Path) -> None:
    """This process, with all of its threads."""
    (group / "cgroup.procs").write_text("0")


def _share_out(group: Path) -> list[str]:
    """Its controllers to those below it: returns which were not before. OSError if the first cannot be."""
    control, shared_out = group / "cgroup.subtree_control", []
    before = control.read_text().split()
    for each in CONTROLLERS:
        try:
            control.write_text(f"+{each}")
        except OSError:
            if each == CONTROLLERS[0]:
                raise
        else:
            shared_out.append(each)
    return [each for each in shared_out if each not in before]


def _remove_leftovers(parent: Path) -> None:
    """Those of daemons and hosts that are gone."""
    for each in _below(parent):
        born = each.name.removeprefix(_DAEMON).removeprefix(_PROGRAMS).split(".")
        if len(born) in {2, 3} and all(part.isdecimal() for part in born) and not _lives(*born[:2]):
            _remove_below(each)
            _is_removed(each)


def _lives(pid: str, since: str) -> bool:
    try:
        return _birth(int(pid)) == f"{pid}.{since}"
    except OSError:
        return False


def _remove_below(group: Path) -> None:
    for each in _below(group):
        _is_removed(each)


def _below(group: Path) -> Iterator[Path]:
    with suppress(OSError):
        yield from [each for each in group.iterdir() if each.is_dir()]


def _is_removed(group: Path) -> bool:
    """Remove it, with what is in it killed (which takes a moment, so that it may be only the next time)."""
    with suppress(OSError):
        (group / "cgroup.kill").write_text("1")
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
