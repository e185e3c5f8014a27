"""Memory of the device: what a guest maps, or nobody but the driver."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, overload

from mdev_user.driver.members import Member
from mdev_user.driver.pools import told_of_profile
from mdev_user.errors import DriverError
from mdev_user.regs.mistakes import number
from mdev_user.units import PAGE
from mdev_user.vfio.requests import MOST_REGIONS, Region, RegionType

if TYPE_CHECKING:
    from mdev_user.driver.unit import AnyUnit

# Any: the profile is the driver's own class; a Parent tries the function with each of its types when it is declared.
Size = int | Callable[[Any], int]


_NOT_PLACED = -1


class Memory(Member):
    """A BAR that is memory: ``vram = Memory(index=2, size=lambda profile: profile.buffer)``.

    The guest maps it; ``self.vram`` is a memoryview of its bytes, zero when the device is opened. ``size`` in bytes, a
    power of two and whole pages. With the index of a `Bar` it lies in that bar at ``offset``, beside the pages with
    registers. With an index from 9 to 31 it is a region of the device's user, which a guest does not see, and its
    ``kind`` is what a VMM finds it by.

    Without an ``index`` it is private: no user has it as a region, only the driver reaches it. A VMM then still posts a
    guest's writes, which it does not where it maps anything (docs/how-to/make-accesses-fast.md).
    """

    def __init__(
        self,
        *,
        size: Size,
        index: int | None = None,
        offset: int = 0,
        prefetchable: bool = True,
        kind: RegionType | None = None,
    ) -> None:
        if offset % PAGE:
            raise DriverError(f"Memory: offset: expected a multiple of {PAGE:#x}, given {offset:#x}")
        self._private = index is None
        beyond = index is not None and index >= Region.COUNT
        if (kind is not None and not beyond) or (offset and (beyond or self._private)):
            raise DriverError(f"Memory: index {index}: expected a kind with 9 and up only, an offset with a BAR only")
        self._index = _NOT_PLACED if index is None else number("Memory: index", index, 0, MOST_REGIONS - 1)
        self._size, self._offset, self._prefetchable, self._kind = size, offset, prefetchable, kind

    @overload
    def __get__(self, obj: None, owner: object) -> Self: ...
    @overload
    def __get__(self, obj: "AnyUnit", owner: object) -> memoryview: ...
    def __get__(self, obj: "AnyUnit | None", owner: object) -> Self | memoryview:
        if obj is None:
            return self
        raise DriverError(f"{self._name}: the memory is there between opened() and closed()")

    def _place(self, index: int) -> None:
        """Where private memory lies in the file of all regions."""
        if self._index not in {_NOT_PLACED, index}:
            raise DriverError(f"{self._name}: it is private memory {self._index} of another class already")
        self._index = index

    def _bytes(self, profile: object) -> int:
        """Its size for one type of mdev."""
        try:
            size = self._size if isinstance(self._size, int) else self._size(profile)
        except AttributeError as error:  # of a profile, whose type no checker knows there
            raise DriverError(f"{self._name}: size: {told_of_profile(error, profile)}") from error
        if isinstance(size, int) and size > 0 and size % PAGE == 0:
            return size
        raise DriverError(f"{self._name}: size: expected a multiple of {PAGE:#x} bytes, given {size!r}")
