"""The bus against a model of it: any sequence of operations and failures gives the model's mdevs, counts and events."""

import errno
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from typing_extensions import override

from mdev_user.errors import NoSpace, errno_of
from mdev_user.mdev.bus import Bus, _Alone
from mdev_user.mdev.device import Mdev
from mdev_user.mdev.events import Event
from mdev_user.mdev.parent import MdevParent
from unit.mdev.scene import CREATED, FIRST, LAST, REMOVED, UNBOUND, Parent, Scene, check_nothing_left, uuid_of

LIMITS = {"cores": 2, "more": 3}
"""Core-counted parents; "pool" counts for itself."""
CAPACITY = 3
UNITS = {"test-one": 1, "test-two": 2}
DRIVERS = ("test", "second")
"""Names of drivers on the bus; the mdevs are of parents of the first."""

NAMES = st.sampled_from(["cores", "more", "pool"])
UUIDS = st.integers(0, 5)
FAULTS = st.sampled_from(
    [None, None, None, ("create", OSError(errno.ENOMEM, "?")), ("create", RuntimeError()), ("probe", NoSpace("?"))]
)

Line = tuple[str, str, int | None, tuple[str, int] | None]
"""An event: kind, parent, the mdev's number, its binding."""


@dataclass
class Known:
    """What the model knows of an mdev."""

    parent: str
    type_id: str
    binding: tuple[str, int] | None


@dataclass
class Model:
    """The framework in a few lines, without threads, locks or undo."""

    registered: set[str] = field(default_factory=set)
    mdevs: dict[int, Known] = field(default_factory=dict)

    def used(self, parent: str) -> list[Known]:
        return [each for each in self.mdevs.values() if each.parent == parent]

    def free_units(self) -> int:
        return CAPACITY - sum(UNITS[each.type_id] for each in self.used("pool"))

    def available(self, parent: str, type_id: str) -> int:
        if parent in LIMITS:
            return LIMITS[parent] - len(self.used(parent))
        return self.free_units() // UNITS[type_id]

    def free_number(self) -> int:
        taken = {each.binding[1] for each in self.mdevs.values() if each.binding is not None}
        return next(number for number in count() if number not in taken)

    def refusal(self, parent: str, type_id: str, number: int) -> int:
        """The errno of a create that the framework refuses, in the order in which it looks; 0 for none."""
        if type_id not in UNITS:
            return errno.EINVAL
        if number in self.mdevs:
            return errno.EEXIST
        if parent in LIMITS and len(self.used(parent)) >= LIMITS[parent]:
            return errno.EUSERS
        return 0 if parent in self.registered else errno.ENODEV

    def failure(self, parent: str, type_id: str, fault: tuple[str, Exception] | None) -> int:
        """The errno of a create that a driver refuses; 0 for none."""
        if fault is not None and fault[0] == "create":
            return errno_of(fault[1])
        if parent == "pool" and UNITS[type_id] > self.free_units():
            return errno.ENOSPC
        return errno_of(fault[1]) if fault is not None else 0

    def create(self, parent: str, type_id: str, number: int) -> list[Line]:
        binding = (DRIVERS[0], self.free_number())
        self.mdevs[number] = Known(parent, type_id, binding)
        return [(kind, parent, number, None if kind == "MDEV_ADDED" else binding) for kind in CREATED]

    def unbind(self, number: int) -> list[Line]:
        known = self.mdevs[number]
        lines: list[Line] = [(kind, known.parent, number, known.binding) for kind in UNBOUND]
        known.binding = None
        return lines

    def bind(self, number: int, driver: str) -> list[Line]:
        known = self.mdevs[number]
        known.binding = (driver, self.free_number())
        return [(kind, known.parent, number, known.binding) for kind in CREATED[1:4]]

    def remove(self, number: int) -> list[Line]:
        known = self.mdevs.pop(number)
        kinds = REMOVED[:-1] if known.binding else REMOVED[:2]
        return [
            *((kind, known.parent, number, known.binding) for kind in kinds),
            ("MDEV_REMOVED", known.parent, number, None),
        ]


