"""Region reads and writes: performing one, and timing it.

Everything that answers accesses has its device perform them here, so that however a message came, it means the same.
"""

from collections.abc import Callable
from time import perf_counter_ns

from mdev_user.vfio.counters import SLOW_STEP_NS
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio_user.framing import REPLY, Command
from mdev_user.vfio_user.messages import ACCESS_MESSAGE
from mdev_user.vfio_user.steps import refused, wrong_length

_READ, _WRITE = int(Command.REGION_READ), int(Command.REGION_WRITE)
_HEAD = ACCESS_MESSAGE.size
_pack = ACCESS_MESSAGE.pack


class Accesses:
    """The region accesses of one device."""

    __slots__ = ("_counters", "_device", "near")

    def __init__(self, device: VfioDevice) -> None:
        self._device = device
        self._counters = device.counters
        self.near = device.near

    def read(self, identity: int, offset: int, region: int, count: int) -> bytes:
        """Perform a valid REGION_READ, under the step lock. Returns the reply, which may be an error reply."""
        started = perf_counter_ns()
        try:
            data = self._device.read(region, offset, count)
            if len(data) != count:
                raise wrong_length(region, offset, count, data)
            self._counters.performed_reads += 1
            reply = _pack(identity, _READ, _HEAD + count, REPLY, 0, offset, region, count) + data
        except Exception as error:  # noqa: BLE001 - refused() raises on what is not the guest's fault
            reply = refused(self._counters, identity, _READ, error)
        elapsed = perf_counter_ns() - started
        if elapsed > SLOW_STEP_NS:
            self._slow("read", region, offset, elapsed)
        return reply

    def write(self, identity: int, offset: int, region: int, data: bytes) -> bytes:
        """Perform a valid REGION_WRITE, under the step lock. Returns the reply, which may be an error reply."""
        started = perf_counter_ns()
        try:
            self._device.write(region, offset, data)
            self._counters.performed_writes += 1
            reply = _pack(identity, _WRITE, _HEAD, REPLY, 0, offset, region, len(data))
        except Exception as error:  # noqa: BLE001 - refused() raises on what is not the guest's fault
            reply = refused(self._counters, identity, _WRITE, error)
        elapsed = perf_counter_ns() - started
        if elapsed > SLOW_STEP_NS:
            self._slow("write", region, offset, elapsed)
        return reply

    def write_and_go_on(
        self, send: Callable[[bytes], None], identity: int, offset: int, region: int, data: bytes
    ) -> bytes:
        """As `write`; jobs that it starts run at once, after the reply. Returns the reply, b"" if it had to be sent."""
        near = self.near
        near.open = True
        try:
            reply = self.write(identity, offset, region, data)
        finally:
            near.open = False
        if not near.stretches:
            return reply
        stretches = near.take()
        send(reply)
        for stretch in stretches:
            stretch()
        return b""

    def _slow(self, access: str, region: int, offset: int, elapsed: int) -> None:
        self._counters.slow_step(f"{access} region {region} +{offset:#x}", elapsed)
