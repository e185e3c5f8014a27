"""The damage of a head: nothing that was told is lost, however it is put together, and it is never much."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdev_user.vfio import damage
from mdev_user.vfio.damage import MOST_RECTANGLES, Damage, DamageFeeds, Rect

SIDE = 24
rects = st.builds(Rect, st.integers(0, SIDE), st.integers(0, SIDE), st.integers(0, 8), st.integers(0, 8))
scattered = st.builds(Rect, st.integers(0, 200), st.integers(0, 200), st.just(1), st.just(1))


class Watched:
    """A feed with one watcher."""

    def __init__(self, tells: bool = True) -> None:
        self.feeds, self.woken = DamageFeeds(), 0
        self.damage: Damage = self.feeds.watch(0, self._wake, lambda: tells)

    def _wake(self) -> None:
        self.woken += 1


def pixels(of: Iterable[Rect]) -> set[tuple[int, int]]:
    return {
        (x, y) for each in of for x in range(each.x, each.x + each.width) for y in range(each.y, each.y + each.height)
    }


@given(st.lists(rects | scattered, max_size=200))
def test_what_is_taken_covers_what_was_told_and_is_bounded(told: list[Rect]) -> None:
    watched = Watched()
    watched.damage.take()
    for each in told:
        watched.feeds.add(0, each)
    taken = watched.damage.take()
    assert taken is not None
    assert pixels(told) <= pixels(taken)
    assert len(taken) <= MOST_RECTANGLES
    assert not any(one.covers(other) for one in taken for other in taken if one is not other)
    assert watched.woken == bool(pixels(told))
    assert watched.damage.take() == ()


@given(st.lists(rects, max_size=40))
def test_few_rectangles_are_told_no_wider_than_they_are(told: list[Rect]) -> None:
    watched = Watched()
    watched.damage.take()
    for each in told:
        watched.feeds.add(0, each)
    assert pixels(watched.damage.take() or ()) == pixels(told)


def test_a_feed_that_loses_a_rectangle_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of the two above."""
    put = damage._put
    monkeypatch.setattr(damage, "_put", lambda rects, new: put(rects, new) if new.x else None)
    for test in (
        test_what_is_taken_covers_what_was_told_and_is_bounded,
        test_few_rectangles_are_told_no_wider_than_they_are,
    ):
        with pytest.raises(AssertionError):
            test.hypothesis.inner_test([Rect(0, 0, 2, 2)])  # type: ignore[attr-defined]  # hypothesis puts it there


def test_one_too_many_become_the_one_around_them() -> None:
    watched = Watched()
    watched.damage.take()
    for each in range(MOST_RECTANGLES):
        watched.feeds.add(0, Rect(3 * each, 5 * each, 1, 1))
    watched.feeds.add(0, Rect(1000, 0, 2, 2))
    assert watched.damage.take() == (Rect(0, 0, 1002, 5 * MOST_RECTANGLES - 4),)


def test_pieces_of_the_same_lines_become_one() -> None:
    watched = Watched()
    watched.damage.take()
    for x, y in ((0, 0), (10, 0), (0, 10), (10, 10)):
        watched.feeds.add(0, Rect(x, y, 10, 10))
    assert watched.damage.take() == (Rect(0, 0, 20, 20),)


def test_a_watcher_is_told_of_its_own_head_only() -> None:
    watched = Watched()
    watched.damage.take()
    watched.feeds.add(1, Rect(0, 0, 1, 1))
    assert (watched.damage.take(), watched.woken) == ((), 0)


def test_all_is_all_until_it_is_taken() -> None:
    watched = Watched()
    assert watched.damage.take() is None, "nobody has looked yet"
    watched.feeds.add(0, Rect(0, 0, 1, 1))
    watched.feeds.add_all()
    watched.feeds.add(0, Rect(5, 5, 1, 1))
    assert watched.woken == 1
    assert watched.damage.take() is None
    watched.feeds.add(0, None)
    assert watched.woken == 2
    assert (watched.damage.take(), watched.damage.take()) == (None, ())


def test_where_damage_is_not_told_anything_may_have_changed() -> None:
    watched = Watched(tells=False)
    assert (watched.damage.take(), watched.damage.take()) == (None, None)


def test_a_closed_watcher_costs_nothing_any_more() -> None:
    watched = Watched()
    other = watched.feeds.watch(0, watched._wake, lambda: True)
    watched.damage.close()
    assert watched.feeds.watched == (other,)
    other.close()
    other.close()
    assert not watched.feeds.watched