class BusAgainstModel(RuleBasedStateMachine):
    """Every rule predicts errno and events; the invariants compare what is there."""

    def __init__(self) -> None:
        super().__init__()
        self.scene = Scene()
        self.bus = self.scene.bus
        self.bus.subscribe(_fail)
        self.model = Model()
        self.parents: dict[str, MdevParent] = {}
        self.gone: list[Mdev] = []
        self.seen = 0
        for name in (*LIMITS, "pool"):
            self.register(name)

    def register(self, name: str) -> None:
        self.parents[name] = self.bus.register_parent(
            name, Parent(LIMITS.get(name), CAPACITY if name == "pool" else 1000)
        )
        kinds = ("PARENT_REGISTERED",) if self.model.registered else FIRST
        self.model.registered.add(name)
        self.expect_events([(kind, name, None, None) for kind in kinds])

    def expect_events(self, lines: list[Line]) -> None:
        new, self.seen = self.scene.events[self.seen :], len(self.scene.events)
        assert [_line(each) for each in new] == lines
        assert [each.number for each in new] == list(range(self.seen - len(new) + 1, self.seen + 1))

    def expect(self, expected: int, operation: Callable[[], object]) -> None:
        try:
            operation()
        except Exception as error:  # noqa: BLE001 - a driver of the test raises anything
            outcome = errno_of(error)
        else:
            outcome = 0
        assert outcome == expected, f"errno {outcome}, expected {expected}"

    def fail(self, fault: tuple[str, Exception] | None) -> None:
        """Make the drivers fail as ``fault`` says from now on."""
        point, error = fault or ("", RuntimeError())
        for name, parent in self.parents.items():
            assert isinstance(parent.ops, Parent), name
            parent.ops.on_create = _raising(error if point == "create" else None)
            parent.ops.on_remove = _raising(error if point == "remove" else None)
        self.scene.driver.on_probe = _raising(error if point == "probe" else None)
        self.scene.driver.on_remove = _raising(error if point == "driver's remove" else None)

    @rule(parent=NAMES, type_id=st.sampled_from([*UNITS, *UNITS, "test-three"]), number=UUIDS, fault=FAULTS)
    def create(self, parent: str, type_id: str, number: int, fault: tuple[str, Exception] | None) -> None:
        self.fail(fault)
        refused = self.model.refusal(parent, type_id, number)
        failed = 0 if refused else self.model.failure(parent, type_id, fault)
        self.expect(refused or failed, lambda: self.bus.create(self.parents[parent], type_id, uuid_of(number)))
        lines: list[Line] = [(kind, parent, number, None) for kind in ("MDEV_ADDED", "MDEV_REMOVED")]
        if not refused and not failed:
            lines = self.model.create(parent, type_id, number)
        self.expect_events([] if refused else lines)

    @rule(number=UUIDS, fault=st.sampled_from([None, ("remove", RuntimeError()), ("driver's remove", OSError())]))
    def remove(self, number: int, fault: tuple[str, Exception] | None) -> None:
        self.fail(fault)
        known = number in self.model.mdevs
        if known:
            self.gone.append(self.bus.mdev(uuid_of(number)))
        self.expect(0 if known else errno.ENODEV, lambda: self.bus.remove(uuid_of(number)))
        self.expect_events(self.model.remove(number) if known else [])

    @precondition(lambda self: bool(self.model.mdevs))
    @rule(data=st.data(), driver=st.sampled_from(DRIVERS))
    def unbind(self, data: st.DataObject, driver: str) -> None:
        number = data.draw(st.sampled_from(sorted(self.model.mdevs)))
        binding = self.model.mdevs[number].binding
        bound = binding is not None and binding[0] == driver
        self.expect(0 if bound else errno.ENODEV, lambda: self.bus.unbind(self.bus.mdev(uuid_of(number)), driver))
        self.expect_events(self.model.unbind(number) if bound else [])

    @precondition(lambda self: bool(self.model.mdevs))
    @rule(data=st.data(), driver=st.sampled_from([*DRIVERS, "unknown"]), fails=st.booleans())
    def bind(self, data: st.DataObject, driver: str, fails: bool) -> None:
        self.fail(("probe", NoSpace("?")) if fails else None)
        number = data.draw(st.sampled_from(sorted(self.model.mdevs)))
        possible = self.model.mdevs[number].binding is None and driver == DRIVERS[0]
        outcome = errno.ENODEV if not possible else errno.ENOSPC if fails else 0
        self.expect(outcome, lambda: self.bus.bind(self.bus.mdev(uuid_of(number)), driver))
        self.expect_events([] if outcome else self.model.bind(number, driver))

    @precondition(lambda self: bool(self.gone))
    @rule(driver=st.sampled_from(DRIVERS))
    def use_one_that_is_gone(self, driver: str) -> None:
        self.expect(errno.ENODEV, lambda: self.bus.bind(self.gone[-1], driver))
        self.expect(errno.ENODEV, lambda: self.bus.unbind(self.gone[-1], driver))

    @rule(name=NAMES)
    def register_again(self, name: str) -> None:
        if name in self.model.registered:
            self.expect(errno.EEXIST, lambda: self.bus.register_parent(name, Parent()))
        else:
            self.register(name)

    @rule(name=NAMES)
    def unregister(self, name: str) -> None:
        self.bus.unregister_parent(self.parents[name])
        lines: list[Line] = []
        if name in self.model.registered:
            self.model.registered.remove(name)
            lines.append(("PARENT_UNREGISTERING", name, None, None))
            for number in [number for number, each in self.model.mdevs.items() if each.parent == name]:
                lines.extend(self.model.remove(number))
            lines.extend((kind, name, None, None) for kind in (LAST[:1] if self.model.registered else LAST))
        self.expect_events(lines)

    @invariant()
    def mdevs_are_the_models(self) -> None:
        there = {each.uuid.int: (each.parent.name, each.type_id, _binding(each)) for each in self.bus.mdevs()}
        assert there == {n: (each.parent, each.type_id, each.binding) for n, each in self.model.mdevs.items()}
        assert list(there) == list(self.model.mdevs), "they are not in the order of their creation"
        bound = {number for number, each in self.model.mdevs.items() if each.binding}
        assert {each.uuid.int for each in self.scene.driver.bound} == bound

    @invariant()
    def counts_are_the_models(self) -> None:
        assert {each.name for each in self.bus.parents()} == self.model.registered
        for name, parent in self.parents.items():
            assert parent.instances == len(self.model.used(name))
            for type_id, mdev_type in parent.types.items():
                assert self.bus.available(parent, mdev_type) == self.model.available(name, type_id)

    @override
    def teardown(self) -> None:
        for name in sorted(self.model.registered):
            self.unregister(name)
        check_nothing_left(self.scene, *self.parents.values())


