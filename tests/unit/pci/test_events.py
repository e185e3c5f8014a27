"""Messages that were sent, held back beside those of levels that share their vector or their message."""

import pytest

from mdev_user.pci.interrupts import Interrupts
from unit.pci.test_interrupts import MSI, MSIX, Guest


def held_back(log2_vectors: int) -> Guest:
    guest = Guest()
    guest.enable_msi(log2_vectors)
    guest.command(0)
    return guest


@pytest.mark.parametrize(("log2_vectors", "level"), [(2, 1), (0, 2)])
def test_an_event_is_not_lost_with_a_level_that_shares_its_message(log2_vectors: int, level: int) -> None:
    guest = held_back(log2_vectors)
    guest.function.fire(1)
    guest.function.raise_level(level)
    guest.function.lower_level(level)
    guest.enable_msi(log2_vectors)
    assert guest.take() == [(MSI, 1 if log2_vectors else 0)]


def test_an_event_behind_a_level_is_not_lost_either() -> None:
    guest = held_back(2)
    guest.function.raise_level(1)
    guest.function.fire(1)
    guest.function.lower_level(1)
    assert guest.msi_pending() == 0b10
    guest.enable_msi(2)
    assert guest.take() == [(MSI, 1)]
    guest.command(0)
    guest.function.raise_level(1)
    guest.function.lower_level(1)
    assert guest.msi_pending() == 0, "the event was sent, and is remembered no longer"


def test_one_more_cause_of_a_level_is_not_told_when_the_level_was_served() -> None:
    guest = held_back(2)
    guest.function.raise_level(1)
    guest.function.repeat_level(1)
    guest.function.lower_level(1)
    assert guest.msi_pending() == 0


def test_one_more_cause_sends_a_message_and_moves_no_pin() -> None:
    guest = Guest()
    guest.enable_msi()
    guest.function.raise_level(3)
    guest.function.repeat_level(3)
    assert guest.take() == [(MSI, 3)] * 2
    guest = Guest()
    guest.function.raise_level(3)
    guest.function.repeat_level(3)
    assert (guest.take(), guest.pin) == ([], [True])


def test_events_of_one_kind_are_forgotten_with_it() -> None:
    guest = Guest()
    guest.control_msix()
    guest.function.fire(1)
    guest.control_msix(enabled=False)
    guest.enable_msi()
    guest.command(0)
    guest.function.raise_level(1)
    guest.function.lower_level(1)
    assert guest.msi_pending() == 0


def test_events_are_saved() -> None:
    here, there = held_back(2), Guest()
    here.function.fire(1)
    here.function.raise_level(1)
    there.config.load(here.config.save())
    there.function.load(here.function.save())
    there.function.lower_level(1)
    there.enable_msi()
    assert there.take() == [(MSI, 1)]


def test_a_loaded_function_sends_what_is_pending_when_it_resumes() -> None:
    here, there = Guest(), Guest()
    here.control_msix()
    here.mask_vector(4, 0)
    here.listens = False
    here.function.fire(4)
    there.config.load(here.config.save())
    there.function.load(here.function.save())
    assert there.take() == []
    there.function.resume()
    assert there.take() == [(MSIX, 4)]


def test_forgotten_events_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: a fire that is no more than one more cause."""
    monkeypatch.setattr(Interrupts, "fire", Interrupts.repeat_level)
    with pytest.raises(AssertionError):
        test_an_event_is_not_lost_with_a_level_that_shares_its_message(2, 1)
