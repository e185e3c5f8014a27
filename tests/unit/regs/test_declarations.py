"""Mistakes in declarations: each is an error when the class is created, and says what to do."""

from collections.abc import Callable
from enum import Enum, IntEnum
from typing import Any

import pytest

from mdev_user.errors import DriverError
from mdev_user.regs.arrays import Each, RegisterFile
from mdev_user.regs.bar import Bar
from mdev_user.regs.fields import Field, Flag
from mdev_user.regs.kinds import RO, RW, UNIMPL, WO
from mdev_user.regs.registers import U8, U16, U32, U64, Register


class Lcr(Register, size=1):
    dlab = Flag(7)


class Parity(IntEnum):
    NONE = 0
    ODD = 1


class Colour(Enum):
    RED = 0
    BLUE = 1


def overlap() -> None:
    class Regs(Bar, index=0, size=64):
        length, result = U32(0x18), U32(0x1A)


def two_read_only() -> None:
    class Regs(Bar, index=0, size=64):
        one, other = U32(0, RO), U32(0, RO)


def overflow() -> None:
    class Regs(Bar, index=0, size=16):
        last = U64(12)


def size_no_power_of_two() -> None:
    class Regs(Bar, index=0, size=4000):
        pass


def size_missing() -> None:
    class Regs(Bar, index=0):
        pass


def index_missing() -> None:
    class Regs(Bar, size=64):
        pass


def index_too_high() -> None:
    class Regs(Bar, index=6, size=64):
        pass


def declared_twice() -> None:
    class Regs(Bar, index=0, size=64):
        one = other = U32(0)


def field_past_the_width() -> None:
    class Status(Register, size=1):
        level = Field(6, 3)


def fields_overlap() -> None:
    class Status(Register):
        level, done = Field(0, 4), Flag(3)


def field_twice() -> None:
    class Status(Register):
        one = other = Flag(3)


def odd_register_size() -> None:
    class Status(Register, size=3):
        pass


def register_not_placed() -> None:
    Lcr()


def bank_of_another_bar() -> None:
    class Other(Bar, index=1, size=8, io=True):
        lcr = Lcr.at(3)

    class Regs(Bar, index=0, size=8, io=True):
        lcr = Lcr.at(3)
        dll = U8(0, bank=Other.lcr.dlab)


def bank_not_placed() -> None:
    class Regs(Bar, index=0, size=8, io=True):
        dll = U8(0, bank=Lcr.dlab)


def bank_placed_twice() -> None:
    class Regs(Bar, index=0, size=8, io=True):
        one, other = Lcr.at(3), Lcr.at(4)
        dll = U8(0, bank=Lcr.dlab)


def bank_no_reference() -> None:
    U8(0, bank=True)  # type: ignore[arg-type]  # the mistake


def reset_too_wide() -> None:
    U16(0, reset=0x10000)


def offset_no_number() -> None:
    U16("0")  # type: ignore[arg-type]  # the mistake


def access_no_kind() -> None:
    U16(0, "ro")  # type: ignore[arg-type]  # the mistake


def field_kind_no_type() -> None:
    Field(0, 2, "ro")  # type: ignore[call-overload]  # the mistake


def field_of_a_strange_type() -> None:
    Field(0, 2, str)


def enumeration_with_gaps() -> None:
    class Line(Register, size=1):
        parity = Field(0, 2, Parity)

    class Regs(Bar, index=0, size=16):
        line = Line.at(0)


def enumeration_without_the_reset_value() -> None:
    class Line(Register, size=1):
        parity = Field(0, 2, Parity, RO)

    class Regs(Bar, index=0, size=16):
        line = Line.at(0, reset=2)


def enumeration_too_wide() -> None:
    class Line(Register):
        parity = Field(0, 13, Parity)

    class Regs(Bar, index=0, size=16):
        line = Line.at(0)


class Queue(RegisterFile):
    tail = U32(0)
    head = U32(4)


def stride_too_small() -> None:
    Each(Queue, at=0, count=2, stride=4)


def array_of_nothing() -> None:
    Each(Queue, at=0, count=0)


def array_of_a_bar() -> None:
    Each(Bar, at=0, count=1)  # type: ignore[type-var]  # the mistake


def array_in_an_array() -> None:
    class Outer(RegisterFile):
        inner = Each(Queue, at=0, count=2)


def array_past_the_bar() -> None:
    class Regs(Bar, index=0, size=64):
        queue = Each(Queue, at=0, count=9)


def name_of_the_base() -> None:
    class Base(Bar, index=0, size=64):
        status = U32(0)

    class Regs(Base):
        status = U32(4)


