"""Looks after the files of parent drivers and has a parent reloaded when its own has changed.

The file's time, size and inode are looked at a few times a second: an editor may write it in place or put another one
in its place, and may be half-way through when it is seen. A file is loaded when it has been the same for one look.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from threading import Event, Thread

_log = logging.getLogger(__name__)

_PERIOD = 0.1
"""Seconds between two looks."""

Look = tuple[int, int, int] | None
"""What tells one version of a file from another; None while there is none."""


class FileWatch:
    """Calls ``changed`` with the name of each parent whose file has changed, from a thread of its own."""

    def __init__(self, files: Callable[[], Mapping[str, Path]], changed: Callable[[str], None]) -> None:
        """``files`` are those of the parents that there are, by the name of the parent."""
        self._files = files
        self._changed = changed
        self._loaded: dict[str, Look] = {}
        self._seen: dict[str, Look] = {}
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="reload", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def settled(self) -> Iterable[str]:
        """The parents whose file is another one than was loaded, and the same as at the last look."""
        seen, self._seen = self._seen, {name: look(path) for name, path in self._files().items()}
        for name, now in self._seen.items():
            loaded = self._loaded.setdefault(name, now)
            if now is not None and now == seen.get(name) and now != loaded:
                self._loaded[name] = now
                yield name

    def _run(self) -> None:
        while not self._stopping.wait(_PERIOD):
            for name in self.settled():
                self._changed(name)


def look(path: Path) -> Look:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
