"""Backends: what a parent makes once, and all its mdevs share."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Barrier, Thread
from typing import Any, Generic, TypeVar

import pytest
from typing_extensions import override

from mdev_user.driver import (
    RO,
    U32,
    Attribute,
    Bar,
    Claim,
    Device,
    DriverError,
    Engine,
    Function,
    Parent,
    Part,
    Parts,
    PciId,
    Pool,
    Profile,
    Share,
    StateError,
    job,
    on_read,
)
from mdev_user.driver.backend import backend_of
from mdev_user.mdev.device import Mdev
from mdev_user.testing import Guest


@dataclass(frozen=True)
class Slice(Profile):
    lanes: int


class Board:
    """A real device, as far as a test needs one."""

    made = 0

    def __init__(self) -> None:
        Board.made += 1
        self.number = Board.made
        self.is_open = True


class Regs(Bar, index=0, size=64):
    number = U32(0, RO)


class Port(Part[Slice, Board]):
    regs = Regs()

    @on_read(Regs.number)
    def ask(self) -> int:
        return self.backend.number


class Sample(Function[Slice, Board]):
    identity = PciId(vendor=0x1DE5, device=4, class_code=0x120000)
    ports = Parts(Port, count=1)


class Card(Parent[Slice, Board]):
    function = Sample
    lanes = Pool(4)
    types = {"1": Slice(1)}

    @override
    def open(self) -> Board:
        return Board()

    @override
    def close(self, backend: Board) -> None:
        assert backend.is_open
        backend.is_open = False


def test_all_mdevs_of_a_parent_share_one_and_another_parent_has_its_own() -> None:
    with Guest(Card) as guest, Guest(Card) as other:
        board = guest.device.backend
        assert guest.part("ports").read(Regs.number) == board.number == guest.device.function.backend.number
        second = guest.parent.create(guest._mdev)
        assert second.backend is board
        assert other.device.backend is not board
        guest.parent.remove(guest._mdev)
    assert not board.is_open


def test_creates_at_the_same_time_make_one() -> None:
    made, card, found = Board.made, Card(), list[Device]()
    with Guest(Card) as guest:
        mdev, start = guest._mdev, Barrier(4)

        def create() -> None:
            start.wait(10)
            found.append(card.create(mdev))

        threads = [Thread(target=create) for _each in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(10)
    assert len({id(each.backend) for each in found}) == 1
    assert Board.made == made + 2


def test_parent_that_cannot_make_it_has_no_mdev_and_takes_nothing() -> None:
    class Broken(Card):
        is_there = False

        @override
        def open(self) -> Board:
            if not self.is_there:
                raise OSError("no such device")
            return Board()

    broken = Broken()
    with Guest(Card) as guest:
        mdev: Mdev = guest._mdev
        for _each in range(9):
            with pytest.raises(OSError, match="no such device"):
                broken.create(mdev)
        broken.end_backend()  # there is none
        broken.is_there = True
        assert broken.create(mdev).backend.is_open


def test_function_without_one_has_none() -> None:
    class Plain(Function[Slice]):
        identity = Sample.identity

    class Plains(Parent[Slice]):
        function = Plain
        lanes = Pool(1)
        types = {"1": Slice(1)}

    with Guest(Plains) as guest:
        assert guest.device.function.backend is None


# --- mistakes ---------------------------------------------------------------------------------------------------


def parent(base: Any, kind: Any, **members: object) -> Callable[[], object]:  # Any: subscripted classes, mistaken ones
    namespace = {"function": kind, "lanes": Pool(1), "types": {"1": Slice(1)}, **members}

    def make() -> object:
        class Wrong(base):  # type: ignore[misc]  # Any
            locals().update(namespace)

        return Wrong

    return make


class Other(Part[Slice, Engine]):
    pass


class OfTwo(Function[Slice, Board]):
    identity = Sample.identity
    others = Parts(Other, count=1)


class Sharing(Function[Slice]):
    identity = Sample.identity
    drawing = Share(2)


def opened(_parent: object) -> None: ...


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (parent(Parent[Slice, Board], Sample), "Wrong: the backend of Sample is Board: define def open"),
        (parent(Parent[Slice], Sample, open=opened), "of Sample is Board, that of Wrong None: say the same"),
        (parent(Parent[Slice, Engine], Sample, open=opened), "of Sample is Board, that of Wrong Engine"),
        (parent(Parent[Slice, Board], OfTwo, open=opened), "Other: its backend is Engine, and that of OfTwo Board"),
        (parent(Parent[Slice], Sharing), "the backend of Sharing is an Engine, of which it has a Share: define"),
        (lambda: Share(0), "Share: weight: expected a number of at least 1"),
        (lambda: Share(Attribute(4)), "Share: weight: .* an attribute that can be None: say its range"),
        (lambda: Share(frame_rate=Attribute(4, range=(-1, 4))), "Share: frame_rate: .* can be -1: say its range"),
    ],
)
def test_mistakes_are_told_when_the_class_is_made(make: Callable[[], object], told: str) -> None:
    with pytest.raises(DriverError, match=told):
        make()


class Weighed(Function[Slice, Engine]):
    identity = Sample.identity
    weight = Attribute(2, range=(1, 16))
    drawing = Share(weight)


def test_share_by_another_classs_attribute_is_told() -> None:
    with pytest.raises(DriverError, match=r"Foreign\.drawing: expected an attribute of Foreign, given weight"):

        class Foreign(Function[Slice, Engine]):
            identity = Sample.identity
            drawing = Share(Weighed.weight)


def test_part_has_no_share() -> None:
    with pytest.raises(DriverError, match="a part has no shares; give them to the function"):

        class Wrong(Part[Slice, Engine]):
            drawing = Share()


def test_backend_that_has_no_engine_is_told_at_the_first_create() -> None:
    class Plain(Function[Slice, Board]):
        identity = Sample.identity
        drawing = Share()

    class Boards(Card):
        function = Plain  # type: ignore[assignment]  # another one of the same brackets

    with pytest.raises(DriverError, match=r"Plain\.drawing: expected a backend that is an Engine, or engine="):
        Guest(Boards)


def test_backend_is_found_through_any_base() -> None:
    kind = TypeVar("kind")

    class Between(Function[Slice, Board]):
        identity = Sample.identity

    class Last(Between, Generic[kind]):
        pass

    assert [backend_of(each, Function) for each in (Sample, Between, Last, Sharing)] == [Board, Board, Board, None]


# --- accounts ---------------------------------------------------------------------------------------------------


class Counting(Function[Slice, Engine]):
    identity = Sample.identity
    regs, drawing = Regs(), Share(2)

    @on_read(Regs.number)
    def begin(self) -> int:
        self.draw()
        return self.drawing.turns

    @job()
    async def draw(self) -> None:
        async with self.drawing.turn(2.5):
            pass
        await self.drawing.frame()


class Countings(Parent[Slice, Engine]):
    function = Counting
    lanes = Pool(4)
    types = {"1": Slice(1)}

    @override
    def open(self) -> Engine:
        return Engine()


def test_accounts_go_with_the_state_and_outlive_resets() -> None:
    with Guest(Countings) as guest, Guest(Countings) as other:
        guest.read(Regs.number)
        guest.run()
        guest.reset()
        other.load(guest.save())
        assert other.read(Regs.number) == 1
        other.run()
        drawing: Claim = other.device.function._state["drawing"]
        assert (drawing.given, drawing.turns, drawing.frames) == (5.0, 2, 2)


@pytest.mark.parametrize("number", [-1.0, float("nan"), float("inf")])
def test_accounts_that_cannot_be_are_refused(number: float) -> None:
    with Guest(Countings) as guest, Guest(Countings) as other:
        guest.device.function._settings["drawing"].given = number
        with pytest.raises(StateError, match="expected numbers from 0"):
            other.load(guest.save())
