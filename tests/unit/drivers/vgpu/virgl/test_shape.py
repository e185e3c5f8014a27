"""What a 3D resource is charged, which shapes are refused, and which parts of one there are."""

from dataclasses import replace

import pytest

from mdev_user.drivers.vgpu.virgl.formats import BLOCKS, Block
from mdev_user.drivers.vgpu.virgl.shape import LARGEST, Box, Shape, Target

BGRA, FLOATS, DXT1, ASTC_6X5, PLANAR = 1, 31, 105, 282, 166
SCREEN = Shape(Target.TEXTURE_2D, BGRA, 10, 640, 480, 1, 1, 0, 0, 0)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        (SCREEN, 640 * 480 * 4),
        (replace(SCREEN, width=1, height=1), 4),
        (replace(SCREEN, format=FLOATS), 640 * 480 * 16),
        (replace(SCREEN, samples=4), 640 * 480 * 4 * 4),
        (replace(SCREEN, samples=1), 640 * 480 * 4),
        (replace(SCREEN, width=4, height=4, last_level=2), (16 + 4 + 1) * 4),
        (replace(SCREEN, width=8, height=2, last_level=3), (16 + 4 + 2 + 1) * 4),
        (replace(SCREEN, width=5, height=5, format=DXT1), 2 * 2 * 8),
        (replace(SCREEN, width=7, height=5, format=ASTC_6X5), 2 * 1 * 16),
        (replace(SCREEN, target=Target.CUBE, width=16, height=16, array_size=6), 6 * 16 * 16 * 4),
        (replace(SCREEN, target=Target.ARRAY_2D, width=16, height=16, array_size=3, last_level=1), 3 * (256 + 64) * 4),
        (replace(SCREEN, target=Target.TEXTURE_3D, width=4, height=4, depth=4, last_level=2), (64 + 8 + 1) * 4),
        (replace(SCREEN, target=Target.BUFFER, format=64, bind=16, width=5000, height=1), 5000),
    ],
)
def test_size_is_that_of_all_pixels(shape: Shape, size: int) -> None:
    assert not shape.fault()
    assert shape.size == size
    assert shape.charged == -(-size // 4096) * 4096


@pytest.mark.parametrize(
    "shape",
    [
        replace(SCREEN, target=9),
        replace(SCREEN, format=0),
        replace(SCREEN, format=9999),
        replace(SCREEN, format=PLANAR),
        replace(SCREEN, width=0),
        replace(SCREEN, height=0),
        replace(SCREEN, depth=2),
        replace(SCREEN, array_size=2),
        replace(SCREEN, width=LARGEST + 1),
        replace(SCREEN, width=0xFFFF_FFFF, height=0xFFFF_FFFF),
        replace(SCREEN, last_level=10),
        replace(SCREEN, last_level=0xFFFF_FFFF),
        replace(SCREEN, samples=17),
        replace(SCREEN, samples=4, last_level=1),
        replace(SCREEN, target=Target.CUBE, array_size=7),
        replace(SCREEN, target=Target.TEXTURE_3D, width=4096),
        replace(SCREEN, target=Target.RECT, last_level=1),
        replace(SCREEN, target=Target.TEXTURE_1D),
        replace(SCREEN, target=Target.BUFFER),
        replace(SCREEN, target=Target.BUFFER, width=(1 << 30) + 1, height=1),
    ],
)
def test_what_cannot_be_is_named(shape: Shape) -> None:
    assert shape.fault()


def test_nothing_that_can_be_is_larger_than_a_number_of_gigabytes() -> None:
    """The driver compares sizes with quotas: they must not be cut off."""
    largest = replace(SCREEN, target=Target.ARRAY_2D, format=27, width=LARGEST, height=LARGEST, array_size=2048)
    assert not largest.fault()
    assert largest.size == 32 * LARGEST * LARGEST * 2048


@pytest.mark.parametrize(
    ("box", "level", "held"),
    [
        (Box(0, 0, 0, 640, 480, 1), 0, True),
        (Box(639, 479, 0, 1, 1, 1), 0, True),
        (Box(1, 0, 0, 640, 480, 1), 0, False),
        (Box(0, 0, 1, 1, 1, 1), 0, False),
        (Box(0, 0, 0, 1, 1, 2), 0, False),
        (Box(0, 0, 0, 0, 1, 1), 0, False),
        (Box(0xFFFF_FFFF, 0, 0, 2, 1, 1), 0, False),
        (Box(0, 0, 0x8000_0000, 1, 1, 1), 0, False),
        (Box(0, 0, 0, 320, 240, 1), 1, True),
        (Box(0, 0, 0, 321, 240, 1), 1, False),
        (Box(0, 0, 0, 1, 1, 1), 2, False),
    ],
)
def test_parts_lie_in_their_level(box: Box, level: int, held: bool) -> None:
    assert replace(SCREEN, last_level=1).holds(box, level) == held


def test_levels_of_a_volume_are_flatter() -> None:
    volume = replace(SCREEN, target=Target.TEXTURE_3D, width=8, height=8, depth=8, last_level=3)
    assert [volume.extent(level) for level in range(4)] == [(8, 8, 8), (4, 4, 4), (2, 2, 2), (1, 1, 1)]


def test_blocks_of_formats() -> None:
    assert BLOCKS[BGRA] == Block(1, 1, 4)
    assert BLOCKS[67] == BLOCKS[121] == BLOCKS[134] == Block(1, 1, 4)
    assert BLOCKS[16] == BLOCKS[91] == Block(1, 1, 2)
    assert BLOCKS[DXT1] == Block(4, 4, 8)
    assert BLOCKS[306] == Block(12, 12, 16)
    assert all(block.width * block.height * block.size <= 12 * 12 * 16 for block in BLOCKS.values())
