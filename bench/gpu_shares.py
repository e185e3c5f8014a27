"""How the drawing engine is shared: what three mdevs draw, that want all they can get, and how soon a change is felt.

What each has drawn is read from its ``drawn``, in sysfs, one after the other. The host is where the kernel puts it.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from gpu_scene import PARENT, Mdev, busy, drawing, set_policy, update_price
from served import Daemon

WEIGHTS = (1, 2, 4)
NAMES = ("A", "B", "C")
FULL = (8, 4, 4)
"""All of a parent's weights, 16: what a fixed share is measured with, since then there is nothing left over."""
LIMIT = 30
"""Frames a second of the one that is held back."""
NEAR = 0.1
"""What a share may differ from what it has to be, as a part of it."""
_SETTLE, _LONG, _TICK, _TURNS = 0.1, 0.3, 0.05, 4
_WINDOW, _WINDOWS = 2, 3
"""Ticks in which a share has to be near what it is to be, and how often, until it counts as followed."""
_LONGEST = 5.0


class Sample(NamedTuple):
    """What each has drawn so far, in pixels; seconds since the beginning."""

    at: float
    drawn: tuple[int, ...]


class Change(NamedTuple):
    """What was changed, when."""

    at: float
    what: str


@dataclass
class Course:
    """What was drawn in the course of some changes."""

    samples: list[Sample] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)


@dataclass(frozen=True)
class Measured:
    """One round. Shares are parts of all that was drawn."""

    shares: Sequence[float]
    """By weights 1:2:4."""
    together: float
    """Pixels a second of all three."""
    alone: float
    """Pixels a second of one, while the others do not draw."""
    fixed: "InTurn"
    """Under fixed share."""
    equal: "InTurn"
    """Under equal share."""
    weight_felt: float
    """Seconds from the write of a weight until the shares are near the new ones."""
    limit_felt: float
    """Of a frame-rate limit, until it holds."""


class Rates(NamedTuple):
    """What was drawn in a second, and what part of it the busiest thread of the host worked: the one that draws."""

    drawn: Sequence[float]
    worked: float


@dataclass(frozen=True)
class InTurn:
    """Of all three, and of the last one alone. How much is drawn meanwhile is up to the caches, too."""

    together: Rates
    alone: Rates


