"""Which registers of a declared device are plain: their rows call nobody, and no part of the bar lies over them."""

from collections.abc import Iterator, Sequence

from mdev_user.driver.windows import OwnPart
from mdev_user.regs.space import RegisterSpace
from mdev_user.vfio.plain import PlainRead, PlainWrite


def plain_reads(region: int, space: RegisterSpace, parts: Sequence[OwnPart]) -> Iterator[PlainRead]:
    """The reads of one bar; ``parts`` answer for themselves."""
    for (offset, count), row in space.plain_reads():
        if not _covered(offset, count, parts):
            yield PlainRead(region, offset, count, space.values, *row)


def plain_writes(region: int, space: RegisterSpace, parts: Sequence[OwnPart]) -> Iterator[PlainWrite]:
    """As `plain_reads`."""
    for (offset, count), row in space.plain_writes():
        if not _covered(offset, count, parts):
            yield PlainWrite(region, offset, count, space.values, *row)


def _covered(offset: int, count: int, parts: Sequence[OwnPart]) -> bool:
    return any(offset < part.offset + part.size and part.offset < offset + count for part in parts)
