"""A virtio device with two queues, a device configuration and a feature of its own; no device that exists."""

from dataclasses import dataclass
from enum import IntFlag

from mdev_user.driver import (
    INTX,
    RO,
    U8,
    U32,
    Chain,
    GuestError,
    Parent,
    Pool,
    Profile,
    Saved,
    VirtioConfig,
    VirtioFunction,
    Virtqueue,
    on_write,
)


@dataclass(frozen=True)
class Slice(Profile):
    units: int


class Settings(VirtioConfig):
    level, volume = U32(0, RO), U8(4)


class Features(IntFlag):
    UPPER = 1 << 3


class Echo(VirtioFunction[Slice]):
    virtio_id = 42
    offers = Features.UPPER
    settings, handled = Settings(), Saved(0)
    back, ends = Virtqueue(size=16), Virtqueue(size=4)

    @back.served
    async def reverse(self, chain: Chain) -> None:
        """What is read is written the other way round."""
        data = (await chain.read(chain.readable))[::-1]
        await chain.write(data.upper() if self.negotiated & Features.UPPER else data)
        self.handled += 1

    @ends.served
    async def tell_ends(self, chain: Chain) -> None:
        """The first and the last byte."""
        first = await chain.read(1)
        await chain.read(chain.readable - 1)
        await chain.write(first)
        if first == b"!":
            raise GuestError("no exclamation")

    @on_write(Settings.volume)
    def turn(self, volume: int) -> None:
        self.settings.level = 10 * volume
        self.config_changed()


class Pinned(Echo):
    vectors = INTX()


class Card(Parent[Slice]):
    function = Echo
    units = Pool(4)
    types = {"one": Slice(units=1)}


class PinnedCard(Card):
    function = Pinned
