"""Heads, pictures and damage as an author declares them, and as those who look are told."""

from dataclasses import dataclass
from struct import pack

import pytest
from typing_extensions import override

from mdev_user.driver import (
    AR24,
    U8,
    U32,
    XB24,
    Alias,
    Bar,
    DriverError,
    Function,
    Instances,
    KiB,
    Memory,
    Parent,
    PciId,
    Picture,
    Plane,
    PlaneType,
    Pointer,
    Profile,
    Rect,
    on_write,
)  # fmt: skip
from mdev_user.errors import InvalidValue, NoDevice, NotSupported
from mdev_user.testing import Guest

IDENTITY = PciId(vendor=0x1234, device=1, class_code=0x038000)


@dataclass(frozen=True)
class Kind(Profile):
    count: int = 2


class Regs(Bar, index=0, size=4096):
    lit = U32(0x00)
    resets = U32(0x04)
    wide = U32(0x08, reset=8)


class Lamp(Function[Kind]):
    """Two heads of one colour each: that of ``lit`` in the first byte, and its head in the second."""

    identity = IDENTITY
    regs = Regs()
    tells_damage = True

    @property
    @override
    def heads(self) -> int:
        return self.profile.count

    @override
    def picture(self, head: int) -> Picture | None:
        regs = self.regs
        if not regs.lit:
            return None
        image = Picture(1, 1, 4, AR24, b"\xff\xff\xff\xff")
        return Picture(8, 2, 4 * regs.wide, XB24, pack("<BBH", regs.lit & 255, head, 0) * 16, Pointer(image, 7, 1))

    @on_write(Regs.lit)
    def light(self, colour: int) -> None:
        self.regs.lit = colour
        self.damaged(1, Rect(1, 0, colour & 7, 1))

    @on_write(Regs.resets)
    def reset_by_register(self, _value: int) -> None:
        self.reset_device()


class Lamps(Parent[Kind]):
    function = Lamp
    count = Instances(4)
    types = {"two": Kind(), "none": Kind(0)}


class PanelRegs(Bar, index=2, size=4096):
    primary, cursor, same = U8(0), U8(1), U8(2)


class Plain(Function[Kind]):
    """Says what a VMM draws, and nothing else."""

    identity = IDENTITY
    memory = Memory(index=0, size=16 * KiB)
    cursor = Memory(index=9, size=4 * KiB)
    window = Alias(memory, index=10)
    regs = PanelRegs()

    @override
    def plane(self, kind: PlaneType) -> Plane | None:
        regs = self.regs
        if kind == PlaneType.PRIMARY or regs.same:
            return Plane(10, 4, 3, 20, 60) if regs.primary else None
        return Plane(9 if regs.cursor == 1 else 2, 1, 1, 4, 4, AR24, 2, 1, 0, 0) if regs.cursor else None


class Plains(Parent[Kind]):
    function = Plain
    count = Instances(4)
    types = {"one": Kind()}


class Blind(Function[Kind]):
    identity = IDENTITY
    regs = Regs()


class Blinds(Parent[Kind]):
    function = Blind
    count = Instances(4)
    types = {"one": Kind()}


# --- pictures ---------------------------------------------------------------------------------------------------


def test_each_head_has_its_picture() -> None:
    with Guest(Lamps) as guest:
        assert guest.screenshot() is None
        guest.write(Regs.lit, 200)
        for head in (0, 1):
            shot = guest.screenshot(head)
            assert shot is not None
            assert (shot.width, shot.height, shot.rgb) == (8, 2, bytes((200, head, 0)) * 16)
            assert shot.pixel(7, 1) == (200, head, 0)
        with_pointer = guest.screenshot(pointer=True)
        assert with_pointer is not None
        assert (with_pointer.pixel(7, 1), with_pointer.pixel(6, 1)) == ((255, 255, 255), (200, 0, 0))


def test_a_head_that_is_not_there_is_refused() -> None:
    with Guest(Lamps) as guest, pytest.raises(InvalidValue, match="head 2: expected 0 to 1"):
        guest.screenshot(2)
    for parent, kind in ((Lamps, "none"), (Blinds, "one")):
        with Guest(parent, kind) as guest:
            with pytest.raises(NotSupported, match="no screen"):
                guest.screenshot()
            with pytest.raises(NotSupported, match="no screen"):
                guest.watch_damage()


