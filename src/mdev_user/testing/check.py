# ruff: noqa: SLF001 - declarations know each other's underscored names
"""`check`: everything that must hold of a parent driver, tried with what nobody thought of.

What a driver declares says what its guest may see; so a machine can try it. It finds the shortest case that it can, and
prints it as a script.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, TypeVar

from mdev_user.driver.parent import Parent
from mdev_user.errors import DriverError
from mdev_user.testing.accounts import Change
from mdev_user.testing.fresh import FreshInterpreters
from mdev_user.testing.maps import Map, maps
from mdev_user.testing.mutations import Mutation
from mdev_user.testing.operations import Finding, Operation, Setting
from mdev_user.testing.rules import RuleAccess, bar_classes
from mdev_user.testing.script import script
from mdev_user.testing.states import difference
from mdev_user.testing.tasks import Account, AnyParent, Corrupt, Explore, Explored, Played, Point, Resume, Rules

EXAMPLES = 100
SHRINK_SECONDS = 10.0
"""How long a shorter case is looked for, once there is one."""
POINTS = 4
"""Awaits of one case at which the device is saved."""

T = TypeVar("T")


class CheckFailed(AssertionError):
    """A driver does what none may do. The message has what that is, and a script that shows it."""


@dataclass
class Report:
    """What was tried."""

    driver: str
    lines: list[str] = field(default_factory=list)


def check(
    parent: type[Parent[Any]],  # Any: of whatever profile
    *,
    examples: int = EXAMPLES,
    seed: int | None = None,
    preamble: str = "",
) -> Report:
    """Try a parent driver; CheckFailed for the first thing that does not hold.

    Accesses of all sizes follow the declared access rules. Interrupts follow their declared conditions, a busy bit its
    job, a reset leaves what is declared to stay. Saved at any await and loaded into a fresh device in a fresh
    interpreter, the device behaves the same ever after. Damaged states are refused, with the device as it was. What the
    mdevs of a parent take and give back adds up. No exception but GuestError comes out of the driver.

    ``examples`` is how many cases are tried of each kind. They are the same at every run, unless ``seed`` says which.
    ``preamble`` is Python that the interpreters run before they import the driver. Needs hypothesis.
    """
    try:
        from mdev_user.testing import drawing  # noqa: F401, PLC0415 - hypothesis is an extra
    except ImportError as error:
        raise DriverError(
            f"check needs hypothesis, which is not installed ({error}): pip install hypothesis"
        ) from error
    with ExitStack() as stack:
        staying, moved = (stack.enter_context(FreshInterpreters(parent, number, preamble)) for number in (0, 1))
        checks = Checks(parent, staying, moved, examples, seed)
        for each in (checks.rules, checks.accounts, checks.behaviour, checks.states):
            began = monotonic()
            each()
            import os
            if os.environ.get("KIT"): print(each.__name__, monotonic()-began, staying.spent, moved.spent)
        return checks.report


class Checks:
    """One run: the driver, the interpreters, and what was tried."""

    def __init__(
        self, parent: AnyParent, staying: FreshInterpreters, moved: FreshInterpreters, examples: int, seed: int | None
    ) -> None:
        self._parent, self._staying, self._moved = parent, staying, moved
        self._examples, self._seed = examples, seed
        self._maps = maps(parent)
        self._saves = 0
        self.report = Report(parent.__name__)

    def rules(self) -> None:
        """The bare registers of each bar."""
        from mdev_user.testing import drawing  # noqa: PLC0415 - hypothesis is an extra

        bars = bar_classes(self._parent)
        for (unit, name), bar in bars.items():
            slots = bar._layout.slots

            def find(accesses: tuple[RuleAccess, ...], unit: str = unit, name: str = name) -> Finding | None:
                reply = self._staying.do(Rules(unit, name, accesses))
                return reply if isinstance(reply, Finding) else None

            found = self._search(drawing.accesses(bar._size, [slot.offset for slot in slots]), find)
            if found is not None:
                raise CheckFailed(f"{unit}.{name}: {found[1].text}")
        registers = sum(len(bar._layout.slots) for bar in bars.values())
        self.report.lines.append(f"access rules: {registers} registers in {len(bars)} bars")

    def accounts(self) -> None:
        """What mdevs take of the parent, and give back."""
        from mdev_user.testing import drawing  # noqa: PLC0415 - hypothesis is an extra

        def find(changes: tuple[Change, ...]) -> Finding | None:
            reply = self._staying.do(Account(changes))
            return reply if isinstance(reply, Finding) else None

        found = self._search(drawing.changes(len(self._maps)), find)
        if found is not None:
            raise CheckFailed(f"{self._parent.__name__}: {found[1].text}")
        self.report.lines.append(f"accounts: {len(self._maps)} types, {len(self._parent._pools)} pools")

    def behaviour(self) -> None:
        """A device in use, and one that was saved and loaded meanwhile."""
        from mdev_user.testing import drawing  # noqa: PLC0415 - hypothesis is an extra

        found = self._search(drawing.stories(self._maps), lambda story: self._behaves(*story))
        if found is not None:
            self._fail(found[0][0], found[1])
        self.report.lines.append(f"behaviour: {self._examples} cases, saved and loaded {self._saves} times")

    def states(self) -> None:
        """Saved states that were damaged, or made up."""
        from hypothesis import strategies as st  # noqa: PLC0415 - as above

        from mdev_user.testing import drawing  # noqa: PLC0415 - as above

        def find(case: tuple[drawing.Story, tuple[Mutation, ...]]) -> Finding | None:
            (found, before, _after), mutations = case
            reply = self._staying.do(Corrupt(found.setting, before, mutations))
            return reply if isinstance(reply, Finding) else None

        found = self._search(st.tuples(drawing.stories(self._maps, 3, 0), drawing.mutations()), find)
        if found is not None:
            self._fail(found[0][0][0], found[1])
        self.report.lines.append(f"hostile states: {self._examples} cases")

    def _fail(self, found: Map, finding: Finding) -> None:
        raise CheckFailed(told(self._parent, found.setting, finding))

    def _behaves(self, found: Map, before: tuple[Operation, ...], after: tuple[Operation, ...]) -> Finding | None:
        reply = self._staying.do(Explore(found.setting, before, after, POINTS))
        if not isinstance(reply, Explored):
            return reply if isinstance(reply, Finding) else Finding(f"unexpected: {reply}")
        for point in reply.points:
            self._saves += 1
            finding = self._same_ever_after(found.setting, point, after)
            if finding is not None:
                return finding
        return None

    def _same_ever_after(self, setting: Setting, point: Point, after: tuple[Operation, ...]) -> Finding | None:
        went = point.outcome
        if isinstance(went, Finding):
            return Finding(went.text, (*point.done, *(went.after or ())))
        resumed = self._moved.do(Resume(setting, point.checkpoint, after))
        if isinstance(resumed, Finding):
            return Finding(f"in a device that was saved and loaded, {resumed.text}", point.done, resumed.before)
        if not isinstance(resumed, Played):
            return Finding(f"unexpected: {resumed}")
        return _difference(point, went, resumed)

    # Any: a strategy of T, hypothesis being an extra
    def _search(self, strategy: Any, find: Callable[[T], Finding | None]) -> tuple[T, Finding] | None:  # noqa: ANN401
        return search(strategy, find, self._examples, self._seed)


def _difference(point: Point, went: Played, resumed: Played) -> Finding | None:
    """How a device that was loaded is another one than that which was saved."""
    if text := difference(point.checkpoint.state, resumed.again):
        return Finding(f"saved, loaded and saved again at once: {text}", point.done, ())
    moments: list[Operation | None] = [None, *went.operations]
    for number, (one, other) in enumerate(zip(went.seen, resumed.seen, strict=True)):
        for name in ("answer", "refused", "pin", "messages", "memory", "errors"):
            if name == "errors" and not number:
                continue  # what jobs that begin anew run into again
            wanted, given = getattr(one, name), getattr(other, name)
            if wanted != given:
                when = f"at {moments[number]}" if moments[number] else "when its jobs have run"
                text = f"{when}, {name} is {given!r} in the device that was saved and loaded, {wanted!r} in the other"
                return Finding(text, point.done, went.operations[:number])
    for what, one_state, other_state, operations in (
        ("when its jobs have run", went.rested, resumed.rested, ()),
        ("in the end", went.end, resumed.end, went.operations),
    ):
        if text := difference(one_state, other_state):
            return Finding(
                f"{what}, in the device that was saved and loaded {text} as in that which went on",
                point.done,
                operations,
            )
    return None


def told(parent: AnyParent, setting: Setting, finding: Finding) -> str:
    """The message of a failure: what, and how to see it."""
    return f"{parent.__name__}, type {setting.type_name}: {finding.text}\n\n{script(parent, setting, finding)}\n"


# --- the search -------------------------------------------------------------------------------------------------


class _Found(Exception):
    """A case that a finding came of."""


def search(
    strategy: Any,  # noqa: ANN401 - Any: a strategy of T, hypothesis being an extra
    find: Callable[[T], Finding | None],
    examples: int,
    seed: int | None,
    seconds: float = SHRINK_SECONDS,
) -> tuple[T, Finding] | None:
    """The simplest case of a finding that hypothesis comes to, within the time for that; None when there is none."""
    import hypothesis  # noqa: PLC0415 - an extra
    from hypothesis import HealthCheck, Phase  # noqa: PLC0415 - as above

    known: dict[str, Finding] = {}
    last: list[tuple[T, Finding]] = []
    deadline: list[float] = []

    def run(case: T) -> None:
        key = repr(case)
        finding = known.get(key)
        if finding is None and not (deadline and monotonic() > deadline[0]):
            finding = find(case)
        if finding is not None:
            known[key] = finding
            last[:] = [(case, finding)]
            deadline[:] = deadline or [monotonic() + seconds]
            raise _Found

    configured = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=seed is None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    tried: Callable[[], None] = configured(hypothesis.given(strategy)(run))
    if seed is not None:
        tried = hypothesis.seed(seed)(tried)
    try:
        tried()
    except _Found:
        return last[0]
    return None
