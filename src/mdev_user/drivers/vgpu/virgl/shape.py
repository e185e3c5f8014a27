"""Shapes of 3D resources: what is one, what it costs, and which parts it has."""

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from mdev_user.driver import PAGE
from mdev_user.drivers.vgpu.virgl.formats import BLOCKS, Block

LARGEST = 16384
"""Pixels of a texture, each way."""
LARGEST_DEPTH = 2048
"""Pixels of a texture of three dimensions, and layers of any."""
LARGEST_BUFFER = 1 << 30
"""Bytes of a buffer."""
MOST_SAMPLES = 16


class Target(IntEnum):
    """What a resource is (Gallium's numbers)."""

    BUFFER = 0
    TEXTURE_1D = 1
    TEXTURE_2D = 2
    TEXTURE_3D = 3
    CUBE = 4
    RECT = 5
    ARRAY_1D = 6
    ARRAY_2D = 7
    CUBE_ARRAY = 8


_MOST: dict[Target, tuple[int, int, int, int]] = {
    Target.BUFFER: (LARGEST_BUFFER, 1, 1, 1),
    Target.TEXTURE_1D: (LARGEST, 1, 1, 1),
    Target.TEXTURE_2D: (LARGEST, LARGEST, 1, 1),
    Target.TEXTURE_3D: (LARGEST_DEPTH, LARGEST_DEPTH, LARGEST_DEPTH, 1),
    Target.CUBE: (LARGEST, LARGEST, 1, 6),
    Target.RECT: (LARGEST, LARGEST, 1, 1),
    Target.ARRAY_1D: (LARGEST, 1, 1, LARGEST_DEPTH),
    Target.ARRAY_2D: (LARGEST, LARGEST, 1, LARGEST_DEPTH),
    Target.CUBE_ARRAY: (LARGEST, LARGEST, 1, LARGEST_DEPTH),
}
"""The largest width, height and depth, and the most layers."""
_SEVERAL_SAMPLES = frozenset({Target.TEXTURE_2D, Target.ARRAY_2D})
_ONE_LEVEL = frozenset({Target.BUFFER, Target.RECT})


class Box(NamedTuple):
    """A part of one level of a resource, in pixels; layers are counted by ``z``."""

    x: int
    y: int
    z: int
    width: int
    height: int
    depth: int


@dataclass(frozen=True, slots=True)
class Shape:
    """A 3D resource as a guest asks for it."""

    target: int
    format: int
    bind: int
    width: int
    height: int
    depth: int
    array_size: int
    last_level: int
    samples: int
    flags: int

    def fault(self) -> str:
        """Why it cannot be; empty when it can, as far as the renderer's library agrees."""
        if self.target not in Target.__members__.values():
            return f"target {self.target}"
        if self.format not in BLOCKS:
            return f"format {self.format}"
        target = Target(self.target)
        sizes = (self.width, self.height, self.depth, self._layers)
        if not all(1 <= size <= most for size, most in zip(sizes, _MOST[target], strict=True)):
            return f"{target.name} of {sizes}: expected 1 to {_MOST[target]}"
        if self.samples > 1 and (target not in _SEVERAL_SAMPLES or self.last_level or self.samples > MOST_SAMPLES):
            return f"{self.samples} samples of each pixel of a {target.name} with levels 0 to {self.last_level}"
        if self.last_level >= (1 if target in _ONE_LEVEL else max(self.width, self.height, self.depth).bit_length()):
            return f"level {self.last_level} of a {target.name} of {sizes}"
        return ""

    @property
    def size(self) -> int:
        """The bytes that its pixels take.

        Of each level, blocks across times blocks down times layers (for three dimensions: the level's depth), times
        the bytes of a block, times samples. A buffer takes its width.
        """
        if self.target == Target.BUFFER:
            return self.width
        block = BLOCKS[self.format]
        return sum(self._level_size(block, level) for level in range(self.last_level + 1)) * max(1, self.samples)

    @property
    def charged(self) -> int:
        """The graphics memory that it counts for: whole pages of 4 KiB, so that small ones are not free."""
        return -(-self.size // PAGE) * PAGE

    def holds(self, box: Box, level: int) -> bool:
        """Whether a part lies in the resource, and is not empty."""
        if level > self.last_level:
            return False
        width, height, layers = self.extent(level)
        if not (box.width and box.height and box.depth):
            return False
        return box.x + box.width <= width and box.y + box.height <= height and box.z + box.depth <= layers

    def extent(self, level: int) -> tuple[int, int, int]:
        """The width, the height and the layers of a level."""
        layers = max(1, self.depth >> level) if self.target == Target.TEXTURE_3D else self._layers
        return max(1, self.width >> level), max(1, self.height >> level), layers

    @property
    def _layers(self) -> int:
        return max(1, self.array_size)

    def _level_size(self, block: Block, level: int) -> int:
        width, height, layers = self.extent(level)
        return block.columns(width) * block.lines(height) * layers * block.size
