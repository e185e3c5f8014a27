"""A guest's RAM: what a test puts there, and what a device reaches by DMA."""

from bisect import bisect_right
from itertools import pairwise

from mdev_user.errors import DmaFault
from mdev_user.units import PAGE


class Ram:
    """Bytes at guest addresses: ``ram[0x1000:0x1004] = b"ring"``, ``ram[0x1000:0x1004]``, ``ram[0x1000]``.

    IndexError for an address that is not mapped. Only pages that were written take room.
    """

    def __init__(self) -> None:
        self.blocks: dict[int, int] = {}
        """What is mapped: sizes by address, in pages."""
        self.changes = 0
        """How often it may have changed."""
        self.stored: set[int] = set()
        """The pages that were written here, and not by a device; for who moves it, and clears this."""
        self._pages: dict[int, bytearray] = {}

    @property
    def pages(self) -> dict[int, bytes]:
        """What was written, by address, page by page."""
        return {address: bytes(page) for address, page in sorted(self._pages.items())}

    def map(self, address: int, size: int) -> None:
        """New memory, all zero, in whole pages. The caller has seen that it overlaps none."""
        self.changes += 1
        self.blocks = dict(sorted({**self.blocks, address: size}.items()))

    def unmap(self, address: int, size: int) -> None:
        """All that is in the range. The caller has seen that nothing is there only partly."""
        self.changes += 1
        end = address + size
        self.blocks = {at: each for at, each in self.blocks.items() if not address <= at < end}
        self._pages = {at: page for at, page in self._pages.items() if not address <= at < end}

    def read(self, address: int, length: int) -> bytes:
        """DmaFault where nothing is mapped."""
        self._check(address, length)
        data = bytearray(length)
        for at, start, stop in _pieces(address, length):
            if page := self._pages.get(at - at % PAGE):
                data[start:stop] = page[at % PAGE : at % PAGE + stop - start]
        return bytes(data)

    def write(self, address: int, data: bytes) -> None:
        """DmaFault where nothing is mapped, and then nothing is written."""
        self._check(address, len(data))
        self.changes += 1
        for at, start, stop in _pieces(address, len(data)):
            page = self._pages.setdefault(at - at % PAGE, bytearray(PAGE))
            page[at % PAGE : at % PAGE + stop - start] = data[start:stop]

    def page(self, address: int) -> bytearray:
        """The page that an address is in, for who writes to it at any time. DmaFault where nothing is mapped."""
        self._check(address, 1)
        self.changes += 1
        return self._pages.setdefault(address - address % PAGE, bytearray(PAGE))

    def __getitem__(self, place: slice | int) -> bytes:
        start, stop = _range(place)
        try:
            return self.read(start, stop - start)
        except DmaFault as error:
            raise IndexError(str(error)) from None

    def __setitem__(self, place: slice | int, data: bytes | bytearray | memoryview) -> None:
        start, stop = _range(place)
        if len(data) != stop - start:
            raise ValueError(f"bytes {start:#x} to {stop:#x}: expected {stop - start} bytes, given {len(data)}")
        try:
            self.write(start, bytes(data))
            self.stored |= set(range(start - start % PAGE, stop, PAGE))
        except DmaFault as error:
            raise IndexError(str(error)) from None

    def _check(self, address: int, length: int) -> None:
        starts, end = list(self.blocks), address + length
        while address < end:
            at = bisect_right(starts, address) - 1
            if at < 0 or address >= starts[at] + self.blocks[starts[at]]:
                mapped = ", ".join(f"{start:#x}+{size:#x}" for start, size in self.blocks.items())
                raise DmaFault(f"no memory at {address:#x}; there is {mapped or 'none'}: map(address, size) gives more")
            address = starts[at] + self.blocks[starts[at]]


def _pieces(address: int, length: int) -> list[tuple[int, int, int]]:
    """An access page by page: the address, and from where to where in the data."""
    bounds = [address, *range(address - address % PAGE + PAGE, address + length, PAGE), address + length]
    return [(at, at - address, end - address) for at, end in pairwise(bounds) if end > at]


def _range(place: slice | int) -> tuple[int, int]:
    if isinstance(place, int):
        return place, place + 1
    if place.start is None or place.stop is None or place.step is not None or place.stop < place.start:
        raise IndexError(f"expected memory[start:stop], given {place}")
    return place.start, place.stop
