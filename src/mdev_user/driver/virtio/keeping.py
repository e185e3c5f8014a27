# ruff: noqa: SLF001 - the function's own parts know each other's underscored names
"""KeptChains: a virtqueue of a device in use, and the chains of it that the device keeps until it gives them back."""

from typing import TYPE_CHECKING

from mdev_user.driver.virtio.chain import Chain, KeptChain
from mdev_user.errors import GuestError

if TYPE_CHECKING:
    from mdev_user.driver.virtio.function import AnyVirtio


class KeptChains:
    """What a device does with chains that it kept: those of a queue are at most as many as it has entries.

    They are saved and loaded with the device, and forgotten when it is reset.
    """

    __slots__ = ("_function", "_number")

    def __init__(self, function: "AnyVirtio", number: int) -> None:
        self._function, self._number = function, number

    @property
    def kept(self) -> tuple[KeptChain, ...]:
        """The chains that were kept and not given back, in the order in which they were kept."""
        number = self._number
        return tuple(KeptChain(*place) for place in self._function._kept if place[0] == number)

    async def reopen(self, kept: KeptChain) -> Chain:
        """The chain itself, behind what had been read and written when it was kept.

        GuestError where it is not kept, and where its descriptors make no sense any more: then the device needs a
        reset, as in the queue's method.
        """
        function = self._function
        places = function._kept.get((kept.queue, kept.head))
        if places is None or (ring := function._ring(self._number)) is None:
            raise self._unknown(kept)
        try:
            chain = Chain(function.dma, await ring.buffers(kept.head), kept)
            chain._go_on(*places)
        except GuestError:
            function._give_up()
            raise
        return chain

    def give_back(self, chain: Chain | KeptChain) -> None:
        """Let the guest have it, with the bytes that were written to it. GuestError where it is not kept.

        What was `reopen`ed and written to is given back as a `Chain`. The call has its effect at once, and the guest
        sees it soon; with it, in the same step, belong the driver's own notes about the chain.
        """
        name = chain._name if isinstance(chain, Chain) else chain
        function, place = self._function, (name.queue, name.head)
        if name.queue != self._number or place not in function._kept:
            raise self._unknown(name)
        _read, written = chain._places if isinstance(chain, Chain) else function._kept[place]
        del function._kept[place]
        function._returned[place] = written
        function._serve(self._number)

    def _unknown(self, kept: KeptChain) -> GuestError:
        return GuestError(f"chain {kept.head} of queue {kept.queue}: queue {self._number} has not kept it")