def _line(event: Event) -> Line:
    binding = (event.binding.driver, event.binding.number) if event.binding is not None else None
    return event.kind.name, event.parent.name, event.mdev.uuid.int if event.mdev is not None else None, binding


def _binding(mdev: Mdev) -> tuple[str, int] | None:
    return (mdev.binding.driver, mdev.binding.number) if mdev.binding is not None else None


def _raising(error: Exception | None) -> Callable[[Mdev], None]:
    def hook(_mdev: Mdev) -> None:
        if error is not None:
            raise error

    return hook


def _fail(_event: Event) -> None:
    message = "a listener that always fails"
    raise ValueError(message)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The failing listener and drivers would fill the log."""
    monkeypatch.setattr("mdev_user.mdev.bus._log.disabled", True)


def run_model(examples: int) -> None:
    run_state_machine_as_test(
        BusAgainstModel,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            report_multiple_bugs=False,
        ),
    )


def test_bus_behaves_as_its_model() -> None:
    run_model(examples=150)


def _skip(*_arguments: object) -> None:
    """Instead of the line that is taken out."""


@pytest.mark.parametrize(
    ("where", "name", "mutant"),
    [
        (Bus, "_put", _skip),
        (Bus, "_detach", _skip),
        (Bus, "_release_group", _skip),
        (Bus, "unregister_parent", _skip),
        (Bus, "_emit", _skip),
        (Bus, "_alone", lambda *_arguments: _Alone.NOWHERE),
        (MdevParent, "registered", lambda _self: nullcontext()),
        (Parent, "remove", _skip),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_model_sees_what_is_taken_out(
    where: type, name: str, mutant: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, name, mutant)
    with pytest.raises(AssertionError):
        run_model(examples=60)
