"""Dispatch alone, without a socket: what a device's read and write take when they are called directly."""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from timeit import Timer
from uuid import UUID

from authoring import BY_HAND
from programs import CannotMeasure

from mdev_user.driver import (
    U8,
    U32,
    Bar,
    DeviceOps,
    Flag,
    Function,
    Interrupt,
    Mdev,
    Parent,
    PciId,
    Pool,
    Profile,
    Register,
    on_read,
    on_write,
)  # fmt: skip
from mdev_user.drivers import mtty
from mdev_user.mdev.parent import MdevParent
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio_mdev.ops import MdevParentOps

REPEATS, CALLS = 100, 500
"""A case is timed so often, so many calls each."""

_UUID = UUID(int=1)
_BYTE, _WORD = b"\x5a", b"\x01\x00\x00\x00"
_DATA, _IER, _IIR, _LCR, _LSR, _SCR = 0, 1, 2, 3, 5, 7


class Events(Register):
    one, other = Flag(0), Flag(1)


class Select(Register, size=1):
    page = Flag(0)


class Regs(Bar, index=0, size=64):
    number = U32(0)
    behind = U32(4)
    pending, enable = Events.at(8), Events.at(12)
    computed = U32(16)
    doorbell = U32(20)
    select = Select.at(24)
    first, second = U8(25), U8(25, bank=Select.page)


@dataclass(frozen=True)
class One(Profile):
    slots: int = 1


class Sample(Function[One]):
    """A register of each kind, and interrupts that depend on two of them only."""

    identity = PciId(vendor=0x1DE5, device=1, class_code=0x120000)
    regs = Regs()
    event = Interrupt(Regs.pending.one, enable=Regs.enable.one)

    @on_read(Regs.computed)
    def compute(self) -> int:
        return 5

    @on_write(Regs.doorbell)
    def ring(self, value: int) -> None:
        pass


class Samples(Parent[One]):
    function = Sample
    slots = Pool(1)
    types = {"1": One()}  # noqa: RUF012 - a declaration


Access = Callable[[], object]
Ns = Mapping[str, float]


def measure() -> dict[str, dict[str, Ns]]:
    """Nanoseconds of one access, median and least of the repeats: of the sample, and of the two mttys."""
    return _timed(
        {
            "sample": _sample_cases(_opened(Samples())),
            "declared": _mtty_cases(_opened(mtty.Mtty())),
            "by_hand": _mtty_cases(_opened(_by_hand())),
        }
    )


def _sample_cases(device: DeviceOps) -> dict[str, Access]:
    read, write = device.read, device.write
    write(0, 24, b"\x01")
    return {
        "plain_read": lambda: read(0, 0, 4),
        "plain_write": lambda: write(0, 0, _WORD),
        "watched_write": lambda: write(0, 8, _WORD),
        "handler_read": lambda: read(0, 16, 4),
        "handler_write": lambda: write(0, 20, _WORD),
        "banked_read": lambda: read(0, 25, 1),
        "banked_write": lambda: write(0, 25, _BYTE),
        "straddling_read": lambda: read(0, 2, 4),
        "straddling_write": lambda: write(0, 2, _WORD),
    }


def _mtty_cases(device: DeviceOps) -> dict[str, Access]:
    """Those of `authoring`. Registers seen while DLAB is set are another port's."""
    read, write = device.read, device.write
    write(1, _LCR, b"\x80")
    return {
        "plain_read": lambda: read(0, _SCR, 1),
        "plain_write": lambda: write(0, _SCR, _BYTE),
        "data_write_and_read": lambda: (write(0, _DATA, _BYTE), read(0, _DATA, 1)),
        "enable_write": lambda: write(0, _IER, b"\x00"),
        "identify_read": lambda: read(0, _IIR, 1),
        "control_write": lambda: write(0, _IIR, b"\x00"),
        "status_read": lambda: read(0, _LSR, 1),
        "banked_read": lambda: read(1, _DATA, 1),
        "banked_write": lambda: write(1, _DATA, _BYTE),
    }


def _timed(devices: Mapping[str, Mapping[str, Access]]) -> dict[str, dict[str, Ns]]:
    """The cases of all devices in turn, again and again: the machine's speed wanders."""
    timers = {(device, name): Timer(access) for device, cases in devices.items() for name, access in cases.items()}
    times: dict[tuple[str, str], list[float]] = {key: [] for key in timers}
    for _ in range(REPEATS):
        for key, timer in timers.items():
            times[key].append(_once(timer))
    return {device: {name: _figures(times[device, name]) for name in cases} for device, cases in devices.items()}


def _once(timer: Timer) -> float:
    return timer.timeit(CALLS) / CALLS * 1e9


def _figures(times: list[float]) -> Ns:
    return {"median": round(median(times), 1), "least": round(min(times), 1), "most": round(max(times), 1)}


def _opened(parent: MdevParentOps) -> DeviceOps:
    last = parent.mdev_types[-1]  # of mtty the one with two ports
    device = parent.create(Mdev(_UUID, MdevParent("parent", parent), last))
    device.open_device(VfioDevice(_UUID, last.name, device))
    return device


def _by_hand() -> MdevParentOps:
    spec = importlib.util.spec_from_file_location(BY_HAND.stem, BY_HAND)
    if spec is None or spec.loader is None:
        raise CannotMeasure(f"{BY_HAND} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: MdevParentOps = module.Mtty()
    return made
