"""RAM that is carried to another machine: what the device wrote meanwhile is in the dirty log, or is lost."""

import pytest

from mdev_user.testing.conformance.operations import Copy, Poke, Reset, Run, Setting, Write
from mdev_user.testing.conformance.player import Player
from mdev_user.units import PAGE
from mdev_user.vfio.dirty import DirtyLog
from unit.host.test_dirty_writes import Card

TARGET, LENGTH = 2 * PAGE - 1, 2
"""The last byte of a page, and the first one of the next."""


def carried(*last: Run | Reset) -> dict[int, bytes]:
    """What arrives of 4 pages: one that was there, one that the guest wrote, and two that the device wrote."""
    player = Player(Card, Setting("card"))
    copy = Copy(1 << 20)
    for operation in (
        Write(7, 4, b"\x06\0"), Poke(0x5000, b"before"), copy, Poke(0x6000, b"guest"), copy,
        Write(0, 0, TARGET.to_bytes(4, "little")), Write(0, 4, LENGTH.to_bytes(4, "little")), Run(), *last,
    ):  # fmt: skip
        player.play(operation)
    found = player.save().memory
    assert found.keys() <= player.guest.memory.pages.keys()
    return {address: page.strip(b"\0") for address, page in found.items()}


def test_what_was_written_meanwhile_arrives() -> None:
    assert carried() == {PAGE: b"x", 2 * PAGE: b"x", 0x5000: b"before", 0x6000: b"guest"}


def test_without_the_log_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    monkeypatch.setattr(DirtyLog, "mark", lambda *_arguments: None)
    assert carried() == {0x5000: b"before", 0x6000: b"guest"}


def test_a_device_that_is_not_copied_any_more_leaves_all_of_it() -> None:
    assert carried(Reset()) == {PAGE: b"x", 2 * PAGE: b"x", 0x5000: b"before", 0x6000: b"guest"}
