"""mtty with a byte that comes and goes as an operator says, and with it the interrupt; and on a host that is silent."""

from mdev_user.driver import Attribute
from mdev_user.drivers.mtty import Mtty, Serial
from mdev_user.vfio.irqs import IrqTable


class Pulsed(Serial):
    inject = Attribute(False, group="vendor")

    @inject.stored
    def put(self) -> None:
        self.ports[0].fifo = b"x" if self.inject else b""


class Pulses(Mtty):
    driver_name = "pulses"
    function = Pulsed

    def __init__(self, *, silent: bool = False) -> None:
        """``silent``, for a negative control: what fired where a device comes from does not fire again."""
        super().__init__()
        if silent:
            IrqTable.go_on = _silent  # type: ignore[method-assign, assignment]  # that is what this is for


def _silent(_irqs: IrqTable, *, automasked: bool) -> None:
    """Whether it was ``automasked`` is forgotten."""
