"""Parents for negative controls: mtty with one line taken away each, served as ``FILE.py:CLASS``."""

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


class SharedFifo(Mtty):
    """All its mdevs have one receiver's FIFO between them."""

    def __init__(self) -> None:
        super().__init__()
        self._first: Uart | None = None

    @override
    def create(self, mdev: Mdev) -> MttyDevice:
        device = super().create(mdev)
        for port in device._ports:
            self._first = self._first or port
            port._fifo = self._first._fifo
        return device
