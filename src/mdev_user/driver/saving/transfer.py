# ruff: noqa: SLF001 - a device and its units are the framework's own
"""Transfer: a whole device as bytes, and bytes as a device that behaves the same ever after.

Saving changes nothing. Loading first decodes and checks everything, and only then changes the device.
"""

from typing import TYPE_CHECKING

from mdev_user.driver.saving.jobs import checked_jobs, jobs_of
from mdev_user.driver.saving.pages import memory_bytes, memory_of
from mdev_user.driver.saving.snapshot import Stream, from_bytes, to_bytes, upgraded
from mdev_user.driver.saving.state import checked, values_of
from mdev_user.errors import GuestError, StateError
from mdev_user.pci.config import ConfigState
from mdev_user.pci.interrupts import InterruptState

if TYPE_CHECKING:
    from mdev_user.driver.device import Device

MOST_VECTOR_BYTES = 2048 // 8


def save(device: "Device") -> bytes:
    """The state of an open device."""
    kind = type(device.function)
    interrupts = device._pci.interrupts.save()
    return to_bytes(
        Stream(
            driver=kind.__name__,
            version=kind.state_version,
            values=values_of(device.units),
            jobs=jobs_of(device.jobs, device._again, device._now()),
            memory=memory_of(device.units),
            config=device._pci.config.save().values,
            levels=_packed(interrupts.levels),
            pending=_packed(interrupts.pending),
            events=_packed(interrupts.events),
            vectors=interrupts.table,
        )
    )


def load(device: "Device", data: bytes) -> None:
    """Make an open device what ``data`` says; StateError, and nothing has changed, when it cannot be."""
    kind, units = type(device.function), device.units
    stream = from_bytes(data, memory_bytes(units))
    stream = upgraded(stream, kind.__name__, kind.state_version, kind.upgrades)
    incoming = checked(units, stream.values, stream.memory)
    jobs = checked_jobs(units, stream.jobs)
    levels = _bits("levels", stream.levels, sum(len(unit._plan.interrupts) for unit in units.values()))
    pending = _bits("pending", stream.pending, 8 * MOST_VECTOR_BYTES)
    events = _bits("events", stream.events, 8 * MOST_VECTOR_BYTES)
    interrupts = InterruptState(levels, pending, stream.vectors, events)
    _load_pci(device, ConfigState(stream.config), interrupts)
    device.cancel_jobs()
    incoming.take_over()
    for each in device._levels:
        each.adopt(levels)
    for unit, job, work, again in jobs:
        device.begin(unit, job, work)
        if again:
            device.call_again(work)
    device._pci.interrupts.resume()
    for unit in units.values():
        unit.loaded()
    device.settle()


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
