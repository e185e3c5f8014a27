"""Levels with several causes: each bit that is set while the level is up is one more message."""

from typing import Any

import pytest

from mdev_user.driver import MSI, U32, Bar, Function, Interrupt, PciId, Profile, pending
from mdev_user.driver.levels import Levels
from mdev_user.vfio.requests import Irq
from unit.driver.bench import Bench


class Regs(Bar, index=0, size=64):
    causes, mode = U32(0), U32(4)


class Base(Function[Profile]):
    identity = PciId(vendor=0x1DE5, device=9, class_code=0x120000)
    vectors = MSI(1)
    regs = Regs()


class Ungated(Base):
    irq = Interrupt(Regs.causes.any)


class Gated(Base):
    irq = Interrupt(Regs.causes.any, enable=Regs.mode.any)


class Compared(Base):
    irq = Interrupt(Regs.causes.any, enable=Regs.mode.equals(1))


class OneCause(Base):
    """A comparison is one cause, of however many bits."""

    irq = Interrupt(Regs.causes.equals(3), enable=Regs.mode.any)


class ComputedCause(Base):
    @pending
    def any_cause(self) -> bool:
        return self.regs.causes != 0

    irq = Interrupt(any_cause, enable=Regs.mode.any)


@pytest.mark.parametrize("kind", [Ungated, Gated, Compared])
def test_each_cause_is_told_however_the_level_is_enabled(kind: type[Function[Any]]) -> None:  # Any: whatever profile
    bench = Bench(kind)
    (wire,) = bench.arm(Irq.MSI)
    bench.write(4, 1)
    for causes, told in ((1, 1), (1, 0), (3, 1), (2, 0), (7, 1), (0, 0), (4, 1)):
        bench.write(0, causes)
        assert wire.take() == told, causes


@pytest.mark.parametrize("kind", [Gated, Compared])
def test_causes_of_a_level_that_is_not_enabled_are_not_told(kind: type[Function[Any]]) -> None:  # Any: as above
    bench = Bench(kind)
    (wire,) = bench.arm(Irq.MSI)
    bench.write(0, 1)
    bench.write(0, 3)
    assert wire.take() == 0
    bench.write(4, 1)
    assert wire.take() == 1


@pytest.mark.parametrize("kind", [OneCause, ComputedCause])
def test_what_is_one_condition_is_told_once(kind: type[Function[Any]]) -> None:  # Any: as above
    bench = Bench(kind)
    (wire,) = bench.arm(Irq.MSI)
    bench.write(4, 1)
    bench.write(0, 3)
    bench.write(4, 3)
    assert wire.take() == 1


def test_causes_that_are_not_watched_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control."""
    monkeypatch.setattr(Levels, "_watch_causes", lambda *_arguments: None)
    with pytest.raises(AssertionError):
        test_each_cause_is_told_however_the_level_is_enabled(Compared)
