"""A folder of the cache outside the tree: built once, by one process, and complete or absent."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from mdev_user.guests.archive import RigError

Progress = Callable[[str], None]
Contents = TypeVar("Contents")
StampKind = TypeVar("StampKind", bound=msgspec.Struct)
_STAMP = "stamp.json"


def cache_folder() -> Path:
    """Where such folders are kept: $MDEV_USER_CACHE, or mdev-user below $XDG_CACHE_HOME or ~/.cache."""
    if own := os.environ.get("MDEV_USER_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mdev-user"


@dataclass(frozen=True, slots=True)
class CachedFolder(Generic[Contents]):
    """How one folder of the cache is found and built."""

    name: str
    """``rig-1``: the number is the layout's version, to be raised when what lies in the folder changes."""
    title: str
    find: Callable[[Path], Contents | None]
    """What the cache has of it; None where it is absent or not complete."""
    fill: Callable[[Path, Progress], None]
    """Fetch and build in an empty folder; the result is to lie there under the name without its number (``rig``)."""

    def build(self, progress: Progress, cache: Path | None = None) -> Contents:
        """What is in the folder, which is built now if need be; ``progress`` gets a line for each long step.

        Safe against a second builder (it waits for the first) and against interruption (the next build sweeps up).

        Raises:
            RigError: it cannot be had here; the text says why.
        """
        cache = (cache or cache_folder()).absolute()
        try:
            if contents := self.find(cache):  # perhaps in a cache that is not ours to write to
                return contents
            cache.mkdir(parents=True, exist_ok=True)
            with self._lock(cache, progress):
                return self.find(cache) or self._build(cache, progress)
        except OSError as error:
            message = f"{self.title} cannot be written to {cache}: {error}"
            raise RigError(message) from error

    @contextmanager
    def _lock(self, cache: Path, progress: Progress) -> Iterator[None]:
        # flock: the kernel releases it however the builder ends
        with (cache / f"{self.name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress(f"waiting for another process that is building {self.title}")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _build(self, cache: Path, progress: Progress) -> Contents:
        building = f"{self.name}.building-"
        for left_behind in cache.glob(f"{building}*"):  # we hold the lock, so its builder is dead
            # Its apt-get may still be writing: then it is the next build's turn.
            shutil.rmtree(left_behind, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=building, dir=cache))
        try:
            self.fill(work, progress)
            final = cache / self.name
            if final.exists():  # of another machine state, or without a stamp
                final.rename(work / "replaced")
            (work / self.name.rpartition("-")[0]).rename(final)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        contents = self.find(cache)
        if contents is None:
            message = f"{self.title} just built in {final} is not usable"
            raise RigError(message)
        return contents


def read_stamp(folder: Path, kind: type[StampKind]) -> StampKind | None:
    """What a complete folder says of itself; None of one that is absent or not complete."""
    try:
        return msgspec.json.decode((folder / _STAMP).read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def write_stamp(folder: Path, stamp: msgspec.Struct) -> None:
    """To be called last: a folder with a stamp is complete."""
    (folder / _STAMP).write_bytes(msgspec.json.format(msgspec.json.encode(stamp)))


def cost(folder: Path, started: float) -> str:
    """``12 MB in 34 s``: how large a folder is, and how long ago ``started`` (of ``time.monotonic``) was."""
    size = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{size / 1e6:.0f} MB in {time.monotonic() - started:.0f} s"