def test_who_closed_the_device_shows_nothing() -> None:
    with Guest(Lamps) as guest:
        guest.close()
        with pytest.raises(NoDevice, match="nobody has it open"):
            guest.screenshot()


def test_a_picture_that_is_none_is_the_drivers_mistake_and_not_the_guests() -> None:
    with Guest(Lamps) as guest:
        guest.write(Regs.lit, 1)
        guest.write(Regs.wide, 7)
        with pytest.raises(DriverError, match="stride of 28"):
            guest.screenshot()
        assert guest.errors == 0


def test_a_plane_is_a_picture_for_nothing() -> None:
    with Guest(Plains) as guest:
        assert guest.screenshot() is None
        guest.write(PanelRegs.primary, 1)
        guest.write_mapped(0, 20 * 2 + 4 * 3, b"\1\2\3\4")
        guest.write_mapped(0, 20 * 2 + 4 * 4, b"\5\6\7\0")
        shot = guest.screenshot()
        assert shot is not None
        assert (shot.width, shot.height, shot.pixel(3, 2), sum(shot.rgb)) == (4, 3, (3, 2, 1), 6)


def test_a_plane_of_a_cursor_is_the_pointer() -> None:
    with Guest(Plains) as guest:
        guest.write(PanelRegs.primary, 1)
        guest.write(PanelRegs.cursor, 1)
        guest.write_mapped(9, 0, b"\x10\x20\x30\xff")
        shot, pointed = guest.screenshot(), guest.screenshot(pointer=True)
        assert shot is not None
        assert pointed is not None
        assert (shot.pixel(2, 1), pointed.pixel(2, 1)) == ((0, 0, 0), (0x30, 0x20, 0x10))
        assert guest.screenshot() == shot, "the device's own picture has no pointer in it"


def test_the_same_plane_for_both_has_no_pointer() -> None:
    """As mdpy, which does not look at what it is asked for."""
    with Guest(Plains) as guest:
        guest.write(PanelRegs.primary, 1)
        guest.write(PanelRegs.same, 1)
        assert guest.screenshot(pointer=True) == guest.screenshot()


def test_a_plane_where_no_memory_is_is_refused() -> None:
    with Guest(Plains) as guest:
        guest.write(PanelRegs.primary, 1)
        guest.write(PanelRegs.cursor, 2)
        with pytest.raises(DriverError, match="plane in region 2"):
            guest.screenshot()


# --- damage -----------------------------------------------------------------------------------------------------


def test_damage_that_is_told_is_taken() -> None:
    with Guest(Lamps) as guest:
        first, second = guest.watch_damage(0), guest.watch_damage(1)
        assert (first.take(), second.take()) == (None, None)
        guest.write(Regs.lit, 3)
        assert (first.take(), second.take(), second.take()) == ((), (Rect(1, 0, 3, 1),), ())


def test_damage_that_is_not_told_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of the one above."""
    monkeypatch.setattr(Function, "damaged", lambda *_arguments: None)
    with pytest.raises(AssertionError):
        test_damage_that_is_told_is_taken()


def test_resets_closing_and_opening_damage_everything() -> None:
    with Guest(Lamps) as guest:
        damage = guest.watch_damage()
        for change in (guest.reset, guest.close, guest.open, lambda: guest.write(Regs.resets, 1)):
            damage.take()
            assert damage.take() == ()
            change()
            assert damage.take() is None, change


def test_a_loaded_state_damages_everything() -> None:
    with Guest(Lamps) as source, Guest(Lamps) as target:
        source.write(Regs.lit, 3)
        damage = target.watch_damage()
        damage.take()
        target.load(source.save())
        assert damage.take() is None
        assert target.screenshot() == source.screenshot()


def test_nobody_knows_what_is_drawn_into_mapped_memory() -> None:
    with Guest(Plains) as guest:
        damage = guest.watch_damage()
        assert (damage.take(), damage.take()) == (None, None)


def test_without_watchers_nothing_is_kept() -> None:
    with Guest(Lamps) as guest:
        guest.watch_damage(1).close()
        guest.write(Regs.lit, 3)
        assert not guest._vfio.damage.watched
