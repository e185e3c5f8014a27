"""The management of many: thousands of mdevs on many parents, listed, and beside a create that takes its time."""

import errno
import multiprocessing
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from parents import SLOW_SECONDS
from programs import CannotMeasure
from served import Daemon, memory_folder, served

_PARENTS = Path(__file__).parent / "parents.py"
_HOSTS = 4
_WRITERS = 8
_CONTESTED = 500
"""UUIDs that every writer writes: exactly one of them may succeed."""
_FORK = multiprocessing.get_context("fork")

Target = tuple[str, str]
"""The path of a `create` file, and the UUID to be written to it."""


@dataclass(frozen=True)
class Flood:
    """Creates by all writers at once. ``tmpfs_seconds`` is for as many files of 36 bytes, by as many writers."""

    mdevs: int
    seconds: float
    tmpfs_seconds: float


@dataclass(frozen=True)
class Walk:
    """One `find` over the whole tree, and over a copy of its names in tmpfs."""

    nodes: int
    seconds: float
    tmpfs_seconds: float


@dataclass(frozen=True)
class Neighbours:
    """Seconds of each create, remove and read on other parents, idle and while one parent's create sleeps."""

    idle: list[float]
    beside: list[float]
    slow_seconds: float


@dataclass(frozen=True)
class Measured:
    flood: Flood
    walk: Walk
    neighbours: Neighbours
    remove_seconds: float


def measure(mdevs: int, parents: int) -> Measured:
    """``mdevs`` created at once on ``parents`` parents, walked, and removed; and the neighbours of a slow parent."""
    names = [f"p{number}" for number in range(parents)]
    many = [f"{_PARENTS}:Many,name={name},host=h{number % _HOSTS}" for number, name in enumerate(names)]
    with served([*many, f"{_PARENTS}:Slow,name=slow"]) as daemon, _in_memory() as folder:
        tree = daemon.sysfs()
        targets = _targets(tree, names, mdevs)
        flood = Flood(mdevs, _flood(targets), _flood(_files(folder, targets)))
        _check(daemon, tree, targets)
        walk = _walk(tree, folder)
        remove_seconds = _in_parallel(_remove_all, [list(each) for each in _dealt(targets)])
        _check(daemon, tree, [])
        neighbours = _neighbours(tree, names)
    return Measured(flood, walk, neighbours, remove_seconds)


# --- creates ---------------------------------------------------------------------------------------------------


def _targets(tree: Path, names: Sequence[str], mdevs: int) -> list[Target]:
    files = [str(tree / "class/mdev_bus" / name / "mdev_supported_types/small-slot/create") for name in names]
    return [(files[number % len(files)], str(uuid4())) for number in range(mdevs)]


def _files(folder: Path, targets: Sequence[Target]) -> list[Target]:
    (folder / "files").mkdir()
    return [(str(folder / "files" / uuid), uuid) for _file, uuid in targets]


def _dealt(targets: Sequence[Target]) -> Iterator[Sequence[Target]]:
    for writer in range(_WRITERS):
        yield targets[writer::_WRITERS]


def _flood(targets: Sequence[Target]) -> float:
    contested, own = targets[:_CONTESTED], targets[_CONTESTED:]
    return _in_parallel(_create_all, [[*contested, *each] for each in _dealt(own)])


def _in_parallel(work: Any, shares: Sequence[Sequence[Target]]) -> float:  # noqa: ANN401 - a function of one share
    """Seconds until the last of the writers is through with its share; they begin together."""
    ready = _FORK.Barrier(len(shares) + 1)
    writers = [_FORK.Process(target=_writer, args=(ready, work, share)) for share in shares]
    for each in writers:
        each.start()
    ready.wait()
    began = time.perf_counter()
    for each in writers:
        each.join()
    seconds = time.perf_counter() - began
    if any(each.exitcode for each in writers):
        raise CannotMeasure("a writer failed")
    return seconds


def _writer(ready: Any, work: Any, share: Sequence[Target]) -> None:  # noqa: ANN401 - as `_in_parallel`
    ready.wait()
    work(share)


