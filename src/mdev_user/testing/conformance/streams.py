"""Migration streams as a connection delivers them, and as damage and malice leave them."""

from collections.abc import Callable
from random import Random
from zlib import crc32

import msgspec

from mdev_user.driver.saving.records import PREFIX, Kind, Reader, Writer
from mdev_user.testing.conformance.mutations import HEADER, MUTATIONS, Mutation, mutated

_MOST_PIECES = 64
_SIZES = (1, 2, 7, 64, 500, 4096)

Records = list[tuple[Kind, bytes]]


def cut(stream: bytes) -> list[bytes]:
    """The stream in pieces; the same ones of the same stream."""
    random, at = Random(crc32(stream)), 0  # noqa: S311 - no secret
    pieces: list[bytes] = []
    while at < len(stream) and len(pieces) < _MOST_PIECES:
        size = random.choice(_SIZES)
        pieces.append(stream[at : at + size])
        at += size
    return [*pieces, stream[at:]] if at < len(stream) else pieces


def records(stream: bytes) -> Records:
    """What a stream consists of."""
    return [(kind, bytes(payload)) for kind, payload in Reader().feed(stream[PREFIX.size :])]


def joined(found: Records) -> bytes:
    """A stream of these records, with the checksums that belong to it."""
    writer = Writer()
    return b"".join([writer.begin(), *(writer.record(kind, payload) for kind, payload in found)])


class Tampering(msgspec.Struct, frozen=True):
    """``kind`` names what is done, the mutation how; ``forged``: by somebody who knows how to make checksums."""

    kind: str
    mutation: Mutation

    @property
    def forged(self) -> bool:
        return self.kind in FORGERIES


def tampered(stream: bytes, tampering: Tampering) -> bytes:
    if tampering.kind in FORGERIES:
        found = records(stream)
        FORGERIES[tampering.kind](found, tampering.mutation)
        return joined(found)
    return DAMAGES[tampering.kind](stream, tampering.mutation)


# --- damage -----------------------------------------------------------------------------------------------------


def _raw(stream: bytes) -> list[bytes]:
    """The records as they are in the stream, checksums included; the prefix is not among them."""
    writer = Writer()
    return [writer.record(kind, payload) for kind, payload in records(stream)]


def _repeat(stream: bytes, mutation: Mutation) -> bytes:
    pieces = _raw(stream)
    at = mutation.place * len(pieces) >> 16
    return b"".join([stream[: PREFIX.size], *pieces[: at + 1], *pieces[at:]])


def _lose(stream: bytes, mutation: Mutation) -> bytes:
    pieces = _raw(stream)
    del pieces[mutation.place * len(pieces) >> 16]
    return b"".join([stream[: PREFIX.size], *pieces])


def _reorder(stream: bytes, mutation: Mutation) -> bytes:
    pieces = _raw(stream)
    one, other = mutation.place * len(pieces) >> 16, mutation.value % len(pieces)
    pieces[one], pieces[other] = pieces[other], pieces[one]
    return b"".join([stream[: PREFIX.size], *pieces])


def _flip_bit(stream: bytes, mutation: Mutation) -> bytes:
    at = mutation.place * len(stream) >> 16
    return stream[:at] + bytes([stream[at] ^ 1 << mutation.value % 8]) + stream[at + 1 :]


DAMAGES: dict[str, Callable[[bytes, Mutation], bytes]] = {
    "leave it": lambda stream, _mutation: stream,
    "flip a bit": _flip_bit,
    "cut": MUTATIONS["cut"],
    "insert": MUTATIONS["insert"],
    "replace": MUTATIONS["replace"],
    "repeat a record": _repeat,
    "lose a record": _lose,
    "reorder records": _reorder,
    "send twice": lambda stream, _mutation: stream + stream,
}
"""What must be refused, or leave the same device."""


# --- forgery ----------------------------------------------------------------------------------------------------


def _forge(found: Records, mutation: Mutation) -> None:
    """Bytes of a record are other ones."""
    at = mutation.place * len(found) >> 16
    kind, payload = found[at]
    place = len(payload) * mutation.value >> 8
    found[at] = kind, payload[:place] + mutation.data + payload[place + len(mutation.data) :]


def _forge_map(wanted: Kind, found: Records, mutation: Mutation) -> None:
    """A value of a map is another one."""
    at = next(at for at, (kind, _payload) in enumerate(found) if kind is wanted)
    found[at] = wanted, mutated(bytes(HEADER) + found[at][1], mutation)[HEADER:]


def _swap(found: Records, mutation: Mutation) -> None:
    one, other = mutation.place * len(found) >> 16, mutation.value % len(found)
    found[one], found[other] = found[other], found[one]


def _add(found: Records, mutation: Mutation) -> None:
    kind = list(Kind)[mutation.value % len(Kind)]
    found.insert(mutation.place * (len(found) + 1) >> 16, (kind, mutation.data))


def _double(found: Records, mutation: Mutation) -> None:
    at = mutation.place * len(found) >> 16
    found.insert(at, found[at])


def _drop(found: Records, mutation: Mutation) -> None:
    del found[mutation.place * len(found) >> 16]


FORGERIES: dict[str, Callable[[Records, Mutation], None]] = {
    "forge": _forge,
    "forge the header": lambda found, mutation: _forge_map(Kind.HEADER, found, mutation),
    "forge the state": lambda found, mutation: _forge_map(Kind.STATE, found, mutation),
    "forge the order": _swap,
    "forge another record": _add,
    "forge a record twice": _double,
    "forge without a record": _drop,
}
"""What may be another device of the kind, and otherwise must be refused."""
