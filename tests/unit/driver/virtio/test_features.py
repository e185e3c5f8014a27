"""What a device offers of the features of its kind: asked at its resets, and required of a state that is loaded."""

from collections.abc import Iterator
from struct import pack

import pytest
from typing_extensions import override

from mdev_user.driver import Attribute, DriverError, StateError
from mdev_user.driver.unit import Unit
from mdev_user.driver.virtio.function import VirtioFunction
from mdev_user.testing import Guest
from unit.driver.virtio.devices import Card, Echo, Features
from unit.driver.virtio.ring_driver import FEATURES, VirtioDriver

ALL = FEATURES | Features.UPPER


class Choosy(Echo):
    """An operator can take the feature away."""

    upper = Attribute(initial=True)
    odd = Attribute(0)

    @override
    def features(self) -> int:
        return self.odd or int(self.upper) * Features.UPPER


class ChoosyCard(Card):
    function = Choosy


@pytest.fixture
def guest() -> Iterator[Guest]:
    with Guest(ChoosyCard) as made:
        yield made


def offered(guest: Guest) -> int:
    found = 0
    for half in (0, 1):
        guest.write_bytes(0, 0, pack("<I", half))
        found |= int.from_bytes(guest.read_bytes(0, 4, 4), "little") << 32 * half
    return found


def negotiated(guest: Guest) -> int:
    function = guest.device.function
    assert isinstance(function, Choosy)
    return function.negotiated


def test_operator_takes_a_feature_away_with_the_next_reset(guest: Guest) -> None:
    assert offered(guest) == ALL
    guest.store("upper", "0")
    assert (offered(guest), VirtioDriver(guest).negotiate(ALL)) == (ALL, False)  # negotiation begins with a reset
    assert (offered(guest), negotiated(guest)) == (FEATURES, 0)
    assert VirtioDriver(guest).negotiate(FEATURES)
    guest.store("upper", "1")
    guest.reset()
    assert offered(guest) == ALL
    assert VirtioDriver(guest).negotiate(ALL)
    guest.store("upper", "0")
    guest.close()
    guest.open()
    assert offered(guest) == FEATURES


def test_features_of_another_kind_are_the_drivers_mistake(guest: Guest) -> None:
    guest.store("odd", "1")
    guest.reset()
    with pytest.raises(DriverError, match=r"Choosy\.features"):
        offered(guest)


def moved(features: int, target: Guest) -> None:
    with Guest(ChoosyCard) as source:
        assert VirtioDriver(source).negotiate(features)
        target.load(source.save())


def test_state_with_features_that_are_not_offered_here_is_refused(guest: Guest) -> None:
    guest.store("upper", "0")
    with pytest.raises(StateError, match="does not offer: 0x8"):
        moved(ALL, guest)
    guest.reset()
    assert (negotiated(guest), guest.errors) == (0, 0)
    moved(FEATURES, guest)
    assert (negotiated(guest), offered(guest)) == (FEATURES, FEATURES)
    guest.store("upper", "1")
    moved(ALL, guest)
    assert (negotiated(guest), offered(guest)) == (ALL, ALL)


def test_state_would_be_taken_if_nobody_looked(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    monkeypatch.setattr(VirtioFunction, "_check_state", Unit._check_state)
    guest.store("upper", "0")
    moved(ALL, guest)
    assert negotiated(guest) == ALL


def test_features_that_no_device_has_are_refused_in_a_state(guest: Guest) -> None:
    function = guest.device.function
    assert isinstance(function, Choosy)
    for each in (-1, 1 << 62):
        function.negotiated = each
        with pytest.raises(StateError, match="features"):
            guest.device.load(guest.device.save())
