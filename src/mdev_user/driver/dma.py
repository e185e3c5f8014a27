"""What a job awaits: DMA, and time."""

from typing import TYPE_CHECKING

from mdev_user.errors import DmaFault, DriverError
from mdev_user.units import MiB
from mdev_user.vfio.dma import Pieces
from mdev_user.vfio.scatter_list import ScatterList
from mdev_user.vfio.work import Sleep

if TYPE_CHECKING:
    from mdev_user.driver.device import Device

LARGEST_TRANSFER = 256 * MiB
"""Bytes of one DMA access, which lie in this process's memory: a length comes from a guest, and so has an end."""


async def sleep(seconds: float) -> None:
    """Go on after ``seconds`` of the host's clock."""
    await Sleep(seconds)


class Unbounded(DmaFault):
    """A transfer that no driver asks for: of a negative length, or longer than `LARGEST_TRANSFER`."""


class Dma:
    """The guest's memory, for jobs, while the function may be bus master.

    A fault is counted; a driver may catch it and tell its guest.
    """

    __slots__ = ("_device",)

    def __init__(self, device: "Device") -> None:
        self._device = device

    async def read(self, address: int, length: int) -> bytes:
        """``length`` bytes at ``address``. DmaFault unless all of it is mapped for reading."""
        device = self._device
        if not device.is_bus_master or not 0 <= length <= LARGEST_TRANSFER:
            raise self._refused(address, length)
        if (direct := device.direct) is not None:
            device.settle_step()
            if (data := direct.read_now(address, length)) is not None:
                return data
        return await device.mappings.read(address, length)

    async def write(self, address: int, data: bytes) -> None:
        """Store ``data`` at ``address``. DmaFault unless all of it is mapped for writing."""
        device = self._device
        if not device.is_bus_master or len(data) > LARGEST_TRANSFER:
            raise self._refused(address, len(data))
        if (direct := device.direct) is not None:
            device.settle_step()
            if direct.write_now(address, bytes(data)):
                return
        await device.mappings.write(address, data)

    async def read_into(self, pieces: Pieces, into: memoryview) -> None:
        """Read guest memory that lies here and there: ``pieces`` are addresses and lengths, ``into`` as long as all.

        Many pieces that a guest has listed are best left in a `ScatterList`: it takes no time for each of them.
        DmaFault unless all of it is mapped for reading; some may have been read then. Nothing is copied twice where
        the memory is shared with this process. One call is one part of a step, however much it copies (8 MiB take 1 to
        2 ms), and the mdev's guest waits for it: do what is long in parts, and let others have their turn in between.
        """
        device, to = self._device, into.cast("B")
        length = _sum(pieces, len(to))
        if to.readonly:
            raise DriverError("dma.read_into: expected a view that can be written")
        if not device.is_bus_master or length > LARGEST_TRANSFER:
            raise self._refused(_first(pieces), length)
        if (direct := device.direct) is not None:
            device.settle_step()
            if direct.gather_now(pieces, to):
                return
        to[:] = await device.mappings.gather(pieces)

    async def write_from(self, pieces: Pieces, data: bytes | bytearray | memoryview) -> None:
        """As `read_into`, the other way: store ``data``, one part behind the other. DmaFault as in `write`."""
        device, source = self._device, memoryview(data).cast("B")
        length = _sum(pieces, len(source))
        if not device.is_bus_master or length > LARGEST_TRANSFER:
            raise self._refused(_first(pieces), length)
        if (direct := device.direct) is not None:
            device.settle_step()
            if direct.scatter_now(pieces, source):
                return
        await device.mappings.scatter(pieces, source)

    def _refused(self, address: int, length: int) -> DmaFault:
        what = f"DMA of {length} bytes at {address:#x}"
        fault: DmaFault = Unbounded(f"{what}: expected 0 to {LARGEST_TRANSFER}")
        if not self._device.is_bus_master:
            fault = DmaFault(f"{what}: the guest has not enabled bus mastering")
        self._device.refuse(fault)
        return fault


def _sum(pieces: Pieces, given: int) -> int:
    length = pieces.size if isinstance(pieces, ScatterList) else sum([each for _address, each in pieces])
    if length != given:
        raise DriverError(f"DMA of pieces of {length} bytes together: expected as many in the view, given {given}")
    return length


def _first(pieces: Pieces) -> int:
    return next(iter(pieces), (0, 0))[0]
