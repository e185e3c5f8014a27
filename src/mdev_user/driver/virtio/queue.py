# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""Virtqueue: the declaration of a virtqueue, and of the method that serves it."""

from collections.abc import Callable, Coroutine
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from mdev_user.driver.arity import check_arity
from mdev_user.driver.members import Member
from mdev_user.driver.virtio.chain import Chain
from mdev_user.driver.virtio.keeping import KeptChains
from mdev_user.driver.virtio.ring import LARGEST_QUEUE
from mdev_user.errors import DriverError
from mdev_user.regs.mistakes import number
from mdev_user.units import is_power_of_two

if TYPE_CHECKING:
    from mdev_user.driver.virtio.function import AnyVirtio

MOST_QUEUES = 64

# Any: the method's own class, which the class body does not have yet; its first parameter is checked there.
_Serving = TypeVar("_Serving", bound=Callable[[Any, Chain], Coroutine[object, object, None]])


class Virtqueue(Member):
    """A virtqueue: ``requests = Virtqueue(size=64)``, and ``@requests.served`` above the method that serves it.

    Queues have the numbers from 0 in the order of their declaration. ``size`` is the most entries, a power of two up to
    32768; a guest may take less. On a device in use it is a `KeptChains`.
    """

    _serving: str = ""
    """The name of the method."""

    @overload
    def __get__(self, obj: None, owner: object) -> Self: ...
    @overload
    def __get__(self, obj: "AnyVirtio", owner: object) -> KeptChains: ...
    def __get__(self, obj: "AnyVirtio | None", owner: object) -> Self | KeptChains:
        return self if obj is None else KeptChains(obj, obj._queues.index(self))

    def __init__(self, *, size: int) -> None:
        self._size = number("Virtqueue: size", size, 1, LARGEST_QUEUE)
        if not is_power_of_two(size):
            raise DriverError(f"Virtqueue: size: expected a power of two, given {size}")

    def served(self, method: _Serving) -> _Serving:
        """Call the ``async def`` for each chain that the guest makes available, one at a time for each queue.

        When it returns the chain is given back, with the bytes that were written, and the guest is interrupted unless
        it asked not to be; one that was kept (`Chain.keep`) is given back later, in any order (`KeptChains.give_back`).
        A GuestError that leaves it means that the queue cannot be gone on with: it is counted, and the device needs a
        reset. What the guest may ask for in vain is answered in the chain, not raised.
        A device that is saved meanwhile begins the same chain anew elsewhere. That does no harm in the chain, which the
        guest has not got back; any other effect (a counter) belongs behind the last ``await``.
        """
        if not iscoroutinefunction(method):
            raise DriverError(f"{method.__name__}: expected an async def for @{self._name or 'queue'}.served")
        check_arity("@served", method, "chain")
        if self._serving:
            raise DriverError(f"{method.__name__}: the queue is served by {self._serving} already")
        self._serving = method.__name__
        return method


def check_queues(owner: str, queues: list[Virtqueue]) -> None:
    """DriverError unless a device can have these, and each is served."""
    if not 1 <= len(queues) <= MOST_QUEUES:
        raise DriverError(f"{owner}: expected 1 to {MOST_QUEUES} queues, such as requests = Virtqueue(size=64)")
    for each in queues:
        if not each._serving:
            raise DriverError(
                f"{owner}.{each._name}: nothing serves the queue: put @{each._name}.served above an async def"
            )