def written_condition() -> None:
    class Regs(Bar, index=0, size=64):
        status = U32(0)

    Regs.status.equals(3).encode(True)


class Control(Register):
    mode = Field(0, 2, Colour, RO)
    level = Field(2, 3)
    on = Flag(7)


class Controlled(Bar, index=0, size=64):
    control = Control.at(0)


def value_of_an_enumeration() -> None:
    Controlled.control.mode.equals(1)  # type: ignore[arg-type]  # the mistake


def name_of_an_enumeration() -> None:
    Controlled.control.mode.equals("Colour.BLU")  # type: ignore[arg-type]  # the mistake


def value_of_no_member() -> None:
    Control.mode.equals(3)  # type: ignore[arg-type]  # the mistake


def value_too_wide() -> None:
    Controlled.control.level.equals(8)


def value_negative() -> None:
    U8(0).equals(-1)


def value_no_number() -> None:
    Controlled.control.level.equals("1")  # type: ignore[arg-type]  # the mistake


def value_no_bool() -> None:
    Controlled.control.on.equals(2)  # type: ignore[arg-type]  # the mistake


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (overlap, "Regs.result at 0x1a overlaps length at 0x18 (4 bytes); expected places of their own"),
        (two_read_only, "Regs.other at 0x0 overlaps one at 0x0"),
        (overflow, "Regs.last ends at 0x14, past the bar's 0x10 bytes; expected an offset of at most 0x8, given 0xc"),
        (size_no_power_of_two, "Regs: size: expected a power of two of bytes, given 0xfa0"),
        (size_missing, "Regs: size: expected a power of two of bytes, given 0x0"),
        (index_missing, "Regs: index (class Regs(Bar, index=..., size=...)): expected a number from 0x0 to 0x5"),
        (index_too_high, "expected a number from 0x0 to 0x5, given 0x6"),
        (declared_twice, "Regs: other and one are one register: declare each of its own"),
        (field_past_the_width, "Status.level: bits 6 to 8 do not fit in 8 bits; declare class Status(Register, size="),
        (fields_overlap, "Status.done: bit 3 is level's already"),
        (field_twice, "Status: other and one are one field"),
        (odd_register_size, "Status: size is 1, 2, 4 or 8 bytes, given 3"),
        (register_not_placed, "Lcr() is not placed: say Lcr.at(offset)"),
        (
            bank_of_another_bar,
            "Regs.dll: bank=Other.lcr.dlab: expected a bit of a register that is placed, once, in Re",
        ),
        (bank_not_placed, "Regs.dll: bank=dlab: expected a bit of a register that is placed"),
        (bank_placed_twice, "Regs.dll: bank=dlab: expected a bit of a register that is placed, once"),
        (bank_no_reference, "bank: expected a bit of a register, such as Lcr.dlab, given True"),
        (reset_too_wide, "the reset value of a register of 2 bytes: expected a number from 0x0 to 0xffff, given 0x100"),
        (offset_no_number, "a register's offset: expected a number from 0x0 to 0xffffffffff, given '0'"),
        (access_no_kind, "access: expected one of RW, RO, WO, RW1C, RW1S, RC, RSVD, UNIMPL, given 'ro'"),
        (field_kind_no_type, "Field: expected a type and an access kind (RW, RO, ...), given 'ro'"),
        (field_of_a_strange_type, "a field's type: expected bool, int or an Enum of ints, given <class 'str'>"),
        (enumeration_with_gaps, "Line.parity: Parity has no member for 2, which can be in these bits; add one"),
        (enumeration_without_the_reset_value, "Line.parity: Parity has no member for 2"),
        (enumeration_too_wide, "Line.parity: an enumeration has at most 12 bits, given 13: use int"),
        (stride_too_small, "an array's stride: expected a number from 0x8"),
        (array_of_nothing, "an array's count: expected a number from 0x1"),
        (array_of_a_bar, "Each: expected a Register or RegisterFile class"),
        (array_in_an_array, "Outer.inner: an array cannot be part of an array; place it in the bar"),
        (array_past_the_bar, "Regs.queue[8].tail ends at 0x44, past the bar's 0x40 bytes"),
        (name_of_the_base, "Regs.status: the base class has a register of this name already"),
        (
            value_of_an_enumeration,
            "Controlled.control.mode.equals: expected a Colour, given 1; did you mean Colour.BLUE?",
        ),
        (name_of_an_enumeration, "expected a Colour, given 'Colour.BLU'; did you mean Colour.BLUE?"),
        (value_of_no_member, "mode.equals: expected a Colour, given 3; there are: Colour.BLUE, Colour.RED"),
        (value_too_wide, "Controlled.control.level.equals: expected a number from 0x0 to 0x7, given 0x8"),
        (value_negative, "equals: expected a number from 0x0 to 0xff, given -0x1"),
        (value_no_number, "Controlled.control.level.equals: expected an int, given '1'"),
        (value_no_bool, "Controlled.control.on.equals: expected True or False, given 2"),
        (written_condition, "Regs.status is a condition: it can be tested, not written"),
    ],
)
def test_mistake_is_told(declare: Callable[[], None], message: str) -> None:
    with pytest.raises(DriverError) as raised:
        declare()
    assert message in str(raised.value)


