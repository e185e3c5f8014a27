"""The state of a vgpu whose guest has as much as it can of everything is one that can be migrated."""

from struct import pack

import pytest

from mdev_user.driver.saving.snapshot import LARGEST
from mdev_user.drivers.vgpu.card import Card
from mdev_user.drivers.vgpu.entries import MOST_PIECES
from mdev_user.drivers.vgpu.function import MOST_RESOURCES
from mdev_user.drivers.vgpu.process import MOST_SHAPES
from mdev_user.drivers.vgpu.rendering import RenderingVgpu
from mdev_user.drivers.vgpu.resources import LARGEST_POINTER, Image, Resource, Shown
from mdev_user.drivers.vgpu.virgl.commands import LONGEST_NAME
from mdev_user.drivers.vgpu.virgl.renderer import MOST_CONTEXTS
from mdev_user.errors import DriverError
from mdev_user.testing import Guest
from mdev_user.units import PAGE

MOST = (1 << 32) - 1
"""A number of a guest's."""
LARGE = max(Card.types, key=lambda name: (Card.types[name].fence, Card.types[name].low_gm))
"""The type with the most heads and memory."""


def fill(gpu: RenderingVgpu, pieces: int = MOST_PIECES) -> None:
    """With the longest of all numbers, as if by commands."""
    for at in range(MOST_RESOURCES):
        gpu._add(MOST - at, Resource(134, 1000, 1, at * PAGE))
        count = pieces // MOST_RESOURCES
        gpu._attach(MOST - at, pack("<QI4x", 0, PAGE) * count)
    for head in range(gpu.heads):
        side = LARGEST_POINTER
        gpu.shown[head] = Shown(MOST, 0, 0, 1000, 1)
        gpu.pointers[head] = Image(134, side, side, bytes(4 * side * side), MOST, MOST, -(1 << 31), -(1 << 31))
    for at in range(MOST_CONTEXTS):
        gpu.contexts[MOST - at] = bytes(LONGEST_NAME)
    for at in range(MOST_SHAPES):
        gpu.lost[MOST - MOST_RESOURCES - at] = True
    for queue, each in enumerate(gpu._queues):
        for head in range(each._size):
            gpu._kept[queue, head] = MOST, MOST


def test_largest_state_can_be_migrated() -> None:
    with Guest(Card, LARGE) as guest, Guest(Card, LARGE) as other:
        gpu, there = guest.device.function, other.device.function
        assert isinstance(gpu, RenderingVgpu)
        assert isinstance(there, RenderingVgpu)
        fill(gpu)
        state = guest.save()
        print(f"{len(state)} bytes of {LARGEST}")
        assert len(state) < 0.95 * LARGEST
        other.load(state)
        for name in ("resources", "entries", "shown", "pointers", "contexts", "lost", "_kept"):
            assert getattr(there, name) == getattr(gpu, name)
        assert there.attached == gpu.attached
        assert there.places.used == gpu.places.used


def test_state_that_is_too_large_would_be_seen() -> None:
    """The negative control."""
    with Guest(Card, LARGE) as guest:
        gpu = guest.device.function
        assert isinstance(gpu, RenderingVgpu)
        fill(gpu, 2 * MOST_PIECES)
        with pytest.raises(DriverError, match="a state of"):
            guest.save()
