"""Snapshots: the saved state of a device as bytes, and as what the upgrades of a driver work on.

The bytes are a header, which says what they are, and one msgpack map. They come from another machine: nothing in them
is believed, and their sizes are looked at before anything is made of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from struct import Struct
from typing import Annotated, TypeAlias

import msgspec

from mdev_user.driver.saving.kinds import decoded, encoded, told
from mdev_user.errors import DriverError, StateError
from mdev_user.units import MiB
from mdev_user.vfio.work import MOST_PENDING

MAGIC = b"mdevuser"
FORMAT = 1
"""Of the bytes, and of what the framework itself keeps: config space, MSI-X table, levels and pending messages."""
LARGEST = 4 * MiB
"""Bytes of a snapshot, without its memory."""
MOST_VALUES = 1 << 17

_HEADER = Struct("<8sH")


@dataclass(frozen=True)
class SavedJob:
    """A job that was under way. It begins anew where it is loaded."""

    unit: str
    """``ports[1]``; empty for the function's own."""
    name: str
    arguments: Mapping[str, object]
    slept: float = 0.0
    """Seconds that it has slept so far; it will not sleep them again."""
    again: bool = False
    """Whether a worker was called meanwhile, and so runs once more."""


@dataclass(frozen=True)
class Snapshot:
    """The state of a device when it was saved. An upgrade makes one from another, with `dataclasses.replace`.

    ``values`` has what differs from a device that was just reset, by name: ``regs.status``, ``total``,
    ``ports[0].regs.lcr``. A value is what msgpack makes of it: a tuple, a frozen set and a `Table` (of pairs) are
    lists, a dataclass is a dict, an enumeration its value.
    """

    driver: str
    version: int
    values: Mapping[str, object] = field(default_factory=dict)
    jobs: tuple[SavedJob, ...] = ()
    memory: Mapping[str, tuple[bytes, bytes]] = field(default_factory=dict)
    """By name: which pages are not zero, as pairs of 64-bit numbers (first, how many), and those pages."""
    config: bytes = b""
    levels: bytes = b""
    pending: bytes = b""
    vectors: bytes = b""
    """The MSI-X table."""
    events: bytes = b""
    """Of what is pending, the messages that no level stands behind."""
    automasked: bool = False
    """Whether INTx has fired, and nobody has unmasked it since."""


