"""The config space of a declared device: capabilities of its type, and a pin only where something can drive it."""

from dataclasses import dataclass
from typing import Any

import pytest

from mdev_user.driver import (
    INTX,
    MSI,
    U32,
    Bar,
    DriverError,
    Function,
    Interrupt,
    Memory,
    Message,
    Parent,
    Part,
    Parts,
    PciId,
    Pool,
    PowerManagement,
    Profile,
    StateError,
    VendorSpecific,
)
from mdev_user.driver.saving.schema import schema_of
from mdev_user.testing import Guest
from mdev_user.units import KiB
from mdev_user.vfio.requests import Irq

IDENTITY = PciId(vendor=0x1DE5, device=10, class_code=0x038000)
PIN = 0x3D


@dataclass(frozen=True)
class Slice(Profile):
    size: int


def told(profile: Slice) -> VendorSpecific:
    return VendorSpecific(profile.size.to_bytes(4, "little"))


class Regs(Bar, index=0, size=64):
    status = U32(0)


class Quiet(Function[Slice]):
    identity = IDENTITY
    capabilities = (told, PowerManagement())
    regs, memory = Regs(), Memory(index=1, size=lambda profile: profile.size)


class Card(Parent[Slice]):
    function = Quiet
    size = Pool(64 * KiB)
    types = {"small": Slice(4 * KiB), "large": Slice(16 * KiB)}


@pytest.mark.parametrize(("name", "size"), [("small", 4 * KiB), ("large", 16 * KiB)])
def test_capability_of_a_profile_is_that_of_the_type(name: str, size: int) -> None:
    with Guest(Card, name) as guest:
        at = guest.read_config(0x34, 1)[0]
        assert (at, guest.read_config(at, 3)) == (0x40, b"\x09\x48\x07")
        assert guest.read_config(at + 3, 4) == size.to_bytes(4, "little")
        assert guest.read_config(0x48, 2) == b"\x01\x00"


def test_state_of_another_type_is_refused_by_its_config_space() -> None:
    with Guest(Card, "small") as small, Guest(Card, "large") as large, pytest.raises(StateError, match="read-only"):
        large.device.load(small.device.save())
    assert schema_of(Quiet)["capabilities"] == ["by type: told", "PowerManagement()"]


def test_mistake_in_the_function_of_a_capability_is_told() -> None:
    def misspelt(profile: Any) -> VendorSpecific:
        return VendorSpecific(profile.szie)

    class Wrong(Function[Slice]):
        identity = IDENTITY
        capabilities = (misspelt,)

    with pytest.raises(DriverError, match=r"Wrong.capabilities: Slice has no field szie; did you mean size\?"):

        class WrongCard(Parent[Slice]):
            function = Wrong
            size = Pool(8)
            types = {"one": Slice(1)}


def test_what_is_no_capability_is_told() -> None:
    with pytest.raises(DriverError, match=r"Wrong.capabilities: expected some such as .*given b'mine'"):

        class Wrong(Function[Slice]):
            identity = IDENTITY
            capabilities = (b"mine",)  # type: ignore[assignment]  # the mistake


# --- interrupts ---------------------------------------------------------------------------------------------------


def counts(kind: type[Function[Slice]]) -> tuple[int, int, int]:
    """The pin, and the vectors of INTx and MSI."""

    class One(Parent[Slice]):
        function = kind
        size = Pool(64 * KiB)
        types = {"one": Slice(4 * KiB)}

    with Guest(One) as guest:
        return guest.read_config(PIN, 1)[0], guest.vectors(Irq.INTX), guest.vectors(Irq.MSI)


def test_what_cannot_interrupt_has_no_pin_and_no_messages() -> None:
    assert counts(Quiet) == (0, 0, 0)


class Level(Quiet):
    done = Interrupt(Regs.status.any)


class Queues(Quiet):
    completion = Message()


class Asks(Quiet):
    vectors = INTX()


class AsksForMessages(Quiet):
    vectors = MSI(2)


class Unit(Part[Slice]):
    regs = Regs()
    done = Interrupt(Regs.status.any)


class Whole(Function[Slice]):
    identity = IDENTITY
    units = Parts(Unit, count=2)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(Level, (1, 1, 1)), (Queues, (1, 1, 1)), (Asks, (1, 1, 0)), (AsksForMessages, (1, 1, 2)), (Whole, (1, 1, 2))],
)
def test_what_can_has_them(kind: type[Function[Any]], expected: tuple[int, int, int]) -> None:
    """The negative control: one declaration, of the function or of a part, and there is a pin."""
    assert counts(kind) == expected
