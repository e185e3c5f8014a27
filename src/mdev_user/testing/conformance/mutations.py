"""What damage and malice make of a saved state."""

from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

HEADER = 10
"""Bytes before the msgpack map."""
_LEAST, _MOST = -(1 << 63), (1 << 64) - 1
"""The integers of msgpack."""

ODD_VALUES: tuple[object, ...] = (
    None, True, -1, 0, 1, 255, 1 << 31, (1 << 64) - 1, -(1 << 63), 1.5, float("nan"), float("inf"), "", "x", "regs",
    b"", b"\xff" * 9, [], [1], [[1, 2]], {}, {"x": 1},
)  # fmt: skip


class Mutation(msgspec.Struct, frozen=True):
    """``kind`` names what is done; ``place`` says where, as a share of 2**16, and ``value`` with what."""

    kind: str
    place: int
    value: int
    data: bytes = b""


def mutated(state: bytes, mutation: Mutation) -> bytes:
    return MUTATIONS[mutation.kind](state, mutation)


def _at(state: bytes, mutation: Mutation) -> int:
    return mutation.place * len(state) >> 16


def _flip(state: bytes, mutation: Mutation) -> bytes:
    at = _at(state, mutation)
    return state[:at] + bytes([state[at] ^ (mutation.value & 0xFF or 1)]) + state[at + 1 :]


def _cut(state: bytes, mutation: Mutation) -> bytes:
    return state[: _at(state, mutation)]


def _insert(state: bytes, mutation: Mutation) -> bytes:
    at = _at(state, mutation)
    return state[:at] + mutation.data + state[at:]


def _replace(_state: bytes, mutation: Mutation) -> bytes:
    return mutation.data


def _body(state: bytes, mutation: Mutation) -> bytes:
    return state[:HEADER] + mutation.data


Path: TypeAlias = tuple[Any, ...]  # Any: keys and indexes


def _leaves(value: object, path: Path = ()) -> list[Path]:
    if isinstance(value, dict):
        return [path, *(leaf for key, each in value.items() for leaf in _leaves(each, (*path, key)))]
    if isinstance(value, list):
        return [path, *(leaf for at, each in enumerate(value) for leaf in _leaves(each, (*path, at)))]
    return [path]


def _change(state: bytes, mutation: Mutation, change: Callable[[Any, Any], None]) -> bytes:  # Any: msgpack's values
    values = msgspec.msgpack.decode(state[HEADER:])
    leaves = [path for path in _leaves(values) if path]
    path = leaves[mutation.place * len(leaves) >> 16]
    holder = values
    for key in path[:-1]:
        holder = holder[key]
    change(holder, path[-1])
    return state[:HEADER] + msgspec.msgpack.encode(values)


def _odd(state: bytes, mutation: Mutation) -> bytes:
    def put(holder: Any, key: Any) -> None:  # noqa: ANN401 - Any: msgpack's values
        holder[key] = ODD_VALUES[mutation.value % len(ODD_VALUES)]

    return _change(state, mutation, put)


def _drop(state: bytes, mutation: Mutation) -> bytes:
    def drop(holder: Any, key: Any) -> None:  # noqa: ANN401 - Any: as above
        del holder[key]

    return _change(state, mutation, drop)


def _nudge(state: bytes, mutation: Mutation) -> bytes:
    def nudge(holder: Any, key: Any) -> None:  # noqa: ANN401 - Any: as above
        value = holder[key]
        if isinstance(value, int):
            holder[key] = min(max(value + mutation.value % 7 - 3, _LEAST), _MOST)
        elif isinstance(value, float):
            holder[key] = value + mutation.value % 7 - 3
        elif isinstance(value, bytes):
            holder[key] = bytes(byte ^ (mutation.value & 0xFF) for byte in value)
        elif isinstance(value, list):
            holder[key] = value * 2

    return _change(state, mutation, nudge)


def _add(state: bytes, mutation: Mutation) -> bytes:
    def add(holder: Any, _key: Any) -> None:  # noqa: ANN401 - Any: as above
        odd = ODD_VALUES[mutation.value % len(ODD_VALUES)]
        if isinstance(holder, dict):
            holder[mutation.data.decode(errors="replace")] = odd
        else:
            holder.append(odd)

    return _change(state, mutation, add)


MUTATIONS: dict[str, Callable[[bytes, Mutation], bytes]] = {
    "flip": _flip, "cut": _cut, "insert": _insert, "replace": _replace, "body": _body, "odd": _odd, "drop": _drop,
    "nudge": _nudge, "add": _add,
}  # fmt: skip
