"""Offload: what a job lets another process compute, as its driver sees it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import factorial
from pathlib import Path
from typing import ClassVar
from zlib import crc32

import pytest

from mdev_user.driver import (
    RO,
    U32,
    WO,
    Bar,
    DriverError,
    Function,
    GuestError,
    Parent,
    PciId,
    Pool,
    Profile,
    job,
    offload,
    on_write,
)
from mdev_user.testing import Guest
from mdev_user.testing.local import LocalHost
from unit.host.parts import eventually


class Regs(Bar, index=0, size=4096):
    start, result, refusals = U32(0, WO), U32(4, RO), U32(8, RO)


@dataclass(frozen=True)
class Slice(Profile):
    instances: int


def checksum(number: int, *, salt: bytes) -> int:
    if number == 13:
        raise GuestError("thirteen")
    return crc32(str(number).encode() + salt)


class Device(Function[Slice]):
    identity = PciId(vendor=0x1DE5, device=6, class_code=0x120000)
    regs = Regs()

    @on_write(Regs.start)
    def begin(self, value: int) -> None:
        self.compute(value)

    @job(limit=4)
    async def compute(self, value: int) -> None:
        try:
            self.regs.result = await offload(checksum, value, salt=b"x")
        except GuestError:
            self.regs.refusals += 1


class Card(Parent[Slice]):
    function = Device
    instances = Pool(4)
    types: ClassVar[Mapping[str, Slice]] = {"one": Slice(instances=1)}  # type: ignore[misc]  # as Parent says


@pytest.fixture
def guest() -> Iterator[Guest]:
    with Guest(Card) as made:
        yield made


def test_job_goes_on_with_the_answer(guest: Guest) -> None:
    guest.write(Regs.start, 5)
    assert guest.step()
    assert guest.read(Regs.result) == 0  # it was asked
    guest.run()
    assert guest.read(Regs.result) == crc32(b"5x")
    assert guest.device.jobs == []


def test_what_it_raises_is_raised_in_the_job(guest: Guest) -> None:
    guest.write(Regs.start, 13)
    guest.run()
    assert (guest.read(Regs.refusals), guest.errors, guest.last_error) == (1, 1, "thirteen")


def test_answer_to_a_cancelled_job_is_thrown_away(guest: Guest) -> None:
    guest.write(Regs.start, 5)
    guest.step()
    guest.reset()
    guest.run()
    assert guest.read(Regs.result) == 0


@pytest.mark.parametrize("function", [lambda: 0, Device.begin, b"".join], ids=["lambda", "method", "bound"])
def test_only_functions_of_a_module_can_be_found_by_name(function: Callable[..., object]) -> None:
    with pytest.raises(DriverError, match="expected a function of a module"):
        offload(function).send(None)


def test_in_a_host_it_is_computed_while_others_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[3])  # where a process that computes finds this module
    with LocalHost() as host:
        parent = host.bus.register_parent("card", Card())
        mdevs = [host.create(parent, "device-one") for _ in range(2)]
        with host.client(mdevs[0]) as one, host.client(mdevs[1]) as other:
            for client, number in ((one, 5), (other, 13), (one, 13)):
                client.region_write(0, 0, number.to_bytes(4, "little"))
            eventually(lambda: one.region_read(0, 8, 4) == other.region_read(0, 8, 4) == b"\1\0\0\0", 60)
            eventually(lambda: one.region_read(0, 4, 4) == crc32(b"5x").to_bytes(4, "little"), 60)
        counters = host.endpoint(mdevs[0]).device.counters
        assert (counters.guest_errors, counters.last_guest_error) == (1, "thirteen")


def test_builtin_functions_can_be_offloaded() -> None:
    assert factorial.__qualname__ == "factorial"
    offload(factorial, 5).close()
