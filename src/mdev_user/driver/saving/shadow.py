"""Shadow: the copy of a memory as its reader knows it, with which the memory is compared while its guest goes on.

A guest's stores into mapped memory cannot be seen, so what it changed is what differs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from mdev_user.driver.saving.pages import CHUNK, Place, Run, runs_of, stretches_of, zeros_of
from mdev_user.units import PAGE


@dataclass(frozen=True, slots=True)
class Changed:
    """Pages that are not as the reader knows them."""

    number: int
    """Of the memory."""
    runs: list[Run]
    pages: list[memoryview]

    @property
    def size(self) -> int:
        return len(self.pages) * PAGE


@dataclass(frozen=True, slots=True)
class Budget:
    """How much is done at once: a step of a running device is short, and a record has an end."""

    compared: int
    """Bytes that are compared at a time."""
    found: int
    """Bytes of changed pages at most."""


class Shadow:
    """Of one memory; the reader begins with a memory of zeros."""

    def __init__(self, number: int, place: Place, *, kept: bool) -> None:
        self.number, self.place = number, place
        self.kept = kept
        """Whether there is another pass; for one alone no copy is needed."""
        chunks, rest = divmod(len(place.view), CHUNK)
        self._known = [zeros_of(CHUNK)] * chunks + [zeros_of(rest)] * (rest > 0)
        """Chunk by chunk."""

    def touched(self) -> int:
        """Bytes that a pass over all of it looks at, at most."""
        return sum(end - begin for begin, end in self.place.touched())

    def changed(self, budget: Budget) -> Iterator[Changed | None]:
        """One pass: the pages that have changed since they were last given.

        While there is another pass, so many bytes compared end with what they found, or with None; but not at the end.
        """
        stretches = list(stretches_of(self.place, budget.compared))
        pages: list[int] = []
        found: list[memoryview] = []
        compared = 0
        for begin, end in stretches:
            compared += end - begin
            for start in self._differing(begin, end):
                self._take(start, pages, found)
                if len(found) * PAGE > budget.found - CHUNK:
                    yield Changed(self.number, runs_of(pages), found)
                    pages, found, compared = [], [], 0
            if self.kept and compared >= budget.compared and (begin, end) != stretches[-1]:
                yield Changed(self.number, runs_of(pages), found) if found else None
                pages, found, compared = [], [], 0
        if found:
            yield Changed(self.number, runs_of(pages), found)

    def _differing(self, begin: int, end: int) -> list[int]:
        """The chunks that have changed: the one loop over all of a memory, and most of what a guest waits for."""
        view, known = self.place.view, self._known[begin // CHUNK : -(-end // CHUNK)]
        return [at for at, each in zip(range(begin, end, CHUNK), known, strict=True) if each != view[at : at + CHUNK]]

    def _take(self, start: int, pages: list[int], found: list[memoryview]) -> None:
        """Note the pages of a chunk that have changed, as they are in a copy: what is given is what is known."""
        view, known = self.place.view[start : start + CHUNK], self._known[start // CHUNK]
        if self.kept:
            self._known[start // CHUNK] = chunk = bytearray(view)
            view = memoryview(chunk)
        for at in range(0, len(view), PAGE):
            page = view[at : at + PAGE]
            if not known.startswith(page, at):
                pages.append((start + at) // PAGE)
                found.append(page if self.kept else memoryview(bytes(page)))