class JobStream(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A `SavedJob` with its arguments still undecoded."""

    unit: str
    name: str
    arguments: Annotated[dict[str, msgspec.Raw], msgspec.Meta(max_length=64)]
    slept: float
    again: bool


class Stream(msgspec.Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """A `Snapshot` with its values still undecoded: the type of each is the device's to say."""

    driver: str
    version: int
    values: Annotated[dict[str, msgspec.Raw], msgspec.Meta(max_length=MOST_VALUES)]
    jobs: Annotated[list[JobStream], msgspec.Meta(max_length=MOST_PENDING)]
    memory: Annotated[dict[str, tuple[bytes, bytes]], msgspec.Meta(max_length=64)]
    config: bytes
    levels: bytes
    pending: bytes
    vectors: bytes
    events: bytes = b""
    automasked: bool = False


Upgrade: TypeAlias = Callable[[Snapshot], Snapshot]
Upgrades: TypeAlias = Mapping[int, Upgrade]

_DECODER = msgspec.msgpack.Decoder(Stream)


def to_bytes(stream: Stream) -> bytes:
    """DriverError for one that is too large to be loaded."""
    return _HEADER.pack(MAGIC, FORMAT) + body_of(stream)


def body_of(stream: Stream) -> bytes:
    """The map alone. DriverError as of `to_bytes`."""
    body = encoded(stream)
    if len(body) > LARGEST + _memory_bytes(stream):
        raise DriverError(
            f"{stream.driver}: a state of {len(body)} bytes: expected at most {LARGEST}; keep what is large in Memory"
        )
    return body


def from_bytes(data: bytes, memory: int) -> Stream:
    """What hostile bytes say, or StateError. ``memory`` is how many bytes of `Memory` the device has."""
    if data[: len(MAGIC)] != MAGIC or len(data) < _HEADER.size:
        raise StateError(f"saved state: expected it to begin with {MAGIC!r}, given {bytes(data[:8])!r}")
    _magic, given = _HEADER.unpack_from(data)
    if given != FORMAT:
        raise StateError(f"saved state: expected format {FORMAT}, given {given}: it is of another mdev-user")
    if len(data) > largest(memory):
        raise StateError(f"saved state: expected at most {largest(memory)} bytes, given {len(data)}")
    return from_body(memoryview(data)[_HEADER.size :])


def largest(memory: int) -> int:
    """Bytes that a saved state has at most, with so many bytes of memory and of what says where they are."""
    return _HEADER.size + LARGEST + memory


def from_body(body: memoryview) -> Stream:
    """What a hostile map says, or StateError. The caller has looked at its size."""
    try:
        return _DECODER.decode(body)
    except (msgspec.MsgspecError, RecursionError, ValueError, TypeError) as error:
        raise StateError(f"saved state: {told(error)}") from error


def upgraded(stream: Stream, driver: str, version: int, upgrades: Upgrades) -> Stream:
    """The stream as one of ``driver`` at ``version``; StateError when there is no way from it to there."""
    if stream.driver != driver:
        raise StateError(f"saved state: expected one of {driver}, given one of {stream.driver!r:.80}")
    if stream.version == version:
        return stream
    if stream.version > version:
        raise StateError(
            f"{driver}: state version {stream.version}: expected at most {version}; update the driver here first"
        )
    snapshot = decoded_snapshot(stream)
    while snapshot.version < version:
        snapshot = _upgraded(snapshot, upgrades)
    return encoded_stream(snapshot)


def _upgraded(snapshot: Snapshot, upgrades: Upgrades) -> Snapshot:
    version = snapshot.version
    upgrade = upgrades.get(version)
    if upgrade is None:
        known = ", ".join(map(str, sorted(upgrades))) or "none"
        raise StateError(f"{snapshot.driver}: state version {version}: there is no upgrade from it, but from: {known}")
    try:
        made = upgrade(snapshot)
    except Exception as error:  # whatever an author's code raises on a stranger's state
        raise StateError(
            f"{snapshot.driver}: the upgrade from state version {version}: {type(error).__name__}: {told(error)}"
        ) from error
    if not isinstance(made, Snapshot):
        raise StateError(
            f"{snapshot.driver}: the upgrade from state version {version} returned {made!r:.80}: expected a Snapshot"
        )
    return replace(made, driver=snapshot.driver, version=version + 1)


def decoded_snapshot(stream: Stream) -> Snapshot:
    """The snapshot, for people and upgrades."""
    return Snapshot(
        driver=stream.driver,
        version=stream.version,
        values=_decoded(stream.values),
        jobs=tuple(
            SavedJob(each.unit, each.name, _decoded(each.arguments), each.slept, each.again) for each in stream.jobs
        ),
        memory=stream.memory,
        config=stream.config,
        levels=stream.levels,
        pending=stream.pending,
        vectors=stream.vectors,
        events=stream.events,
        automasked=stream.automasked,
    )


def encoded_stream(snapshot: Snapshot) -> Stream:
    """The stream; StateError when an upgrade made of the values what cannot be encoded."""
    made = Stream(
        driver=snapshot.driver,
        version=snapshot.version,
        values=_encoded(snapshot.values),
        jobs=[
            JobStream(each.unit, each.name, _encoded(each.arguments), each.slept, each.again) for each in snapshot.jobs
        ],
        memory=dict(snapshot.memory),
        config=snapshot.config,
        levels=snapshot.levels,
        pending=snapshot.pending,
        vectors=snapshot.vectors,
        events=snapshot.events,
        automasked=snapshot.automasked,
    )
    try:
        return _DECODER.decode(encoded(made))  # what an upgrade made is checked as what came from outside
    except msgspec.MsgspecError as error:
        raise StateError(f"{snapshot.driver}: what an upgrade made: {told(error)}") from error


def _decoded(values: Mapping[str, msgspec.Raw]) -> dict[str, object]:
    return {name: decoded(value) for name, value in values.items()}


def _encoded(values: Mapping[str, object]) -> dict[str, msgspec.Raw]:
    return {name: msgspec.Raw(encoded(value)) for name, value in values.items()}


def _memory_bytes(stream: Stream) -> int:
    return sum(len(runs) + len(pages) for runs, pages in stream.memory.values())
