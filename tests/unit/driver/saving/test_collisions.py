"""A stranger's sets and keys of one hash are refused before time that grows as their square is spent on them."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import pytest

from mdev_user.driver import Function, PciId, Profile, Saved, StateError, Table
from mdev_user.driver.saving.collisions import MOST_ALIKE
from mdev_user.driver.saving.kinds import Annotation, Kind, decoded, encoded
from unit.driver.bench import Bench


@dataclass(frozen=True)
class Tree:
    ids: frozenset[tuple[int, ...]] = frozenset()
    inner: "Tree | None" = None


@dataclass(frozen=True)
class Pair:
    first: int
    second: int


class Tables(Function[Profile]):
    identity = PciId(vendor=0x1DE5, device=9, class_code=0x120000)
    keyed = Table[tuple[int, ...], int](limit=65536)
    held = Table[int, frozenset[tuple[int, ...]]](limit=16)
    ids = Saved[frozenset[tuple[int, ...]]](frozenset())


def alike(length: int = 7) -> list[tuple[int, ...]]:
    """128 tuples of one hash: -1 and -2 have the same."""
    return list(product((-1, -2), repeat=length))


def harmless() -> Iterator[tuple[int, int]]:
    return ((number, -number) for number in range(500))


HOSTILE: list[tuple[Annotation, object]] = [
    (frozenset[tuple[int, ...]], alike()),
    (frozenset[Pair], [{"first": one, "second": two} for one, two in product((-1, -2), repeat=2)] * 20),
    (frozenset[tuple[int, ...]] | None, alike()),
    (tuple[frozenset[tuple[int, ...]], ...], [alike(1), alike()]),
    (tuple[int, frozenset[tuple[int, ...]]], [1, alike()]),
    (frozenset[frozenset[tuple[int, ...]]], [alike(1), alike()]),
    (Tree, {"ids": alike()}),
    (Tree, {"inner": {"inner": {"ids": alike()}}}),
]


@pytest.mark.parametrize(("annotation", "value"), HOSTILE)
def test_set_of_values_of_one_hash_is_refused(annotation: Annotation, value: object) -> None:
    with pytest.raises(StateError, match=rf"F.x: expected .*at most {MOST_ALIKE} values of one hash, given"):
        Kind("F.x", annotation).decode(encoded(value))


def test_set_that_is_wrong_only_at_its_end_is_refused_without_being_made() -> None:
    kind = Kind("F.x", frozenset[tuple[int, ...]])
    kind._decoder = None  # type: ignore[assignment]  # it must not be asked
    with pytest.raises(StateError, match="Expected `array`, got `str`"):
        kind.decode(encoded([*alike(), "x"]))


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (frozenset[tuple[int, int]], frozenset(harmless())),
        (frozenset[int], frozenset(range(500))),
        (frozenset[str], frozenset(map(str, range(500)))),
        (frozenset[frozenset[tuple[int, int]]], frozenset([frozenset(harmless()), frozenset()])),
        (tuple[tuple[int, ...], ...], tuple(alike())),
        (Tree, Tree(frozenset(alike(6)), Tree(inner=Tree()))),
        (Tree | None, None),
        (frozenset[tuple[int, ...]], frozenset(alike(6))),
    ],
)
def test_values_of_many_hashes_are_what_was_saved(annotation: Annotation, value: object) -> None:
    assert Kind("F.x", annotation).decode(encoded(value)) == value


def test_keys_of_one_hash_are_refused() -> None:
    device = Bench(Tables).device
    members = type(device.function)._plan.members
    for name, value in (("keyed", [(key, 0) for key in alike()]), ("held", [(1, alike())]), ("ids", alike())):
        with pytest.raises(StateError, match=rf"Tables.{name}.*values of one hash, given 128"):
            members[name]._load(encoded(value))  # type: ignore[attr-defined]  # one that is kept


def test_maps_of_no_known_type_have_names_for_keys() -> None:
    """The type of what is in the way of an upgrade is not known."""
    keys = alike(4)
    hostile = b"\xde" + len(keys).to_bytes(2, "big") + b"".join(encoded(key) + b"\x00" for key in keys)
    with pytest.raises(StateError, match="Expected `str`, got `array`"):
        decoded(hostile)
    with pytest.raises(StateError, match="Expected `str`, got `array`"):
        decoded(b"\x92\x01\x81\xa1x" + hostile)


def test_large_maps_are_decoded_as_small_ones() -> None:
    value = {"list": [1, {"bytes": b"\xde\xdf"}], **{f"field{number}": number for number in range(100)}}
    assert decoded(encoded(value)) == value
    assert decoded(encoded([[0xDE, -1, None, 1.5]])) == [[0xDE, -1, None, 1.5]]


def test_large_maps_in_too_many_levels_are_refused() -> None:
    with pytest.raises(StateError, match="at most 64 levels"):
        decoded(b"\x91" * 65 + b"\xde\x00\x00")
