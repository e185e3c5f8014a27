"""A guest's device that is copied, saved and loaded: by the protocol of vfio-user's clients, without a socket."""

import pytest

from drivers import everything
from drivers.everything import Regs
from mdev_user.driver import KiB, MiB, StateError
from mdev_user.drivers.mdpy import Mdpy
from mdev_user.testing import Guest
from mdev_user.units import PAGE

Card = everything.Card
BUFFER = 1


def test_a_device_goes_on_elsewhere_in_the_midst_of_a_job() -> None:
    with Guest(Card, "two") as guest, Guest(Card, "two") as other:
        guest.write(Regs.wait, 3)
        guest.write(Regs.go, 2)
        guest.advance(1.5)
        other.load(guest.save())
        for each in (guest, other):
            assert len(each.device.jobs) == 1
            each.advance(3.4)
            assert not each.read(Regs.status.fault)
            each.advance(0.2)
            assert each.read(Regs.status.fault)


def test_time_stands_still_while_a_device_is_stopped_and_no_longer() -> None:
    with Guest(Card, "one") as guest:
        guest.write(Regs.go, 2)
        guest.advance(0.5)
        guest.save()
        guest.advance(0.8)
        assert guest.read(Regs.status.fault)


def test_only_what_has_changed_is_copied_again() -> None:
    with Guest(Card, "one") as guest, Guest(Card, "one") as other:
        guest.write_mapped(BUFFER, 0, b"a" * PAGE)
        guest.write_mapped(BUFFER, PAGE, b"b" * PAGE)
        copied = guest.copy()
        assert copied > 2 * PAGE
        assert guest.copy() == 0
        guest.write_mapped(BUFFER, PAGE, b"c")
        stream = guest.save()
        assert PAGE < len(stream) - copied < 2 * PAGE
        other.load(stream)
        assert other.read_bytes(BUFFER, 0, PAGE + 2) == b"a" * PAGE + b"cb"


def test_a_reset_ends_the_copy() -> None:
    with Guest(Card, "one") as guest, Guest(Card, "one") as other:
        guest.copy(10)
        guest.reset()
        other.load(guest.save())
        assert other.device.save() == guest.device.save()


@pytest.mark.parametrize("most", [1, 7, MiB])
def test_a_stream_may_come_in_any_pieces(most: int) -> None:
    with Guest(Card, "one") as guest, Guest(Card, "one") as other:
        guest.write(Regs.source, 0x1234)
        stream = guest.save(most)
        other.load(*(stream[at : at + most] for at in range(0, len(stream), most)))
        assert other.read(Regs.source) == 0x1234


def test_a_stream_that_is_refused_leaves_the_device_stopped_until_another_comes() -> None:
    with Guest(Card, "one") as guest, Guest(Card, "two") as other:
        other.write_mapped(BUFFER, 0, b"mine")
        before = other.device.save()
        with pytest.raises(StateError, match="type"):
            other.load(guest.save())
        assert other.device.save() == before
        other.load(guest_of_two())
        assert other.read_bytes(BUFFER, 0, 4) == b"\0\0\0\0"


def guest_of_two() -> bytes:
    with Guest(Card, "two") as guest:
        return guest.save()


def test_memory_that_nobody_touched_is_not_sent() -> None:
    with Guest(Mdpy) as guest:
        assert len(guest.save()) < 4 * KiB
