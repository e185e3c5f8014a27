"""Looks after the files of parent drivers and has a parent reloaded when its own has changed.

The file's time, size and inode are looked at a few times a second: an editor may write it in place or put another one
in its place, and may be half-way through when it is seen. A file is loaded when it has been the same for one look.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

_log = logging.getLogger(__name__)

_PERIOD = 0.1
"""Seconds between two looks."""
_MOMENT = 1.0
"""Seconds that the end of the daemon waits for a reload under way."""

Look = tuple[int, int, int] | None
"""What tells one version of a file from another; None while there is none."""


@dataclass(frozen=True)
class Loaded:
    """A driver's file, and what it was when it was loaded."""

    path: Path
    look: Look


class FileWatch:
    """Calls ``changed`` with the name of each parent whose file has changed, from a thread of its own."""

    def __init__(self, files: Callable[[], Mapping[str, Loaded]], changed: Callable[[str], None]) -> None:
        """``files`` are those of the parents that there are, by the name of the parent."""
        self._files = files
        self._changed = changed
        self._seen: dict[str, Look] = {}
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="reload", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """No more changes are told. A reload that hangs is left alone: it ends with its host."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(_MOMENT)

    def settled(self) -> Iterable[str]:
        """The parents whose file is another one than was loaded, and the same as at the last look."""
        files = self._files()
        before, self._seen = self._seen, {name: look(each.path) for name, each in files.items()}
        for name, now in self._seen.items():
            if now is not None and now == before.get(name) and now != files[name].look:
                yield name

    def _run(self) -> None:
        while not self._stopping.wait(_PERIOD):
            for name in self.settled():
                if not self._stopping.is_set():
                    self._changed(name)


def look(path: Path) -> Look:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
