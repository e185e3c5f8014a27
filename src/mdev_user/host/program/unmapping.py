"""How the processes of one device let go of guest memory: all at the same time, within one deadline."""

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event
from time import monotonic
from typing import Protocol

from mdev_user.vfio.dma import DmaMappings, Mapping

UNMAP_SECONDS = 2.0
"""That processes may take to let go of guest memory, and again to die of it: QEMU gives a request up after 5."""


class Holder(Protocol):
    """A process that may have guest memory mapped."""

    def begin_unmap(self, mappings: Sequence[Mapping]) -> "Unmapping | None":
        """Ask it to let go of them. None when it has nothing of them."""

    def let_go(self, ranges: Sequence[tuple[int, int]]) -> None:
        """It has let go of them, or is gone."""

    def end_for(self, fault: str) -> None:
        """Kill it for that."""

    def wait_until_gone(self, until: float) -> None:
        """By ``monotonic``."""


class Program(Protocol):
    """One declared process of the device."""

    def mapped(self, mapping: Mapping) -> None: ...

    @property
    def holder(self) -> Holder | None:
        """The one that runs."""

    def take_ending(self) -> Sequence[Holder]:
        """Those that were killed and may not be dead; each is waited for once."""


@dataclass(frozen=True, slots=True)
class Unmapping:
    """What one process was asked."""

    holder: Holder
    ranges: Sequence[tuple[int, int]]
    answered: Event
    """It has let go of them, or is gone."""


class Together:
    """The device's `MappingWatcher`: one process that hangs costs the guest's VMM as much time as all of them."""

    def __init__(self) -> None:
        self._programs: list[Program] = []

    @classmethod
    def of(cls, dma: DmaMappings) -> "Together":
        """The one of these mappings."""
        for each in dma.watchers:
            if isinstance(each, Together):
                return each
        together = cls()
        dma.watchers = (*dma.watchers, together)
        return together

    def add(self, program: Program) -> None:
        if program not in self._programs:
            self._programs.append(program)

    def mapped(self, mapping: Mapping) -> None:
        for each in self._programs:
            each.mapped(mapping)

    def unmapping(self, mappings: Sequence[Mapping]) -> None:
        holders = [each.holder for each in self._programs]
        asked = [unmap for each in holders if each is not None and (unmap := each.begin_unmap(mappings)) is not None]
        dying = [each for program in self._programs for each in program.take_ending()]
        until = monotonic() + UNMAP_SECONDS
        for unmap in asked:
            if not unmap.answered.wait(max(0.0, until - monotonic())):
                unmap.holder.end_for(f"it did not let go of the guest's memory within {UNMAP_SECONDS:g} s")
                dying.append(unmap.holder)
        until = monotonic() + UNMAP_SECONDS
        for holder in dying:
            holder.wait_until_gone(until)
        for unmap in asked:
            unmap.holder.let_go(unmap.ranges)
