"""A guest's RAM: what a test puts there, and what a device reaches by DMA."""

from mdev_user.errors import DmaFault


class Ram:
    """Bytes at guest addresses: ``ram[0x1000:0x1004] = b"ring"``, ``ram[0x1000:0x1004]``, ``ram[0x1000]``.

    IndexError for an address that is not mapped.
    """

    def __init__(self) -> None:
        self._blocks: dict[int, bytearray] = {}

    @property
    def blocks(self) -> dict[int, int]:
        """What is mapped: sizes by address."""
        return {address: len(block) for address, block in sorted(self._blocks.items())}

    def map(self, address: int, size: int) -> None:
        """New memory, all zero. The caller has seen that it overlaps none."""
        self._blocks[address] = bytearray(size)

    def unmap(self, address: int) -> None:
        del self._blocks[address]

    def read(self, address: int, length: int) -> bytes:
        """DmaFault where nothing is mapped."""
        data = bytearray()
        while len(data) < length:
            start, block = self._block(address + len(data))
            offset = address + len(data) - start
            data += block[offset : offset + length - len(data)]
        return bytes(data)

    def write(self, address: int, data: bytes) -> None:
        """DmaFault where nothing is mapped; what comes before that is stored."""
        while data:
            start, block = self._block(address)
            offset = address - start
            part = data[: len(block) - offset]
            block[offset : offset + len(part)] = part
            address, data = address + len(part), data[len(part) :]

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
        except DmaFault as error:
            raise IndexError(str(error)) from None

    def _block(self, address: int) -> tuple[int, bytearray]:
        for start, block in self._blocks.items():
            if start <= address < start + len(block):
                return start, block
        mapped = ", ".join(f"{start:#x}+{size:#x}" for start, size in self.blocks.items())
        raise DmaFault(f"no memory at {address:#x}; there is {mapped or 'none'}: map(address, size) gives more")


def _range(place: slice | int) -> tuple[int, int]:
    if isinstance(place, int):
        return place, place + 1
    if place.start is None or place.stop is None or place.step is not None or place.stop < place.start:
        raise IndexError(f"expected memory[start:stop], given {place}")
    return place.start, place.stop
