"""Parents for negative controls: mtty with one line taken away each, served as ``FILE.py:CLASS``."""

from collections.abc import Callable

from typing_extensions import override

from mdev_user.driver import Mdev
from mdev_user.drivers.mtty import Mtty, MttyDevice, Uart


class _UnresetDevice(MttyDevice):
    __slots__ = ()

    @override
    def _reset_ports(self) -> None:
        """The next user finds what the last one left."""


class _MuteDevice(MttyDevice):
    __slots__ = ()

    @override
    def _settle(self, region: int, port: Uart) -> None:
        """No condition ever reaches the interrupt pin."""


class Unreset(Mtty):
    """Opening its mdevs resets nothing."""

    @override
    def create(self, mdev: Mdev) -> MttyDevice:
        super().create(mdev)
        return _UnresetDevice(int(mdev.type.name))


class Mute(Mtty):
    """Its mdevs never interrupt."""

    @override
    def create(self, mdev: Mdev) -> MttyDevice:
        super().create(mdev)
        return _MuteDevice(int(mdev.type.name))


class _CrossedUart(Uart):
    __slots__ = ("others",)

    def __init__(self, send: Callable[[], None], others: list["_CrossedUart"]) -> None:
        super().__init__(send)
        self.others = others

    @override
    def _write_data(self, value: int) -> None:
        super()._write_data(value)
        for each in self.others:
            if each is not self and len(each._fifo) < 16:
                each._fifo.append(value)


class Crossed(Mtty):
    """What one of its mdevs sends comes out of all others, too."""

    def __init__(self) -> None:
        super().__init__()
        self._uarts: list[_CrossedUart] = []

    @override
    def create(self, mdev: Mdev) -> MttyDevice:
        device = super().create(mdev)
        uarts = [_CrossedUart(each._send, self._uarts) for each in device._ports]
        device._ports = tuple(uarts)
        self._uarts += uarts
        return device
