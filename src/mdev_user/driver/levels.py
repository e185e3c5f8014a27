# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""Levels: the interrupts of one unit in use, which follow its bits at the end of each step."""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from mdev_user.driver.interrupts import Interrupt, Message, Pending
from mdev_user.driver.plan import Plan
from mdev_user.driver.unit import AnyUnit
from mdev_user.pci.interrupts import Interrupts
from mdev_user.regs.refs import Ref
from mdev_user.regs.slots import Condition, Values

_Gate: TypeAlias = tuple[int, Values, int, int, Values, int, int]
"""A bit of the levels; values, register and mask of its pending bit; the same of its enable bit."""

_ALWAYS = ([1], Condition(0, 1, None))


class Causes:
    """The bits of a level that has several: each that is set while the level is up is one more message."""

    __slots__ = ("_condition", "_seen", "_values", "vector")

    def __init__(self, vector: int, values: Values, condition: Condition) -> None:
        self.vector = vector
        self._values, self._condition, self._seen = values, condition, 0

    def new(self) -> bool:
        """Whether bits were set since the last time."""
        bits = self._values[self._condition.index] & self._condition.mask
        fresh, self._seen = bits & ~self._seen, bits
        return fresh != 0


class Levels:
    """Bit n of a number of levels is vector n's, counted from the unit's first; those above only move the pin."""

    __slots__ = ("_causes", "_computed", "_gates", "_interrupts", "_raised", "_vector", "_vectors")

    def __init__(self, interrupts: Interrupts, unit: AnyUnit, plan: Plan, vector: int) -> None:
        """``vector`` is the unit's first."""
        self._interrupts, self._vector, self._raised = interrupts, vector, 0
        self._gates: list[_Gate] = []
        self._computed: list[tuple[int, Callable[[], bool]]] = []
        self._causes: list[Causes] = []
        self._vectors = len(plan.interrupts)
        for number, level in enumerate(plan.levels):
            self._watch(number, level, unit, plan)

    def settle(self) -> None:
        """The end of a step: interrupts follow what it changed."""
        levels = 0
        for bit, values, index, mask, gate, gate_index, gate_mask in self._gates:
            if values[index] & mask and gate[gate_index] & gate_mask:
                levels |= bit
        for bit, is_up in self._computed:
            if is_up():
                levels |= bit
        stayed = levels & self._raised
        if levels != self._raised:
            self._drive(levels)
        for causes in self._causes:
            if causes.new() and stayed >> causes.vector & 1:
                self._interrupts.repeat_level(self._vector + causes.vector)

    def lower(self) -> None:
        """The device is opened anew: nothing is up, and nobody was told."""
        self._raised = 0

    def adopt(self, levels: int) -> None:
        """The device was loaded: of the levels of all its vectors the guest was told already. The pin follows later."""
        own = (1 << self._vectors) - 1
        self._raised = self._raised & ~own | levels >> self._vector & own
        for causes in self._causes:
            causes.new()

    def _drive(self, levels: int) -> None:
        changed, self._raised = levels ^ self._raised, levels
        while changed:
            bit = changed & -changed
            changed ^= bit
            number = bit.bit_length() - 1
            if number >= self._vectors:
                self._drive_pin(up=bool(levels & bit))
            elif levels & bit:
                self._interrupts.raise_level(self._vector + number)
            else:
                self._interrupts.lower_level(self._vector + number)

    def _drive_pin(self, *, up: bool) -> None:
        if up:
            self._interrupts.hold_pin()
        else:
            self._interrupts.release_pin()

    def _watch(self, number: int, interrupt: Interrupt | Message, unit: AnyUnit, plan: Plan) -> None:
        """Let a bit of the levels follow an interrupt; bits that need no more than a mask are the quick case."""
        conditions = [(unit._bars[bar]._values, condition) for bar, condition in plan.conditions[interrupt]]
        pending = interrupt._pending
        if number < self._vectors and isinstance(pending, Ref):
            self._watch_causes(number, *conditions[0])
        if isinstance(pending, Pending) or any(condition.wanted is not None for _values, condition in conditions):
            tests: list[Callable[[], bool]] = [partial(condition.holds, values) for values, condition in conditions]
            if isinstance(pending, Pending):
                tests.append(partial(pending._compute, unit))
            self._computed.append((1 << number, tests[0] if len(tests) == 1 else lambda: all(test() for test in tests)))
            return
        (values, first), (gate, second) = (*conditions, _ALWAYS)[:2]
        self._gates.append((1 << number, values, first.index, first.mask, gate, second.index, second.mask))

    def _watch_causes(self, number: int, values: Values, pending: Condition) -> None:
        if pending.wanted is None and pending.mask & (pending.mask - 1):
            self._causes.append(Causes(number, values, pending))
