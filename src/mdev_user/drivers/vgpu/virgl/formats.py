"""Formats: how many bytes the pixels of a resource take (virglrenderer's numbers, which the 2D commands share)."""

from collections.abc import Iterator
from typing import NamedTuple


class Block(NamedTuple):
    """The smallest part of a picture: a pixel, or more of them where they are compressed."""

    width: int
    height: int
    size: int
    """Bytes."""

    def columns(self, width: int) -> int:
        return -(-width // self.width)

    def lines(self, height: int) -> int:
        return -(-height // self.height)


_NUMBERS: dict[tuple[int, int, int], str] = {
    (1, 1, 1): "9-11 23 64 69 74 82 95 130 139 147-148 150 168-169 177 181 201-203 205-207 312 318",
    (1, 1, 2): "5-7 12-13 16 48 52 56 60 65 70 75 83 91 96 120 122 133 135 141-142 149 151-152 154-156 158 170-171 178"
    " 182 185 189 204 208-211 213-215 242 247-248 254 259-261 311 313 319-321",
    (1, 1, 3): "66 71 76 84 97 179 183 317",
    (1, 1, 4): "1-4 8 17-22 28 32 36 40 44 49 53 57 61 67-68 72 77 85 87 92 98-104 119 121 123-125 128-129 131-132 134"
    " 136-137 140 153 157 159-160 162 172-176 180 184 186 190 193 197 212 216-219 221-223 225 229-233 243-245 249-250"
    " 253 267-268 308",
    (1, 1, 6): "50 54 58 62 93 187 191",
    (1, 1, 8): "24 29 33 37 41 45 51 55 59 63 88 94 126 138 161 188 192 194 198 220 224 234-238 246 251-252",
    (1, 1, 12): "30 34 38 42 46 89 195 199",
    (1, 1, 16): "25 31 35 39 43 47 90 196 200 239-241",
    (1, 1, 24): "26",
    (1, 1, 32): "27",
    (2, 1, 4): "14-15 117-118 227-228",
    (4, 4, 8): "105-106 109-110 113-114 143-144 226 269-272 275-276",
    (4, 4, 16): "107-108 111-112 115-116 145-146 255-258 273-274 277-279 293",
    (5, 4, 16): "280 294",
    (5, 5, 16): "281 295",
    (6, 5, 16): "282 296",
    (6, 6, 16): "283 297",
    (8, 5, 16): "284 298",
    (8, 6, 16): "285 299",
    (8, 8, 16): "286 300",
    (10, 5, 16): "287 301",
    (10, 6, 16): "288 302",
    (10, 8, 16): "289 303",
    (10, 10, 16): "290 304",
    (12, 10, 16): "291 305",
    (12, 12, 16): "292 306",
}
"""By block, its formats. Those of several planes, and numbers that stand for two formats, are not among them."""


def _expanded(ranges: str) -> Iterator[int]:
    for each in ranges.split():
        first, _dash, last = each.partition("-")
        yield from range(int(first), int(last or first) + 1)


BLOCKS: dict[int, Block] = {number: Block(*block) for block, ranges in _NUMBERS.items() for number in _expanded(ranges)}
"""By the number of a format."""
