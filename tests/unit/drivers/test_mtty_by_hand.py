"""The declared mtty answers byte by byte as the one that is written by hand against the low-level contract."""

import inspect
from contextlib import closing
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdev_user.driver import Device
from mdev_user.drivers.mtty import Mtty, Serial
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.ops import DeviceOps
from mdev_user.vfio.requests import Irq, IrqAction, SetIrqs
from unit.driver.bench import UUID1, Jobs, Memory, Wire
from unit.drivers.mtty_by_hand import MttyDevice

PORTS = 2


@dataclass(frozen=True)
class Access:
    port: int
    register: int
    value: int | None
    """None: a read."""


accesses = st.builds(
    Access,
    st.sampled_from(range(PORTS)),
    st.sampled_from([0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 7]),
    st.none() | st.sampled_from([0, 1, 2, 5, 0x0F, 0x1B, 0x80, 0x81, 0xC7, 0xFF]) | st.integers(0, 255),
)
programs = st.lists(accesses | st.sampled_from(["rest", "reset"]), max_size=60)


class Machine:
    """An open device with an INTx wire; its line rests when the test says so."""

    def __init__(self, ops: DeviceOps) -> None:
        self.device = VfioDevice(UUID1, "mtty/test", ops)
        self.jobs, self.wire = Jobs(self.device), Wire()
        self.device.open(self.jobs, Memory())
        self.device.ioctl(SetIrqs(Irq.INTX, 0, 1, IrqAction.TRIGGER, eventfds=(self.wire,)))

    def do(self, step: Access | str) -> object:
        """What can be seen of a step: the value that was read, and whether the interrupt is up."""
        seen = self.run(step)
        self.device.ioctl(SetIrqs(Irq.INTX, 0, 1, IrqAction.UNMASK))
        return seen, bool(self.wire.take())

    def run(self, step: Access | str) -> object:
        if step == "reset":
            self.device.reset()
        elif step == "rest":
            # From its start to its sleep, and from there to the next one or its end.
            while self.jobs.waiting:
                started = inspect.getcoroutinestate(self.jobs.waiting[0][1]) != inspect.CORO_CREATED
                self.jobs.step(b"" if started else None)
        elif isinstance(step, Access) and step.value is None:
            return self.device.read(step.port, step.register, 1)
        elif isinstance(step, Access):
            self.device.write(step.port, step.register, bytes((step.value or 0,)))
        return None


def first_difference(program: list[Access | str]) -> str | None:
    declared = Machine(Device(Serial, Mtty.types["2"], UUID1))
    by_hand = Machine(MttyDevice(PORTS))
    with closing(declared.device), closing(by_hand.device):
        for step in program:
            ours, theirs = declared.do(step), by_hand.do(step)
            if ours != theirs:
                return f"{step}: declared {ours}, by hand {theirs}"
    return None


@settings(max_examples=300, derandomize=True)
@given(programs)
def test_the_declared_device_answers_as_the_one_by_hand(program: list[Access | str]) -> None:
    assert first_difference(program) is None


def test_a_difference_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: without its trigger levels, a byte interrupts at once."""
    program: list[Access | str] = [Access(0, 1, 1), Access(0, 2, 0x81), Access(0, 0, 65)]
    assert first_difference(program) is None
    monkeypatch.setattr("mdev_user.drivers.mtty.TRIGGERS", (1, 1, 1, 1))
    assert first_difference(program) is not None
