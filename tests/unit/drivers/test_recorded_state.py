"""States of our drivers as they were once recorded: every one of them can be loaded for ever.

A file of tests/state is one version of one driver's state: its schema, and the state of a device that was in use.
"""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from struct import pack
from typing import Any

import pytest

from mdev_user.driver import Parent, StateError
from mdev_user.driver.saving.schema import differences, schema_of
from mdev_user.drivers.crc import Card as Crc
from mdev_user.drivers.edu import Card as Edu
from mdev_user.drivers.mbochs import Mbochs
from mdev_user.drivers.mdpy import Mdpy
from mdev_user.drivers.mtty import Mtty
from mdev_user.drivers.vgpu.card import Card as Vgpu
from mdev_user.drivers.vgpu.rendering import RenderingVgpu
from mdev_user.drivers.vgpu.resources import Image, Resource, Shown
from mdev_user.drivers.virtio_rng import Card as VirtioRng
from mdev_user.errors import GuestError
from mdev_user.units import PAGE
from mdev_user.vfio.requests import Region
from unit.driver.bench import Bench

FOLDER = Path(__file__).resolve().parents[2] / "state"
AnyParent = type[Parent[Any, Any]]  # Any: of whatever profile and backend
PARENTS: dict[str, AnyParent] = {
    "crc": Crc,
    "edu": Edu,
    "mbochs": Mbochs,
    "mdpy": Mdpy,
    "mtty": Mtty,
    "vgpu": Vgpu,
    "virtio_rng": VirtioRng,
}
RECORD = "MDEV_USER_RECORD_STATE=1 python -m pytest tests/unit/drivers/test_recorded_state.py"
ACCESSES = 200


def bench_of(parent: AnyParent) -> Bench:
    return Bench(parent.function, next(iter(parent.types.values())))


def with_pictures(bench: Bench) -> None:
    """What commands bring about, and accesses to registers do not."""
    gpu = bench.device.function
    assert isinstance(gpu, RenderingVgpu)
    gpu._add(3, Resource(1, 8, 4, 0))
    gpu._add(5, Resource(67, 2, 2, PAGE))
    gpu._attach(3, pack("<QI4xQI4x", PAGE, 100, 4 * PAGE, 28))
    gpu.shown[1] = Shown(3, 1, 2, 4, 2)
    gpu.pointers[1] = Image(1, 2, 1, bytes(range(8)), 1, 0, -5, 6)
    gpu.contexts[7] = b"a program"
    gpu.lost[9] = True
    gpu.settings.capsets = 2  # wherever this is recorded
    gpu._settings["drawing"] = replace(gpu._settings["drawing"], given=4096.0, turns=1)


IN_USE: dict[str, Callable[[Bench], None]] = {"vgpu": with_pictures}


def in_use(name: str, parent: AnyParent) -> Bench:
    """A device after some accesses, always the same; with jobs that have begun."""
    bench, random = bench_of(parent), Random(1)
    for region, space in bench.device._spaces.items():
        slots = space._layout.slots
        for _ in range(ACCESSES):
            slot = random.choice(slots)
            bench.write(slot.offset, random.randbytes(slot.size), region)
    if not bench.device._spaces:  # config space is all that it remembers
        bench.write(0x10, b"\x00\x00\x00\xe0", Region.CONFIG)
    if name in IN_USE:
        IN_USE[name](bench)
    if bench.jobs.waiting:
        with suppress(GuestError):
            bench.jobs.step()
    return bench


def file_of(name: str, version: int) -> Path:
    return FOLDER / f"{name}-{version}.json"


def record(name: str, parent: AnyParent) -> None:
    bench = in_use(name, parent)
    recorded = {"schema": schema_of(parent.function), "state": bench.device.save().hex()}
    file_of(name, parent.function.state_version).write_text(json.dumps(recorded, indent=1) + "\n")
    bench.close()


def advice(name: str, recorded: dict[str, Any], now: dict[str, Any]) -> str:  # Any: schemas
    """What to do about a schema that is not the recorded one; empty when it is."""
    changed, added = differences(recorded, now)
    version = recorded["state_version"]
    if changed and now["state_version"] == version:
        return (
            f"{name}: what is saved of a device has changed, and states of version {version} exist:\n"
            + "\n".join(changed)
            + f"\nTake it back, or set state_version = {version + 1}, give it upgrades = {{{version}: ...}}, and: "
            + RECORD
        )
    if added:
        return f"{name}: more is saved of a device:\n" + "\n".join(added) + f"\nIf it is meant so: {RECORD}"
    return ""


@pytest.mark.parametrize("name", PARENTS)
def test_schema_is_the_recorded_one(name: str) -> None:
    parent = PARENTS[name]
    if os.environ.get("MDEV_USER_RECORD_STATE") == "1":
        record(name, parent)
    path = file_of(name, parent.function.state_version)
    assert path.exists(), f"{name}: no state of version {parent.function.state_version} is recorded: {RECORD}"
    found = advice(name, json.loads(path.read_text())["schema"], schema_of(parent.function))
    assert not found, found


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_recorded_state_can_be_loaded(path: Path) -> None:
    data = bytes.fromhex(json.loads(path.read_text())["state"])
    name, _dash, version = path.stem.rpartition("-")
    bench, again = bench_of(PARENTS[name]), bench_of(PARENTS[name])
    fresh = bench.device.save()
    bench.device.load(data)
    loaded = bench.device.save()
    assert loaded != fresh
    again.device.load(loaded)
    assert again.device.save() == loaded
    if int(version) == PARENTS[name].function.state_version:
        assert loaded == data
    for each in (bench, again):
        each.close()


def test_every_version_is_recorded() -> None:
    for name, parent in PARENTS.items():
        for version in (*parent.function.upgrades, parent.function.state_version):
            assert file_of(name, version).exists()


def test_change_is_found_and_says_what_to_do() -> None:
    """The negative control."""
    now = schema_of(Crc.function)
    assert "set state_version = 2, give it upgrades = {1: ...}" in advice("crc", {**now, "gone": 1}, now)
    assert "more is saved of a device:\ntotal" in advice("crc", {k: v for k, v in now.items() if k != "total"}, now)
    assert advice("crc", now, now) == ""


def test_damaged_recording_would_be_found() -> None:
    recorded = json.loads(file_of("crc", 1).read_text())
    bench = bench_of(Crc)
    with pytest.raises(StateError):
        bench.device.load(bytes.fromhex(recorded["state"])[:-1])
    bench.close()
