"""The whole transcript once more, against a daemon of ours."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from golden import surroundings
from golden.comparing import parts_of_answer, parts_of_events
from golden.feed import Feed
from golden.hold import Holder
from golden.machine import Machine, Root
from golden.modules import Modules
from golden.normal import Uevent, skipped
from golden.races import RACES
from golden.transcript import STRETCHES, Answer, Step, Stretch
from mdev_user.guests.rig import Rig
from mdev_user.testing.daemon import RunningDaemon

Events: TypeAlias = Mapping[str, Sequence[Uevent]]

CORE = "load-core"
"""The step with which the daemon starts."""


@dataclass
class Replayed:
    """One step as it went here."""

    step: Step
    answer: Answer
    events: list[Uevent] = field(default_factory=list)


class Replay:
    """A daemon, which its steps start, and the steps: each is executed in a process that is not the daemon."""

    def __init__(self, rig: Rig, folder: Path, preamble: str = "") -> None:
        """``folder`` is empty. ``preamble`` is Python that the daemon's front runs first: how a test breaks it."""
        self._rig = rig
        surroundings.build(folder)
        self._daemon = RunningDaemon(preamble=f"{surroundings.preamble(folder)}\n{preamble}")
        self._feed = Feed(self._daemon.control)
        self._modules = Modules(self._daemon, self._feed)

    def run(self, steps: Sequence[Step]) -> list[Replayed]:
        """`CORE`, with which the daemon starts, must be among them."""
        first = next(index for index, step in enumerate(steps) if step.name == CORE) + 1
        with ExitStack() as stack:
            stack.push(self._daemon)  # not entered, which would start it
            root = stack.enter_context(Root(self._rig, self._modules))
            with Machine(root.path) as machine:
                done = [self._step(machine, step) for step in steps[:first]]
            with Machine(root.path, surroundings.shown(self._daemon.sys)) as machine:
                return [*done, *self._held(machine, steps[first:])]

    def _held(self, machine: Machine, steps: Sequence[Step]) -> list[Replayed]:
        done, holder = [], Holder(machine, self._daemon)
        try:
            for step in steps:
                holder.before(step.name)
                done.append(self._step(machine, step))
                holder.after(step.name)
        finally:
            holder.close()
        return done

    def _step(self, machine: Machine, step: Step) -> Replayed:
        return Replayed(step, machine.step(step.cmd), self._feed.take())


def compare(done: Sequence[Replayed], recorded: Events) -> Mapping[str, list[str]]:
    """What differs, by the step's name, of every step that is not skipped."""
    events = _parts_of_events(done, recorded)
    return {
        each.step.name: [*parts_of_answer(each.step, each.answer), *events.get(each.step.name, ())]
        for each in done
        if skipped(each.step) is None
    }


def _parts_of_events(done: Sequence[Replayed], recorded: Events) -> Mapping[str, list[str]]:
    """By the name of the step of which they are told."""
    parts = {}
    for stretch, steps in _stretches(done):
        kernel = recorded.get(stretch.recorded, [])
        ours = [event for each in steps for event in each.events]
        parts[stretch.last] = parts_of_events(kernel, ours[-len(kernel) :] if stretch.only_end else ours)
    return parts


def _stretches(done: Sequence[Replayed]) -> Iterator[tuple[Stretch, Sequence[Replayed]]]:
    """Each with its steps; a step that is in none has one of its own, but for those whose events were not recorded."""
    names, inside = [each.step.name for each in done], set[str]()
    for stretch in STRETCHES:
        if {stretch.first, stretch.last} <= set(names):
            steps = done[names.index(stretch.first) : names.index(stretch.last) + 1]
            inside |= {each.step.name for each in steps}
            yield stretch, steps
    for each in done:
        name = each.step.name
        if name not in inside and each.step.cmd[0] not in RACES:
            yield Stretch(name, name, name, ""), [each]
