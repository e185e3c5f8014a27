"""Decisions taken from bytes: whoever changes the bytes, a fuzzer or hypothesis, changes a decision.

Where the bytes end every decision is the first, simplest one, so a shorter input is a simpler one.
"""

from collections.abc import Sequence
from typing import TypeVar

_T = TypeVar("_T")


class Choices:
    """Reads decisions off the front of ``data``."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes that no decision has used yet."""
        return max(0, len(self._data) - self._at)

    def byte(self) -> int:
        at, self._at = self._at, self._at + 1
        return self._data[at] if at < len(self._data) else 0

    def number(self, size: int) -> int:
        """Of ``size`` bytes, little endian."""
        return int.from_bytes(self.take(size).ljust(size, b"\0"), "little")

    def below(self, limit: int) -> int:
        """0 to ``limit - 1``."""
        return self.number((max(limit - 1, 1).bit_length() + 7) // 8) % limit

    def one_of(self, values: Sequence[_T]) -> _T:
        return values[self.below(len(values))]

    def one_in(self, times: int) -> bool:
        """Rarely true: never where the bytes have ended."""
        return self.byte() % times == times - 1

    def take(self, count: int) -> bytes:
        """At most ``count`` bytes as they are."""
        at, self._at = self._at, self._at + count
        return self._data[at : at + count]

    def rest(self) -> bytes:
        return self.take(self.left)
