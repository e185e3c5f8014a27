"""A guest's RAM on its way to another machine, as a VMM moves it: a copy first, then the pages that were written."""

from typing import Any

from typing_extensions import override

from mdev_user.driver.parent import Parent
from mdev_user.testing.guest import RAM, Guest
from mdev_user.units import PAGE, MiB


class CarriedGuest(Guest):
    """Its stores are carried since it made them, and its device's writes since the dirty log has them."""

    def __init__(self, parent: type[Parent[Any, Any]], type_name: str, /, **options: object) -> None:  # Any: of any
        super().__init__(parent, type_name, **options)
        self._there: dict[int, bytes] = {}

    @override
    def copy(self, most: int = MiB) -> int:
        begins = not self.is_copied
        copied = super().copy(most)
        if begins:
            self._begin()
        else:
            self.carry()
        return copied

    def carry(self) -> dict[int, bytes]:
        """Carry what was written since; the pages that are there then. The device is copied, or was until just now."""
        report = self._vfio.dma.log.report(0, RAM, PAGE)
        dirty, now = int.from_bytes(report, "little"), self.memory.pages
        written = self.memory.stored | {page * PAGE for page in range(RAM // PAGE) if dirty >> page & 1}
        self._there |= {address: now[address] for address in written if address in now}
        self.memory.stored.clear()
        return self._there

    def _begin(self) -> None:
        self._vfio.dma.log.stop()
        self._vfio.dma.log.start(PAGE, ((0, RAM),))
        self.memory.stored.clear()
        self._there = self.memory.pages
