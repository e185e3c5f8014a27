"""The interrupts of a VFIO device: which eventfds are armed, which are masked, and what a trigger does.

The rules are those of VFIO_DEVICE_SET_IRQS (``include/uapi/linux/vfio.h``), the errno those measured of Linux.
INTx is a level and masks itself when it fires (AUTOMASKED); MSI and MSI-X are edges.
"""

from collections.abc import Mapping

from mdev_user.errors import GuestError, UnknownRequest
from mdev_user.vfio.counters import Counters
from mdev_user.vfio.requests import Eventfd, Irq, IrqAction, IrqFlags, IrqInfo, SetIrqs

_LEVEL = IrqFlags.EVENTFD | IrqFlags.MASKABLE | IrqFlags.AUTOMASKED
_EDGE = IrqFlags.EVENTFD | IrqFlags.NORESIZE
_FLAGS = {Irq.INTX: _LEVEL}


class IrqTable:
    """Armed eventfds by index and vector; one table per open device, used under its step lock."""

    __slots__ = (
        "_armed", "_counters", "_counts", "_intx_counted", "_intx_fired", "_intx_level", "_intx_masked", "_unmask",
    )  # fmt: skip

    def __init__(self, counts: Mapping[Irq, int], counters: Counters) -> None:
        self._counts = dict(counts)
        self._counters = counters
        self._armed: dict[int, list[Eventfd | None]] = {
            index: [None] * self._counts.get(index, 0) for index in Irq if index is not Irq.COUNT
        }
        self._intx_masked = self._intx_fired = False
        self._intx_level = False
        # However often a level is signalled while it stays up (each unmask does), it is one interrupt.
        self._intx_counted = False
        self._unmask: list[Eventfd | None] = [None]

    def info(self, index: int) -> IrqInfo:
        """VFIO_DEVICE_GET_IRQ_INFO; EINVAL for an index that no PCI device has."""
        self._vectors(index)
        count = self._counts.get(Irq(index), 0)
        flags = _FLAGS.get(Irq(index), _EDGE) if count else IrqFlags(0)
        return IrqInfo(index, flags, count)

    def set(self, request: SetIrqs) -> None:
        """VFIO_DEVICE_SET_IRQS. Refused as a whole or done as a whole; its eventfds are ours from here on."""
        try:
            vectors = self._vectors(request.index)
            _check_range(request, len(vectors))
            self._check_action(request, vectors)
        except GuestError:
            _close_all(request.eventfds or ())
            raise
        match request.action:
            case IrqAction.TRIGGER:
                self._set_trigger(request, vectors)
            case _ if request.bools == (False,):  # "do it to none of them"
                return
            case IrqAction.MASK:
                self._intx_masked = True
            case IrqAction.UNMASK if request.eventfds is not None:
                self._unmask_by(request.eventfds[0])
            case IrqAction.UNMASK:
                self.unmask()

    def armed(self, index: Irq) -> bool:
        """Whether any vector of ``index`` has an eventfd: how a VFIO user shows which kind the guest enabled."""
        return any(self._armed[index])

    def set_level(self, level: bool) -> None:  # noqa: FBT001 - a wire has two levels
        """Drive the INTx pin. A rising level fires unless masked; the requester's unmask fires again if still up."""
        self._intx_level = level
        self._intx_counted &= level
        if level and not self._intx_masked:
            self._fire_intx()

    def unmask(self) -> None:
        """Let INTx fire again: the guest has acknowledged it (QEMU sends this on the end of interrupt)."""
        self._intx_masked = self._intx_fired = False
        if self._intx_level:
            self._fire_intx()

    @property
    def automasked(self) -> bool:
        """Whether INTx has masked itself when it fired, and nobody has unmasked it since."""
        return self._intx_fired

    def go_on(self, *, automasked: bool) -> None:
        """Be `automasked` or not, as where the device comes from: its user there may not have seen to the interrupt.

        QEMU moves its own line with the guest, and not that it waits for the guest to look (vfio_intx_eoi in
        hw/vfio/pci.c): of a line that nobody raises again the guest has an interrupt without end.
        """
        if automasked and not self._intx_masked:
            self._signal_intx()
        elif not automasked and self._intx_fired and not self._intx_level:
            self._intx_masked = self._intx_fired = False

    def trigger(self, index: Irq, vector: int) -> bool:
        """Fire an edge interrupt. False when nobody listens to that vector; the caller keeps it pending."""
        eventfd = self._armed[index][vector]
        if eventfd is None:
            return False
        self._counters.interrupts += 1
        eventfd.signal()
        return True

    def _fire_intx(self) -> None:
        if self._signal_intx() and not self._intx_counted:
            self._intx_counted = True
            self._counters.interrupts += 1

    def _signal_intx(self) -> bool:
        """Whether anybody listens."""
        eventfd = self._armed[Irq.INTX][0] if self._armed[Irq.INTX] else None
        if eventfd is None:
            return False
        self._intx_masked = self._intx_fired = True
        eventfd.signal()
        return True

    def disarm_all(self) -> None:
        """Forget every eventfd (the user closed the device)."""
        for vectors in self._armed.values():
            _disarm(vectors)
        _disarm(self._unmask)
        self._intx_masked = self._intx_fired = False

    def _unmask_by(self, eventfd: Eventfd | None) -> None:
        _replace(self._unmask, 0, eventfd)
        if eventfd is not None:
            eventfd.watch(self.unmask)

    def _vectors(self, index: int) -> list[Eventfd | None]:
        vectors = self._armed.get(index)
        if vectors is None:
            raise GuestError(f"interrupt index {index}: expected 0 to {Irq.COUNT - 1}")
        return vectors

    def _check_action(self, request: SetIrqs, vectors: list[Eventfd | None]) -> None:
        if request.action is IrqAction.TRIGGER:
            if request.count == 0 and (request.eventfds is not None or request.bools is not None):
                raise GuestError("SET_IRQS with count 0 disables an index: expected no data")
            return
        if request.index != Irq.INTX:
            raise UnknownRequest(f"{Irq(request.index).name} cannot be masked here; INTx can")
        if request.eventfds is not None and request.action is IrqAction.MASK:
            raise UnknownRequest("INTx cannot be masked by an eventfd; it can be unmasked by one")
        if request.count != 1:
            raise GuestError(f"{request.action.name} of INTx: expected count 1, given {request.count}")
        if not any(vectors):
            raise GuestError(f"{request.action.name} of INTx before an eventfd was set")

    def _set_trigger(self, request: SetIrqs, vectors: list[Eventfd | None]) -> None:
        if request.eventfds is not None:
            for vector, eventfd in enumerate(request.eventfds, request.start):
                _replace(vectors, vector, eventfd)
            if request.index == Irq.INTX:
                self._intx_masked = self._intx_fired = False
                self.set_level(self._intx_level)
        elif request.count == 0:
            _disarm(vectors)
            if request.index == Irq.INTX:
                self._intx_masked = self._intx_fired = False
        else:
            self._loopback(request)

    def _loopback(self, request: SetIrqs) -> None:
        bools = request.bools or (True,) * request.count
        for vector, fire in enumerate(bools, request.start):
            if not fire:
                continue
            if request.index != Irq.INTX:
                self.trigger(Irq(request.index), vector)
            elif not self._intx_masked:
                self._fire_intx()


def _check_range(request: SetIrqs, available: int) -> None:
    if request.start + request.count > available:
        raise GuestError(
            f"SET_IRQS of index {request.index}: vectors {request.start} to {request.start + request.count}, "
            f"the index has {available}"
        )
    for data in (request.eventfds, request.bools):
        if data is not None and len(data) != request.count:
            raise GuestError(f"SET_IRQS: {request.count} vectors but {len(data)} values")


def _replace(vectors: list[Eventfd | None], vector: int, eventfd: Eventfd | None) -> None:
    old, vectors[vector] = vectors[vector], eventfd
    if old is not None:
        old.close()


def _disarm(vectors: list[Eventfd | None]) -> None:
    _close_all(vectors)
    vectors[:] = [None] * len(vectors)


def _close_all(eventfds: tuple[Eventfd | None, ...] | list[Eventfd | None]) -> None:
    for eventfd in eventfds:
        if eventfd is not None:
            eventfd.close()
