"""The search for a failing case: the same at every run, and shortened to what matters."""

from collections.abc import Iterator
from random import Random

from mdev_user.testing.conformance.operations import Finding
from mdev_user.testing.conformance.search import Search, without_some

Case = tuple[int, ...]


def draw(random: Random) -> Case:
    return tuple(random.randrange(100) for _ in range(30))


def has_both(case: Case) -> Finding | None:
    return Finding("both") if {7, 70} <= set(case) else None


def test_case_is_shortened_to_what_matters() -> None:
    failure = Search(examples=2000, seed=0, seconds=30)(draw, has_both, without_some)
    assert failure is not None
    assert set(failure.case) == {7, 70}
    assert len(failure.case) == 2


def test_without_time_the_case_is_as_it_was_found() -> None:
    failure = Search(examples=2000, seed=0, seconds=0)(draw, has_both, without_some)
    assert failure is not None
    assert len(failure.case) == 30


def test_seed_says_which_cases_are_tried() -> None:
    def seen(seed: int) -> list[Case]:
        cases: list[Case] = []

        def note(case: Case) -> None:
            cases.append(case)

        assert Search(examples=5, seed=seed, seconds=1)(draw, note, without_some) is None
        return cases

    assert seen(1) == seen(1)
    assert seen(1) != seen(2)


def test_parts_left_out_become_smaller() -> None:
    def all_of(items: Case) -> Iterator[Case]:
        return without_some(items)

    assert list(all_of((1, 2, 3, 4))) == [(), (3, 4), (1, 2), (2, 3, 4), (1, 3, 4), (1, 2, 4), (1, 2, 3)]
    assert list(all_of(())) == []
