# ruff: noqa: SLF001 - declarations know each other's underscored names
"""The checks of one driver, each a search for a case that fails."""

from collections.abc import Callable, Iterator, Mapping
from random import Random

from mdev_user.regs.bar import Bar
from mdev_user.testing.conformance import drawing
from mdev_user.testing.conformance.accounts import Change
from mdev_user.testing.conformance.comparison import same_ever_after
from mdev_user.testing.conformance.drawing import Story
from mdev_user.testing.conformance.fresh import FreshInterpreters
from mdev_user.testing.conformance.maps import maps
from mdev_user.testing.conformance.mutations import Mutation
from mdev_user.testing.conformance.operations import CheckFailed, Finding, Operation, Step, Write
from mdev_user.testing.conformance.rules import RuleAccess, bar_classes
from mdev_user.testing.conformance.script import script
from mdev_user.testing.conformance.search import Search, without_some
from mdev_user.testing.conformance.streams import Tampering
from mdev_user.testing.conformance.tasks import Account, AnyParent, Corrupt, Explore, Explored, Resume, Rules, Task

POINTS = 4
"""Awaits of one case at which the device is saved."""

Hostile = tuple[Story, tuple[Mutation, ...], tuple[Tampering, ...]]


class Checks:
    """Each check answers with what it tried, and raises CheckFailed for what does not hold."""

    def __init__(
        self,
        parent: AnyParent,
        staying: FreshInterpreters,
        moved: FreshInterpreters,
        search: Search,
        options: Mapping[str, str] | None = None,
    ) -> None:
        """A device goes on in ``staying``, and is loaded in ``moved``; ``options`` are those of every parent."""
        self._parent, self._staying, self._moved, self._search = parent, staying, moved, search
        self._options = dict(options or {})
        self._maps = maps(parent, self._options)
        self._saves = 0

    def all(self) -> tuple[Callable[[], str], ...]:
        """The quick ones first."""
        return self.rules, self.accounts, self.behaviour, self.states

    def rules(self) -> str:
        """The bare registers of each bar."""
        bars = bar_classes(self._parent)
        for (unit, name), bar in bars.items():
            self._check_bar(unit, name, bar)
        registers = sum(len(bar._layout.slots) for bar in bars.values())
        return f"access rules: {registers} registers in {len(bars)} bars, {self._search.examples} cases each"

    def accounts(self) -> str:
        """What mdevs take of the parent, and give back."""

        def draw(random: Random) -> tuple[Change, ...]:
            return drawing.changes(random, len(self._maps))

        failure = self._search(draw, lambda changes: self._found(Account(changes, self._options)), without_some)
        if failure is not None:
            raise CheckFailed(f"{self._parent.__name__}: {failure.finding.text}")
        return f"accounts: {len(self._maps)} types, {len(self._parent._pools)} pools, {self._search.examples} cases"

    def behaviour(self) -> str:
        """A device in use, and one that was saved and loaded meanwhile."""
        failure = self._search(lambda random: drawing.story(random, self._maps), self._behaves, _shorter)
        if failure is not None:
            raise self._failed(failure.case, failure.finding)
        return f"behaviour: {self._search.examples} cases, saved and loaded {self._saves} times"

    def states(self) -> str:
        """Saved states and migration streams that were damaged, or made up."""

        def find(case: Hostile) -> Finding | None:
            (found, before, _after), mutations, tamperings = case
            return self._found(Corrupt(found.setting, before, mutations, tamperings))

        def draw(random: Random) -> Hostile:
            return drawing.story(random, self._maps, 4, 0), drawing.mutations(random), drawing.tamperings(random)

        failure = self._search(draw, find, _shorter_hostile)
        if failure is not None:
            raise self._failed(failure.case[0], failure.finding)
        return f"hostile states: {self._search.examples} cases"

    def _check_bar(self, unit: str, name: str, bar: type[Bar]) -> None:
        places = [slot.offset for slot in bar._layout.slots]

        def draw(random: Random) -> tuple[RuleAccess, ...]:
            return drawing.accesses(random, bar._size, places)

        failure = self._search(draw, lambda accesses: self._found(Rules(unit, name, accesses)), without_some)
        if failure is not None:
            raise CheckFailed(f"{unit}.{name}: {failure.finding.text}")

    def _behaves(self, story: Story) -> Finding | None:
        found, before, after = story
        reply = self._staying.do(Explore(found.setting, before, after, POINTS))
        if not isinstance(reply, Explored):
            return reply if isinstance(reply, Finding) else Finding(f"unexpected: {reply}")
        for point in reply.points:
            if isinstance(point.outcome, Finding):
                return _without_saving(point.outcome)
            self._saves += 1
            resumed = self._moved.do(Resume(found.setting, point.outcome.checkpoint, after))
            if finding := same_ever_after(point, point.outcome.played, resumed, len(after)):
                return finding
        return None

    def _found(self, task: Task) -> Finding | None:
        reply = self._staying.do(task)
        return reply if isinstance(reply, Finding) else None

    def _failed(self, story: Story, finding: Finding) -> CheckFailed:
        setting = story[0].setting
        shown = script(self._parent, setting, finding)
        return CheckFailed(f"{self._parent.__name__}, type {setting.type_name}: {finding.text}\n\n{shown}\n")


def _without_saving(finding: Finding) -> Finding:
    """Of a device that went on after it was saved, and would have done the same without."""
    return Finding(finding.text, (*finding.before, *(finding.after or ())))


def _shorter(story: Story) -> Iterator[Story]:
    found, before, after = story
    for fewer in without_some(after):
        yield found, before, fewer
    single = tuple(each for one in before for each in ([Step(1)] * one.count if isinstance(one, Step) else [one]))
    for less in without_some(single):
        yield found, less, after
    for simpler in _simpler(after):
        yield found, before, simpler
    for simpler in _simpler(single):
        yield found, simpler, after


def _simpler(operations: tuple[Operation, ...]) -> Iterator[tuple[Operation, ...]]:
    """The operations with a smaller value in one of the writes."""
    for at, each in enumerate(operations):
        if isinstance(each, Write):
            value, size = int.from_bytes(each.data, "little"), len(each.data)
            for smaller in sorted({0, 1, 4, value >> 8 * size // 2, value & (1 << 4 * size) - 1}):
                if smaller < value:
                    write = Write(each.region, each.offset, smaller.to_bytes(size, "little"))
                    yield (*operations[:at], write, *operations[at + 1 :])


def _shorter_hostile(case: Hostile) -> Iterator[Hostile]:
    story, mutations, tamperings = case
    for fewer in without_some(mutations):
        yield story, fewer, tamperings
    for left in without_some(tamperings):
        yield story, mutations, left
    for less in _shorter(story):
        yield less, mutations, tamperings
