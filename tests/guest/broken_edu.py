"""A parent for the negative control: edu with each of its abilities a little wrong, served as ``FILE.py:CLASS``."""

from typing_extensions import override

from mdev_user.driver import on_write
from mdev_user.drivers.edu import FACTORIAL_DONE, Card, Edu, Regs


class WrongEdu(Edu):
    """Its numbers are wrong, it copies to another place of its buffer than from, and it never interrupts."""

    @override
    @on_write(Regs.liveness)
    def invert(self, value: int) -> None:
        self.regs.liveness = value

    @override
    def raise_irq(self, value: int) -> None:
        if value == FACTORIAL_DONE:
            self.regs.number += 1

    @override
    def begin(self, own: int, bus: int, count: int) -> int:
        return super().begin(own, bus, count) + (0 if self.regs.command.to_ram else 1)


class Wrong(Card):
    """edu-1 is nearly an edu."""

    driver_name = "edu"
    function = WrongEdu