def _create_all(share: Sequence[Target]) -> None:
    for file, uuid in share:
        try:
            _write(file, uuid)
        except FileExistsError:
            continue


def _remove_all(share: Sequence[Target]) -> None:
    for file, uuid in share:
        _write(f"{os.path.dirname(file)}/devices/{uuid}/remove", "1")  # noqa: PTH120 - thousands of times


def _write(path: str, text: str) -> None:
    """As a shell's echo does: open, write, close."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _check(daemon: Daemon, tree: Path, targets: Sequence[Target]) -> None:
    """None is lost and none is there twice: on the bus, and with a socket each."""
    expected = sorted(uuid for _file, uuid in targets)
    listed = sorted(each.name for each in (tree / "bus/mdev/devices").iterdir())
    sockets = sorted(each.parent.name for each in (daemon.run_dir / "devices").glob("*/vfio-user.sock"))
    by_type = sorted(each.name for each in tree.glob("class/mdev_bus/p*/mdev_supported_types/*/devices/*"))
    if not listed == sockets == by_type == expected:
        raise CannotMeasure(f"expected {len(expected)} mdevs: {len(listed)}, {len(sockets)}, {len(by_type)}")


# --- a walk ----------------------------------------------------------------------------------------------------


def _walk(tree: Path, folder: Path) -> Walk:
    copy = folder / "tree"
    nodes = _copy_names(tree, copy)
    return Walk(nodes, _find(tree), _find(copy))


def _copy_names(tree: Path, copy: Path) -> int:
    """The same directories, links, and empty files; how many nodes that are."""
    copy.mkdir()
    listed = subprocess.run(
        ["find", tree, "-mindepth", "1", "-printf", r"%y\t%P\t%l\n"], capture_output=True, check=True
    )
    lines = listed.stdout.decode().splitlines()
    for line in lines:
        kind, path, target = line.split("\t")
        _MAKE[kind](f"{copy}/{path}", target)
    return len(lines)


_MAKE: dict[str, Callable[[str, str], object]] = {
    "d": lambda path, _target: os.mkdir(path),  # noqa: PTH102 - thousands of times, as below
    "l": lambda path, target: os.symlink(target, path),  # noqa: PTH211
    "f": lambda path, _target: os.mknod(path),
}


def _find(where: Path) -> float:
    began = time.perf_counter()
    subprocess.run(["find", where], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


# --- neighbours of a slow create ---------------------------------------------------------------------------------


def _neighbours(tree: Path, names: Sequence[str]) -> Neighbours:
    idle = _operate(tree, names, SLOW_SECONDS)
    writing = threading.Thread(target=_write_slowly, args=(tree,))
    writing.start()
    began = time.perf_counter()
    beside = _operate(tree, names, SLOW_SECONDS - 0.2)
    if not writing.is_alive():
        raise CannotMeasure("the slow create ended before its neighbours did")
    writing.join()
    return Neighbours(idle, beside, time.perf_counter() - began)


def _write_slowly(tree: Path) -> None:
    _write(str(tree / "class/mdev_bus/slow/mdev_supported_types/slow-slot/create"), str(uuid4()))


def _operate(tree: Path, names: Sequence[str], seconds: float) -> list[float]:
    """A create, a read and a remove, on one parent after the other, each timed."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    number = 0
    while time.perf_counter() < end:
        of_type = tree / "class/mdev_bus" / names[number % len(names)] / "mdev_supported_types/small-slot"
        uuid = str(uuid4())
        for path, text in ((f"{of_type}/create", uuid), (f"{of_type}/devices/{uuid}/remove", "1")):
            began = time.perf_counter()
            _write(path, text)
            times.append(time.perf_counter() - began)
        began = time.perf_counter()
        (of_type / "available_instances").read_text()
        times.append(time.perf_counter() - began)
        number += 1
    return times


@contextmanager
def _in_memory() -> Iterator[Path]:
    where = memory_folder()
    if where is None:
        raise CannotMeasure(f"no tmpfs to compare with: {os.strerror(errno.ENOENT)}")
    folder = Path(tempfile.mkdtemp(prefix="mdev-user-bench-", dir=where))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
