"""Parents for negative controls: mtty with one line taken away each, served as ``FILE.py:CLASS``."""

from typing_extensions import override

from mdev_user.driver import Device, Interrupt, Mdev, Parts, on_write, pending
from mdev_user.drivers.mtty import FIFO, Mtty, Port, Regs, Serial


class Unreset(Mtty):
    """Opening its mdevs resets nothing."""

    @override
    def create(self, mdev: Mdev) -> Device:
        device = super().create(mdev)
        vars(device)["_reset"] = lambda _kind: None
        return device


class _MutePort(Port):
    @pending
    def never(self) -> bool:
        return False

    interrupt = Interrupt(never)


class _MuteSerial(Serial):
    ports = Parts[Port](_MutePort, count=lambda profile: profile.ports)


class Mute(Mtty):
    """Its mdevs never interrupt."""

    function = _MuteSerial


_ports: list[Port] = []


class _CrossedPort(Port):
    @override
    def opened(self) -> None:
        _ports.append(self)

    @on_write(Regs.thr)
    def cross(self, value: int) -> None:
        for each in _ports:
            if each is not self and len(each.fifo) < FIFO:
                each.fifo += bytes((value,))


class _CrossedSerial(Serial):
    ports = Parts[Port](_CrossedPort, count=lambda profile: profile.ports)


class Crossed(Mtty):
    """What one of its mdevs sends comes out of all others, too."""

    function = _CrossedSerial
