"""The plain accounts of a parent: what they say, and that they see a parent that says otherwise."""

import pytest

from drivers.everything import Card
from mdev_user.driver.pools import Accounts
from mdev_user.testing.conformance.accounts import Change, Ledger, run_changes

CREATE_ONE, CREATE_TWO, REMOVE, FAIL = (
    Change("create", 0), Change("create", 1), Change("remove", 0), Change("fail", 0)
)  # fmt: skip


def test_what_is_available_follows_from_who_has_what() -> None:
    ledger = Ledger(Card)
    assert {name: ledger.available(name) for name in ("one", "two")} == {"one": 5, "two": 2}
    ledger.holders.append(ledger.mdev(1))
    assert {name: ledger.available(name) for name in ("one", "two")} == {"one": 0, "two": 1}  # one bank is homogeneous


def test_parent_that_keeps_its_accounts_passes() -> None:
    assert run_changes(Card, (CREATE_ONE, FAIL, CREATE_TWO, CREATE_ONE, REMOVE, REMOVE, CREATE_TWO)) == ""


def test_pool_that_is_not_returned_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Accounts, "give_back", lambda _accounts, _type: None)
    wrong = run_changes(Card, (CREATE_ONE, REMOVE))
    assert wrong == "available_instances of one is 4: expected 5, after: create one; remove one"


def test_what_there_is_follows_from_the_options() -> None:
    ledger = Ledger(Card, {"lanes": "3"})
    assert {name: ledger.available(name) for name in ("one", "two")} == {"one": 3, "two": 1}
    assert run_changes(Card, (CREATE_ONE, CREATE_TWO, REMOVE, CREATE_TWO, CREATE_TWO), {"lanes": "3"}) == ""
