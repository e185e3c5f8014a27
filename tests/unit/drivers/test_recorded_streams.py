"""Migration streams of our drivers as they were once recorded: every one of them can be loaded for ever.

A file of tests/state/streams is one version of one driver's state in one format of streams: what the stream says of
itself for each type of mdev, the stream of a device that was copied while it was in use, and the state it had then.
"""

import json
import os
import zlib
from base64 import b64decode, b64encode
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from mdev_user.driver import StateError
from mdev_user.driver.assembly import Place
from mdev_user.driver.members import declarations
from mdev_user.driver.memory import Memory
from mdev_user.driver.saving.header import header_of
from mdev_user.driver.saving.pages import places_of
from mdev_user.driver.saving.records import FORMAT, Kind
from mdev_user.driver.saving.snapshot import from_bytes, to_bytes
from mdev_user.testing import Guest
from mdev_user.testing.conformance.streams import cut, joined, records
from mdev_user.units import PAGE
from unit.drivers.test_recorded_state import PARENTS, AnyParent

FOLDER = Path(__file__).resolve().parents[2] / "state" / "streams"
RECORD = "MDEV_USER_RECORD_STATE=1 python -m pytest tests/unit/drivers/test_recorded_streams.py"
ACCESSES = 100


def in_use(guest: Guest) -> bytes:
    """The stream of a device that is copied between accesses, always the same; with jobs under way."""
    random = Random(1)
    for number, (region, space) in enumerate(guest.device._spaces.items()):
        for _ in range(ACCESSES):
            slot = random.choice(space._layout.slots)
            guest.write_bytes(region, slot.offset, random.randbytes(slot.size))
        guest.step()
        write_memory(guest, number)
        guest.copy()
    guest.write_config(0x10, b"\x00\x00\x00\xe0")
    write_memory(guest, 7)
    guest.copy(PAGE // 2)
    write_memory(guest, 8)
    return guest.save()


def write_memory(guest: Guest, number: int) -> None:
    """A page for each number, and one that is written every time."""
    for place in guest.places():
        for each in declarations(place.kind).values():
            if isinstance(each, Memory):
                for page in (0, number + 1):
                    write_one(guest, place, each, each._offset + page * PAGE + 16, bytes([number + 1]) * 8)


def write_one(guest: Guest, place: Place, memory: Memory, at: int, data: bytes) -> None:
    """As a guest that maps it; as the driver, where it is private."""
    if not memory._private:
        guest.write_mapped(place.bar + memory._index, at, data)
        return
    assert not place.name, "private memory of a part: nobody has written to it here yet"
    getattr(guest.device.function, memory._name)[at : at + len(data)] = data


def described(parent: AnyParent) -> dict[str, Any]:  # Any: what msgpack can say
    """What the headers of a driver's streams say of each type of mdev."""
    found = {}
    for name in parent.types:
        with Guest(parent, name) as guest:
            header = header_of(parent.function, guest.device.function.profile, places_of(guest.device))
            said = msgspec.msgpack.decode(msgspec.msgpack.encode(header))
            found[name] = {"profile": said["profile"], "memories": said["memories"]}
    return found


def packed(data: bytes) -> str:
    return b64encode(zlib.compress(data, 9)).decode()


def unpacked(text: str) -> bytes:
    return zlib.decompress(b64decode(text))


def file_of(name: str, version: int) -> Path:
    return FOLDER / f"{name}-{version}-{FORMAT}.json"


def record(name: str, parent: AnyParent) -> None:
    """Once: what was recorded was sent, and must be taken ever after."""
    path = file_of(name, parent.function.state_version)
    if path.exists():
        return
    with Guest(parent) as guest:
        stream = in_use(guest)
        said = {"type": next(iter(parent.types)), "types": described(parent)}
        found = {**said, "state": packed(guest.device.save()), "stream": packed(stream)}
        path.write_text(json.dumps(found, indent=1) + "\n")


@pytest.mark.parametrize("name", PARENTS)
def test_headers_are_the_recorded_ones(name: str) -> None:
    parent = PARENTS[name]
    version = parent.function.state_version
    if os.environ.get("MDEV_USER_RECORD_STATE") == "1":
        record(name, parent)
    path = file_of(name, version)
    assert path.exists(), f"{name}: no stream of version {version} in format {FORMAT} is recorded: {RECORD}"
    found = changes(json.loads(path.read_text())["types"], described(parent))
    assert not found, (
        f"{name}: types are other ones, and streams of version {version} exist:\n"
        + "\n".join(found)
        + f"\nTake it back, or set state_version = {version + 1}, give it upgrades = {{{version}: ...}}, and: {RECORD}"
    )


def changes(recorded: dict[str, Any], now: dict[str, Any]) -> list[str]:  # Any: as above
    """What makes that a recorded stream cannot be loaded; more fields and more memories do not."""
    found = [f"{name} is gone" for name in recorded.keys() - now.keys()]
    for name in recorded.keys() & now.keys():
        was, given = recorded[name]["profile"], now[name]["profile"]
        found += [f"{name}.{each}" for each in was.keys() & given.keys() if was[each] != given[each]]
        found += [f"{name}: memory {each}" for each in recorded[name]["memories"] if each not in now[name]["memories"]]
    return sorted(found)


def test_change_of_a_type_is_found() -> None:
    """The negative control."""
    recorded = described(PARENTS["crc"])
    small = recorded["small"]["profile"]
    assert changes(recorded, recorded) == []
    assert changes(recorded, {**recorded, "small": {"profile": {**small, "more": 1}, "memories": [("more", 1)]}}) == []
    assert changes(recorded, {**recorded, "small": {"profile": {**small, "lanes": 2}, "memories": []}}) == [
        "small.lanes"
    ]
    assert changes(recorded, {}) == ["large is gone", "small is gone"]
    display = {"vga": {"profile": {}, "memories": [("frame", 4)]}}
    assert changes(display, {"vga": {"profile": {}, "memories": [("frame", 8)]}}) == ["vga: memory ('frame', 4)"]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_recorded_stream_can_be_loaded(path: Path) -> None:
    recorded = json.loads(path.read_text())
    stream, state = unpacked(recorded["stream"]), unpacked(recorded["state"])
    name, version, _format = path.stem.split("-")
    parent = PARENTS[name]
    with Guest(parent, recorded["type"]) as guest, Guest(parent, recorded["type"]) as again:
        fresh = guest.device.save()
        guest.load(*cut(stream))
        assert guest.device.save() != fresh
        if int(version) == parent.function.state_version:
            assert as_then(guest.device.save()) == state
        again.load(guest.save())
        assert again.device.save() == guest.device.save()
        guest.run()
        assert guest.read_config(0, 2) == again.read_config(0, 2)


def as_then(state: bytes) -> bytes:
    """Without what these recordings do not have, since it came later."""
    return to_bytes(msgspec.structs.replace(from_bytes(state, 1 << 30), automasked=False))


def test_recordings_have_what_a_stream_can_have() -> None:
    """Memory that was sent twice, memory that had not changed, and jobs under way."""
    kinds = {path.stem: [kind for kind, _payload in records(recording(path))] for path in FOLDER.glob("*.json")}
    assert sum(found.count(Kind.PAGES) > 1 for found in kinds.values()) >= 2
    assert all(found[-2:] == [Kind.STATE, Kind.END] for found in kinds.values())
    states = [msgspec.msgpack.decode(records(recording(path))[-2][1]) for path in FOLDER.glob("*.json")]
    assert any(state["jobs"] for state in states)


def recording(path: Path) -> bytes:
    return unpacked(json.loads(path.read_text())["stream"])


def test_state_of_format_1_is_a_stream_too() -> None:
    recorded = json.loads((FOLDER.parent / "crc-1.json").read_text())
    with Guest(PARENTS["crc"]) as guest:
        guest.load(*cut(bytes.fromhex(recorded["state"])))
        assert guest.device.save().hex() == recorded["state"]


@pytest.mark.parametrize("name", PARENTS)
def test_damaged_recording_is_refused(name: str) -> None:
    """The negative control."""
    found = records(recording(file_of(name, PARENTS[name].function.state_version)))
    with Guest(PARENTS[name]) as guest:
        before = guest.device.save()
        for damaged in (joined(found)[:-1], joined(found[:-1]), joined(found[1:]), joined([*found, found[-1]])):
            with pytest.raises(StateError):
                guest.load(damaged)
            assert guest.device.save() == before


def test_stream_of_another_type_is_refused_in_clear_words() -> None:
    crc = PARENTS["crc"]
    with Guest(crc, "large") as guest, pytest.raises(StateError, match="load it into an mdev of the type"):
        guest.load(recording(file_of("crc", 1)))


def test_stream_of_a_newer_release_is_refused() -> None:
    stream = recording(file_of("crc", 1))
    with Guest(PARENTS["crc"]) as guest, pytest.raises(StateError, match="of a newer mdev-user"):
        guest.load(stream[:8] + (FORMAT + 1).to_bytes(2, "little") + stream[10:])


def test_every_version_is_recorded() -> None:
    for name, parent in PARENTS.items():
        recorded = {int(path.stem.split("-")[1]) for path in FOLDER.glob(f"{name}-*.json")}
        assert recorded == {*parent.function.upgrades, parent.function.state_version}
