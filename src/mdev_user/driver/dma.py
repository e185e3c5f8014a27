"""What a job awaits: DMA, and time."""

from typing import TYPE_CHECKING

from mdev_user.errors import DmaFault
from mdev_user.units import MiB
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

    def _refused(self, address: int, length: int) -> DmaFault:
        what = f"DMA of {length} bytes at {address:#x}"
        fault: DmaFault = Unbounded(f"{what}: expected 0 to {LARGEST_TRANSFER}")
        if not self._device.is_bus_master:
            fault = DmaFault(f"{what}: the guest has not enabled bus mastering")
        self._device.refuse(fault)
        return fault
