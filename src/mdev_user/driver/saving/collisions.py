"""Collisions: a stranger's sets and keys are looked at before they are made.

Everybody knows the hashes of numbers and of tuples. To make a set or a dictionary of n values of one hash takes time
that grows as n * n, so a small saved state could stop a device for hours.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any, TypeAlias, Union, get_args, get_origin, get_type_hints

import msgspec

from mdev_user.errors import StateError

Annotation: TypeAlias = Any  # Any: a type as an author writes it, for which Python has no type
Encoded: TypeAlias = bytes | msgspec.Raw
Look: TypeAlias = Callable[[Encoded], None]
"""Raises what msgspec raises, or StateError, for the bytes of a value that is not to be made."""

MOST_ALIKE = 64
"""Different values of one hash. Of 64-bit ints there are a dozen, and of strings as many as chance makes."""
MOST_LEVELS = 64
"""Of maps and lists within each other, of a type that nobody knows: each level is looked over once more."""

_HARMLESS = {int, str, bytes, bool, NoneType}
_ARRAYS, _MAPS = bytes([*range(0x90, 0xA0), 0xDC, 0xDD]), bytes([*range(0x80, 0x90), 0xDE, 0xDF])
"""How msgpack's arrays and maps begin."""
_LARGE_MAPS = _MAPS[-2:]
"""Those with room for more than 15 keys."""
_ANY = msgspec.msgpack.Decoder()
_ELEMENTS = msgspec.msgpack.Decoder(list[msgspec.Raw])
_FIELDS = msgspec.msgpack.Decoder(dict[str, msgspec.Raw])


def check_hashes(what: str, values: Iterable[object]) -> None:
    """StateError for more than `MOST_ALIKE` values of one hash."""
    alike = max(Counter(map(hash, values)).values(), default=0)
    if alike > MOST_ALIKE:
        raise StateError(f"{what}: expected at most {MOST_ALIKE} values of one hash, given {alike}")


def untyped(data: Encoded) -> object:
    """What msgpack says, large maps with names for keys and no others. Raises what msgspec raises, or ValueError."""
    return _untyped(data, MOST_LEVELS)


def _untyped(data: Encoded, levels: int) -> object:
    whole = bytes(data)
    if len(whole.translate(None, _LARGE_MAPS)) == len(whole):  # most: none is here, nor anything like one
        return _ANY.decode(data)
    if not levels:
        raise ValueError(f"expected at most {MOST_LEVELS} levels")
    if _begins(data, _ARRAYS):
        return [_untyped(each, levels - 1) for each in _ELEMENTS.decode(data)]
    if _begins(data, _MAPS):
        return {name: _untyped(each, levels - 1) for name, each in _FIELDS.decode(data).items()}
    return _ANY.decode(data)


def looking(what: str, annotation: Annotation) -> Look | None:
    """What looks at the bytes of a value of this type; None for a type without a set that a stranger could abuse."""
    return _look(what, annotation, {})


def _look(what: str, annotation: Annotation, made: dict[type, Look]) -> Look | None:
    """``made`` are the dataclasses that were met: one can contain itself."""
    inner = get_args(annotation)
    origin: object = get_origin(annotation)
    if origin in {Union, UnionType}:
        return _in_turn([_look(what, each, made) for each in inner])
    if isinstance(annotation, type) and is_dataclass(annotation):
        return _at_fields(what, annotation, made)
    if origin is frozenset:
        return _at_set(what, inner[0], _look(what, inner[0], made))
    if origin is tuple and inner[-1:] == (...,):
        return _at_each(_look(what, inner[0], made))
    if origin is tuple:
        return _at_places([_look(what, each, made) for each in inner])
    return None


def _in_turn(looks: list[Look | None]) -> Look | None:
    found = [each for each in looks if each is not None]

    def look(data: Encoded) -> None:
        for each in found:
            each(data)

    return look if found else None


def _at_fields(what: str, kind: Any, made: dict[type, Look]) -> Look | None:  # noqa: ANN401 - Any: a dataclass
    if kind in made:
        return lambda data: made[kind](data)  # noqa: PLW0108 - which look it is, is known later
    looks: dict[str, Look] = {}

    def look(data: Encoded) -> None:
        if _begins(data, _MAPS):
            for name, value in _FIELDS.decode(data).items():
                if name in looks:
                    looks[name](value)

    made[kind] = look
    hints = get_type_hints(kind)
    found = {each.name: _look(what, hints[each.name], made) for each in fields(kind)}
    looks.update((name, each) for name, each in found.items() if each is not None)
    return look if looks else None


def _at_set(what: str, element: Annotation, within: Look | None) -> Look | None:
    if element in _HARMLESS or (isinstance(element, type) and issubclass(element, Enum)):
        return None
    at_each = _at_each(within)
    decoder = msgspec.msgpack.Decoder(tuple[element, ...])

    def look(data: Encoded) -> None:
        if at_each is not None:  # first: sets of sets are made to know their hashes
            at_each(data)
        if _begins(data, _ARRAYS):
            check_hashes(what, decoder.decode(data))

    return look


def _at_each(element: Look | None) -> Look | None:
    if element is None:
        return None
    at_element = element

    def look(data: Encoded) -> None:
        if _begins(data, _ARRAYS):
            for each in _ELEMENTS.decode(data):
                at_element(each)

    return look


def _at_places(looks: list[Look | None]) -> Look | None:
    def look(data: Encoded) -> None:
        if _begins(data, _ARRAYS):
            for at_place, each in zip(looks, _ELEMENTS.decode(data), strict=False):
                if at_place is not None:
                    at_place(each)

    return look if any(looks) else None


def _begins(data: Encoded, headers: bytes) -> bool:
    view = memoryview(data)
    return len(view) > 0 and view[0] in headers