class ShareRounds:
    """Three mdevs and those who draw on them, started."""

    def __init__(self, stack: ExitStack, daemon: Daemon, cores: Sequence[int]) -> None:
        self._daemon = daemon
        self._mdevs = [Mdev.created(daemon) for _ in NAMES]
        self._update = update_price(self._mdevs[2], cores[-1])
        self._guests = [stack.enter_context(drawing(each, cores[-1])) for each in self._mdevs]
        self._began = time.monotonic()

    def round(self) -> Measured:
        self._reset()
        with busy(*self._guests):
            time.sleep(_SETTLE)
            weight_felt = self._felt(lambda: self._mdevs[0].set(weight=8), _near((8, 2, 4)))
            limit_felt = self._felt(
                lambda: self._mdevs[2].set(frame_rate_limit=LIMIT), _keeps_to(2, LIMIT * self._update)
            )
        self._reset()
        best_effort = self._in_turn()
        self._fix()
        fixed = self._in_turn()
        set_policy(self._daemon, "equal_share")
        equal = self._in_turn()
        together = best_effort.together.drawn
        return Measured(
            shares=[each / sum(together) for each in together],
            together=sum(together),
            alone=best_effort.alone.drawn[2],
            fixed=fixed,
            equal=equal,
            weight_felt=weight_felt,
            limit_felt=limit_felt,
        )

    def _in_turn(self) -> InTurn:
        """While all draw, and while only the last does: for short times, again and again."""
        together, alone = list[Rates](), list[Rates]()
        for _ in range(_TURNS):
            with busy(*self._guests):
                together.append(self._rates())
            with busy(self._guests[2]):
                alone.append(self._rates())
        return InTurn(_mean(together), _mean(alone))

    def course(self, seconds: float) -> Course:
        """A course of changes, each after so many seconds."""
        self._reset()
        first, _second, third = self._mdevs
        course, guests = Course(), self._guests
        steps: list[tuple[str, Callable[[], None]]] = [
            ("weights 1:2:4", lambda: None),
            ("A: weight 8", lambda: first.set(weight=8)),
            (f"C: {LIMIT} frames/s", lambda: third.set(frame_rate_limit=LIMIT)),
            ("B stops", guests[1].pause),
            ("B draws", guests[1].go_on),
            ("fixed share 8:4:4", self._fix),
            ("A stops", guests[0].pause),
        ]
        with busy(*guests):
            time.sleep(_SETTLE)
            self._began = time.monotonic()
            for what, change in steps:
                course.changes.append(Change(self._now(), what))
                change()
                self._sample(course.samples, course.changes[-1].at + seconds)
        self._reset()
        return course

    def _fix(self) -> None:
        """Fixed share, of a parent that is full."""
        for each, weight in zip(self._mdevs, FULL, strict=True):
            each.set(weight=weight, frame_rate_limit=0)
        set_policy(self._daemon, "fixed_share")

    def _reset(self) -> None:
        set_policy(self._daemon, "best_effort")
        for each, weight in zip(self._mdevs, WEIGHTS, strict=True):
            each.set(weight=weight, frame_rate_limit=0)

    def _rates(self) -> Rates:
        time.sleep(_SETTLE)
        before, worked = self._look(), self._worked()
        time.sleep(_LONG)
        after, works = self._look(), self._worked()
        longest = max(seconds - worked.get(thread, 0.0) for thread, seconds in works.items())
        return Rates(rates(before, after), longest / (after.at - before.at))

    def _worked(self) -> dict[str, float]:
        """Seconds that each thread of the host has had of a processor (Documentation/scheduler/sched-stats.rst)."""
        tasks = Path(f"/proc/{self._daemon.host_of(PARENT)}/task").iterdir()
        return {each.name: int((each / "schedstat").read_text().split()[0]) / 1e9 for each in tasks}

    def _felt(self, change: Callable[[], None], is_felt: Callable[[list[float]], bool]) -> float:
        """Seconds from the end of the change until what it is to do is seen, in several windows one after the other."""
        change()
        began, samples, seen = self._now(), [self._look()], 0
        while seen < _WINDOWS and self._now() - began < _LONGEST:
            time.sleep(_TICK)
            samples.append(self._look())
            felt = len(samples) > _WINDOW and is_felt(rates(samples[-1 - _WINDOW], samples[-1]))
            seen = seen + 1 if felt else 0
        return samples[-_WINDOWS].at - began if seen == _WINDOWS else _LONGEST

    def _sample(self, samples: list[Sample], until: float) -> None:
        while self._now() < until:
            samples.append(self._look())
            time.sleep(max(0.0, min(until - self._now(), samples[-1].at + _TICK - self._now())))

    def _look(self) -> Sample:
        return Sample(self._now(), tuple(each.drawn for each in self._mdevs))

    def _now(self) -> float:
        return time.monotonic() - self._began


def rates(before: Sample, after: Sample) -> list[float]:
    """Units a second of each."""
    seconds = after.at - before.at
    return [(late - early) / seconds for early, late in zip(before.drawn, after.drawn, strict=True)]


def _mean(several: Sequence[Rates]) -> Rates:
    drawn = [mean(each) for each in zip(*(each.drawn for each in several), strict=True)]
    return Rates(drawn, mean(each.worked for each in several))


def distance(parts: Sequence[float], weights: Sequence[int]) -> float:
    """By how much the parts differ from those by weight, at most, as a part of what they have to be."""
    return (
        max(abs(part / sum(parts) * sum(weights) / weight - 1) for part, weight in zip(parts, weights, strict=True))
        if sum(parts)
        else 1.0
    )


def _near(weights: Sequence[int]) -> Callable[[list[float]], bool]:
    return lambda drawn: distance(drawn, weights) <= NEAR


def _keeps_to(number: int, most: float) -> Callable[[list[float]], bool]:
    return lambda drawn: drawn[number] <= most * (1 + NEAR)
