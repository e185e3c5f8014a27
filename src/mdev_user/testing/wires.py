"""What interrupts a guest under test: eventfds that are lists."""

from collections.abc import Callable

from mdev_user.errors import NotSupported
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.requests import Irq, IrqAction, SetIrqs

_NAMES = {Irq.INTX: "INTx", Irq.MSI: "MSI", Irq.MSIX: "MSI-X"}


class Wires:
    """Arms the interrupts of a device as QEMU does: of one kind at a time."""

    def __init__(self, device: VfioDevice, messages: list[int]) -> None:
        """``messages`` gets the vectors that are sent."""
        self.signals = 0
        self._device = device
        self._messages = messages
        self.kind = Irq.INTX

    def count(self, kind: Irq, wanted: int | None) -> int:
        """How many vectors to use. NotSupported for more than the function has."""
        most = self._device.irq_info(kind).count
        if most == 0 or (wanted is not None and not 1 <= wanted <= most):
            raise NotSupported(f"{_NAMES[kind]} with {wanted} vectors: the function has {most}")
        return most if wanted is None else wanted

    def arm(self, kind: Irq, count: int) -> None:
        """Listen to the vectors of ``kind``, if any, and to no others."""
        self._device.ioctl(SetIrqs(self.kind, 0, 0, IrqAction.TRIGGER))
        self.kind = kind
        wires = tuple(_Wire(self._listener(kind, vector)) for vector in range(count))
        if wires:
            self._device.ioctl(SetIrqs(kind, 0, count, IrqAction.TRIGGER, eventfds=wires))

    def unmask(self) -> None:
        if self._device.irq_info(Irq.INTX).count:
            self._device.ioctl(SetIrqs(Irq.INTX, 0, 1, IrqAction.UNMASK))

    def _listener(self, kind: Irq, vector: int) -> Callable[[], None]:
        return self._count_signal if kind is Irq.INTX else lambda: self._messages.append(vector)

    def _count_signal(self) -> None:
        self.signals += 1


class _Wire:
    """An eventfd whose other end is a method."""

    def __init__(self, signalled: Callable[[], None]) -> None:
        self.signal = signalled

    def watch(self, signalled: Callable[[], None]) -> None:
        """It is never signalled by the guest."""

    def close(self) -> None:
        """It has no number to give back."""