class Line(Register, size=1):
    colour = Field(0, 1, Colour)
    level = Field(1, 3)
    done = Flag(7)


class Regs(Bar, index=0, size=64):
    line = Line.at(0)
    number = U32(4)
    later = U16(8, UNIMPL)
    doorbell = U32(12, WO)
    queue = Each(Queue, at=16, count=2)


class Again(Regs, index=3):
    extra = U8(63)


def in_use(bar: type[Any]) -> Any:  # Any: undeclared names are set on it
    return bar._on(list(bar._layout.resets), 0)


def test_places_know_their_name_and_type() -> None:
    names = [str(ref) for ref in (Regs.line.colour, Regs.number, Regs.queue.tail, Again.number, Line.done)]
    assert names == ["Regs.line.colour", "Regs.number", "Regs.queue.tail", "Again.number", "done"]
    assert Regs.line.colour.decode(1) is Colour.BLUE
    assert Regs.line.colour.encode(Colour.BLUE) == 1
    assert (Regs.line.level.lsb, Regs.line.level.width, Regs.line.level.mask) == (1, 3, 0xE)
    assert Regs.queue.tail.place.repeated
    assert not Regs.number.place.repeated


def test_conditions_are_of_the_same_bits() -> None:
    assert [Regs.line.level.any.decode(bits) for bits in (0, 1, 4)] == [False, True, True]
    assert [Regs.line.level.equals(4).decode(bits) for bits in (0, 1, 4)] == [False, False, True]
    assert [ref.is_bit for ref in (Regs.line.done, Regs.line.level.any, Regs.line.done.equals(False))] == [
        True,
        False,
        False,
    ]


def test_values_have_the_types_of_their_fields() -> None:
    regs = Regs._on(list(Regs._layout.resets), 0)
    regs.line.colour, regs.line.level, regs.line.done = Colour.BLUE, 5, True
    assert (regs.line.colour, regs.line.level, regs.line.done) == (Colour.BLUE, 5, True)
    assert int(regs.line) == 0x8B
    assert repr(regs.line) == "<Line colour=<Colour.BLUE: 1> level=5 done=True>"


def test_values_are_cut_to_their_width() -> None:
    regs = Regs._on(list(Regs._layout.resets), 0)
    regs.number = -1
    regs.line.level = 9
    assert (regs.number, regs.line.level, int(regs.line)) == (0xFFFF_FFFF, 1, 2)


def test_bar_inherits_registers_at_another_index() -> None:
    regs = Again._on(list(Again._layout.resets), 0)
    regs.number, regs.extra, regs.queue[1].head = 1, 2, 3
    assert (Again._number, Regs._number) == (3, 0)
    assert [slot.name for slot in Again._layout.slots][-3:] == ["queue[1].tail", "queue[1].head", "extra"]
    assert regs._values[-2:] == [3, 2]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nubmer", "Regs has no register nubmer; did you mean number?"),
        ("line", "Regs.line has fields or elements: set one of those"),
        ("zzz", "Regs has no register zzz; there are: doorbell, later, line, number, queue"),
    ],
)
def test_undeclared_register_cannot_be_set(name: str, message: str) -> None:
    with pytest.raises(AttributeError) as raised:
        setattr(in_use(Regs), name, 1)
    assert message in str(raised.value)


def test_undeclared_field_cannot_be_set() -> None:
    with pytest.raises(AttributeError, match="Line has no field dnoe; did you mean done"):
        in_use(Regs).line.dnoe = True


def test_plain_register_can_be_the_bank() -> None:
    class Paged(Bar, index=0, size=16):
        page = U8(0, RW)
        first = U8(1, bank=page.equals(1))
        second = U8(1, bank=page.equals(2))

    assert [[slot.name for slot in each] for each in Paged._layout.reads.candidates] == [
        ["page"],
        ["first", "second"],
        [],
    ]
