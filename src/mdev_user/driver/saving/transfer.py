# ruff: noqa: SLF001 - a device and its units are the framework's own
"""Transfer: a whole device as bytes, and bytes as a device that behaves the same ever after.

Saving changes nothing. Loading first decodes and checks everything, and only then changes the device.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from mdev_user.driver.saving.jobs import checked_jobs, jobs_of
from mdev_user.driver.saving.landing import InPlace
from mdev_user.driver.saving.pages import Place, checked_memory, memory_bytes, memory_of, places_of
from mdev_user.driver.saving.snapshot import Stream, from_bytes, to_bytes, upgraded
from mdev_user.driver.saving.state import checked, values_of
from mdev_user.errors import DriverError, GuestError, StateError
from mdev_user.pci.config import ConfigState
from mdev_user.pci.interrupts import InterruptState

if TYPE_CHECKING:
    from mdev_user.driver.device import Device

MOST_VECTOR_BYTES = 2048 // 8


def save(device: "Device") -> bytes:
    """The state of an open device."""
    return to_bytes(stream_of(device, memory_of(places_of(device))))


def load(device: "Device", data: bytes) -> None:
    """Make an open device what ``data`` says; StateError, and nothing has changed, when it cannot be."""
    places = places_of(device)
    stream = upgraded_to(device, from_bytes(data, memory_bytes(places)))
    take_memory = memory_taker(places, stream.memory)
    Prepared(device, stream).take_over(take_memory)


def stream_of(device: "Device", memory: Mapping[str, tuple[bytes, bytes]]) -> Stream:
    """The state of an open device, with the memory that is given."""
    kind = type(device.function)
    interrupts = device._pci.interrupts.save()
    return Stream(
        driver=kind.__name__,
        version=kind.state_version,
        values=values_of(device.units),
        jobs=jobs_of(device.jobs, device._again, device.jobs_clock()),
        memory=dict(memory),
        config=device._pci.config.save().values,
        levels=_packed(interrupts.levels),
        pending=_packed(interrupts.pending),
        events=_packed(interrupts.events),
        automasked=device._pci.irqs.automasked,
        vectors=interrupts.table,
    )


def memory_taker(places: Sequence[Place], saved: Mapping[str, tuple[bytes, bytes]]) -> Callable[[], None]:
    """What gives the places the memory that was saved; StateError for what they cannot have."""
    memory = checked_memory(places, saved)

    def take() -> None:
        landing = InPlace(places)
        for number, (runs, pages) in enumerate(memory):
            landing.put(number, memoryview(runs), memoryview(pages))
        landing.finish()

    return take


def upgraded_to(device: "Device", stream: Stream) -> Stream:
    """The stream as one of this device's driver and version."""
    kind = type(device.function)
    return upgraded(stream, kind.__name__, kind.state_version, kind.upgrades)


class Prepared:
    """A state that was checked from its first to its last byte, but for what the PCI function says of its own."""

    def __init__(self, device: "Device", stream: Stream) -> None:
        """StateError for what the device cannot be. Its memory is not looked at."""
        units = device.units
        self._device = device
        self._values = checked(units, stream.values)
        self._values.check(units)
        self._jobs = checked_jobs(units, stream.jobs)
        self._config = ConfigState(stream.config)
        levels = _bits("levels", stream.levels, sum(len(unit._plan.interrupts) for unit in units.values()))
        pending = _bits("pending", stream.pending, 8 * MOST_VECTOR_BYTES)
        events = _bits("events", stream.events, 8 * MOST_VECTOR_BYTES)
        self._interrupts = InterruptState(levels, pending, stream.vectors, events)
        self._automasked = stream.automasked

    def take_over(self, take_memory: Callable[[], None]) -> None:
        """Be it. StateError, and nothing has changed; what else is raised is the driver's, and half way."""
        device = self._device
        _load_pci(device, self._config, self._interrupts)
        try:
            device.cancel_jobs()
            self._values.take_over()
            take_memory()
            self._go_on(device)
        except StateError as error:  # of the driver's own code: it is too late for one
            raise DriverError(f"{type(device.function).__name__}: in the middle of a load: {error}") from error

    def _go_on(self, device: "Device") -> None:
        for each in device._levels:
            each.adopt(self._interrupts.levels)
        for unit, job, work, again in self._jobs:
            device.begin(unit, job, work)
            if again:
                device.call_again(work)
        device._pci.interrupts.resume()
        for unit in device.units.values():
            unit.loaded()
        device.settle()
        device._pci.irqs.go_on(automasked=self._automasked)


def _load_pci(device: "Device", config: ConfigState, interrupts: InterruptState) -> None:
    """All of it or nothing: what the interrupts may be depends on the config space that is in place."""
    space = device._pci.config
    before = space.save()
    try:
        space.load(config)
        device._pci.interrupts.load(interrupts)
    except GuestError as error:
        space.load(before)
        raise StateError(str(error)) from error


def _packed(bits: int) -> bytes:
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def _bits(name: str, data: bytes, width: int) -> int:
    if len(data) > MOST_VECTOR_BYTES or int.from_bytes(data, "little") >> width:
        raise StateError(f"saved {name}: expected {width} bits, given {len(data)} bytes")
    return int.from_bytes(data, "little")
