"""Handover: a user goes on with a device of a newer class, with its state or with a device that was reset."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from typing_extensions import override

from mdev_user.driver import (
    MSI,
    MSIX,
    RO,
    RW1C,
    U32,
    WO,
    Attribute,
    Bar,
    Device,
    DriverError,
    Flag,
    Function,
    Interrupt,
    Memory,
    Message,
    PciId,
    Profile,
    Register,
    Saved,
    job,
    on_write,
    pending,
    sleep,
)
from mdev_user.driver.saving.handover import check_shapes, hand_over, take_back
from mdev_user.units import PAGE
from mdev_user.vfio.requests import Irq, IrqAction, Region, SetIrqs
from unit.driver.bench import UUID1, Bench


class Status(Register):
    done, busy = Flag(0, RW1C), Flag(1, RO)


class Regs(Bar, index=0, size=4096):
    status = Status.at(0)
    number, start = U32(4), U32(8, WO)


class First(Function[Profile]):
    """As it was when the guest began."""

    identity = PciId(vendor=0x1DE5, device=7, class_code=0x120000)
    regs, frame = Regs(), Memory(index=2, size=PAGE)
    total = Saved(0)
    clock = Attribute(100, range=(10, 400))
    wear = Attribute(0, writable=False)
    done = Interrupt(Regs.status.done)

    @on_write(Regs.start)
    def begin(self, value: int) -> None:
        self.work(value)

    @job(busy=Regs.status.busy)
    async def work(self, value: int) -> None:
        await sleep(1)
        self.total += value
        self.regs.status.done = True


class Second(First):
    """Adds twice as much, and has a value more."""

    more = Saved(7)

    @override
    @job(busy=Regs.status.busy)
    async def work(self, value: int) -> None:
        await sleep(1)
        self.total += 2 * value
        self.regs.status.done = True


Second.__name__ = "First"  # as the class in a file is called after an edit


class Forgetful(First):
    """Has lost a value, so that the state of the first cannot be loaded."""

    total = Saved("text")  # type: ignore[assignment]  # the difference


Forgetful.__name__ = "First"


class Narrow(First):
    clock = Attribute(100, range=(10, 200))
    wear = Attribute(0, range=(0, 8), writable=False)


class Pinned(First):
    """Has a message beside its level, and the pin for it."""

    vectors = MSIX(2)
    message = Message(pin=Regs.status.done)
    done = None  # type: ignore[assignment]  # it has no level


class Unpinned(Pinned):
    @pending
    def never(self) -> bool:
        return False

    message = Message(pin=never)


Unpinned.__name__ = "Pinned"


class Raising(Second):
    @override
    def loaded(self) -> None:
        raise RuntimeError("not today")


Raising.__name__ = "First"


class Wide(Bar, index=0, size=8192):
    status = Status.at(0)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(First)
    yield made
    made.close()


def successor(kind: type[Function[Any]]) -> Device:
    return Device(kind, Profile(), UUID1)


def with_vectors(kind: type[First], given: MSI | MSIX) -> type[First]:
    class Vectored(kind):  # type: ignore[valid-type, misc]  # made at run time
        vectors = given

    return Vectored


def first(bench: Bench) -> First:
    made = bench.device.function
    assert isinstance(made, First)
    return made


def finish(bench: Bench) -> None:
    first(bench).regs.status.done = True
    bench.device.settle()


def exchange(bench: Bench, kind: type[Function[Any]]) -> str:
    new = successor(kind)
    check_shapes(bench.device, new)
    reason = hand_over(bench.vfio, bench.device, new)
    bench.device = new
    return reason


def test_state_memory_settings_and_interrupts_go_on(bench: Bench) -> None:
    (wire,) = bench.arm(Irq.INTX)
    bench.write(4, 42)
    bench.write(0, b"frame", region=2)
    bench.device.function._settings["clock"] = 200
    function = bench.device.function
    assert isinstance(function, First)
    function.regs.status.done = True
    bench.write(4, 43)
    bench.write(0, 0)
    assert wire.take() == 1
    assert exchange(bench, Second) == ""
    assert bench.read(4) == 43
    assert bench.read(0, 5, region=2).to_bytes(5, "little") == b"frame"
    after = bench.device.function
    assert isinstance(after, Second)
    assert (after.clock, after.more) == (200, 7)
    assert wire.take() == 0  # the level was up, and was told
    bench.write(0, 1)
    bench.vfio.ioctl(SetIrqs(Irq.INTX, 0, 1, IrqAction.UNMASK))
    assert wire.take() == 0
    after.regs.status.done = True
    bench.write(0, 0)
    assert wire.take() == 1


def test_a_job_that_sleeps_goes_on_as_the_new_class_does_it(bench: Bench) -> None:
    bench.write(8, 5)
    bench.jobs.step()
    assert exchange(bench, Second) == ""
    assert bench.read(0) == 2  # busy
    bench.jobs.step()
    bench.jobs.step(b"")
    function = bench.device.function
    assert isinstance(function, Second)
    assert (function.total, bench.read(0)) == (10, 1)


def test_what_cannot_be_loaded_is_a_device_that_was_reset(bench: Bench) -> None:
    (wire,) = bench.arm(Irq.INTX)
    function = bench.device.function
    assert isinstance(function, First)
    function.total = 5
    bench.write(4, 42)
    bench.write(8, 5)
    bench.write(0, b"frame", region=2)
    assert "total" in exchange(bench, Forgetful)
    assert (bench.read(4), bench.read(0)) == (0, 0)
    assert bench.read(0, 5, region=2).to_bytes(5, "little") == b"frame"  # as VFIO_DEVICE_RESET leaves it
    assert bench.read(4, 2, region=7) == 6  # memory and bus mastering are still enabled
    assert bench.device.jobs == []
    after = bench.device.function
    assert isinstance(after, Forgetful)
    after.regs.status.done = True
    bench.write(0, 0)
    assert wire.take() == 1


@pytest.mark.parametrize(("vectors", "index"), [(MSI(1), Irq.MSI), (MSIX(2), Irq.MSIX)])
def test_messages_are_sent_after_a_state_that_cannot_be_loaded(vectors: MSI | MSIX, index: Irq) -> None:
    kinds = with_vectors(First, vectors), with_vectors(Forgetful, vectors)
    bench = Bench(kinds[0])
    (wire,) = bench.arm(index)
    finish(bench)
    assert wire.take() == 1
    first(bench).total = 5
    assert "total" in exchange(bench, kinds[1])
    assert bench.device._pci.interrupts.pending == 0
    finish(bench)
    assert wire.take() == 1


def test_config_space_is_as_it_is_when_the_device_is_handed_over(bench: Bench) -> None:
    """The guest goes on between the check of all devices and the step that hands one over."""
    new = successor(Forgetful)
    first(bench).total = 5
    check_shapes(bench.device, new)
    bench.write(4, b"\x02\x00", Region.CONFIG)
    assert hand_over(bench.vfio, bench.device, new) != ""
    assert bench.read(4, 2, Region.CONFIG) == 2


def test_pin_that_the_new_class_does_not_hold_is_released() -> None:
    bench = Bench(Pinned)
    (wire,) = bench.arm(Irq.INTX)
    finish(bench)
    assert wire.take() == 1
    assert exchange(bench, Unpinned) == ""
    bench.vfio.ioctl(SetIrqs(Irq.INTX, 0, 1, IrqAction.UNMASK))
    assert wire.take() == 0


def test_pin_that_only_the_new_class_holds_is_released_when_it_is_taken_back() -> None:
    bench = Bench(Unpinned)
    (wire,) = bench.arm(Irq.INTX)
    finish(bench)
    old, state = bench.device, bench.device.save()
    assert exchange(bench, Pinned) == ""
    bench.device.settle()
    assert wire.take() == 1
    take_back(bench.vfio, old, bench.device, state)
    bench.vfio.ioctl(SetIrqs(Irq.INTX, 0, 1, IrqAction.UNMASK))
    assert wire.take() == 0


def test_pin_of_a_message_that_was_handed_back_is_held_once() -> None:
    bench = Bench(Pinned)
    bench.arm(Irq.INTX)
    finish(bench)
    old = bench.device
    assert exchange(bench, Pinned) == ""
    assert hand_over(bench.vfio, bench.device, old) == ""
    assert old._pci.interrupts.pin
    bench.write(0, 1)  # which clears it
    assert not old._pci.interrupts.pin


def test_what_the_driver_set_goes_on_where_no_state_does(bench: Bench) -> None:
    first(bench).wear = 7
    first(bench).total = 5
    assert "total" in exchange(bench, Forgetful)
    assert bench.device.function._settings["wear"] == 7
    bench.close()
    assert exchange(bench, Second) == ""
    assert bench.device.function._settings["wear"] == 7


def test_what_the_new_class_does_not_take_begins_anew(bench: Bench) -> None:
    first(bench).wear = 9
    bench.device.function._settings["clock"] = 300
    bench.close()
    exchange(bench, Narrow)
    assert bench.device.function._settings == {"clock": 100, "wear": 0}


def test_a_driver_that_raises_gives_the_old_device_back(bench: Bench) -> None:
    bench.write(4, 42)
    bench.write(8, 5)
    old = bench.device
    with pytest.raises(RuntimeError, match="not today"):
        hand_over(bench.vfio, old, successor(Raising))
    assert bench.vfio.ops is old
    assert (bench.read(4), bench.read(0)) == (42, 2)
    bench.jobs.step()
    bench.jobs.step(b"")
    assert isinstance(old.function, First)
    assert (old.function.total, bench.read(0)) == (5, 1)


def test_the_older_device_lets_go_of_the_users_memory(bench: Bench) -> None:
    """Somebody may refer to it for long; whoever uses the mdev next has other memory."""
    old, new = bench.device, Device(Second, Profile(), UUID1)
    view = bench.memory.regions[2]
    hand_over(bench.vfio, old, new)
    new.close_device()
    view.extend(b"x")  # BufferError while there is a view of it


def test_a_device_that_nobody_uses_is_just_replaced(bench: Bench) -> None:
    bench.write(4, 42)
    bench.close()
    assert exchange(bench, Second) == ""
    bench.open()
    assert bench.read(4) == 0
    assert isinstance(bench.device.function, Second)


def other_bar() -> type[Function[Any]]:
    class Other(Function[Profile]):
        identity = First.identity
        regs, frame = Wide(), Memory(index=2, size=PAGE)
        done = Interrupt(Wide.status.done)

    return Other


def other_vectors() -> type[Function[Any]]:
    class Other(First):
        again = Interrupt(Regs.status.busy)

    return Other


def other_identity() -> type[Function[Any]]:
    class Other(First):
        identity = PciId(vendor=0x1DE5, device=8, class_code=0x120000)

    return Other


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (other_bar, "BAR 0 is another one"),
        (other_vectors, "MSI has other vectors"),
        (other_identity, "the config space is another one"),
    ],
)
def test_another_device_is_refused(bench: Bench, kind: Callable[[], type[Function[Any]]], message: str) -> None:
    with pytest.raises(DriverError, match=message):
        check_shapes(bench.device, successor(kind()))
