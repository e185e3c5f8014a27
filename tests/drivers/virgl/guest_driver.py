"""A guest's driver for virtio-gpu with 3D, in memory."""

import time
from struct import unpack_from

from typing_extensions import override

from mdev_user.drivers.vgpu.commands import Answered
from mdev_user.drivers.vgpu.rendering import RenderingVgpu
from mdev_user.drivers.vgpu.virgl.shape import Box, Shape
from mdev_user.testing import Guest
from unit.drivers.vgpu.gpu_driver import PICTURES, GpuDriver

CAPSET_INFO, CAPSET = 0x108, 0x109
CONTEXT, DESTROY, USE, LEAVE, CREATE_3D, TO_HOST, FROM_HOST, SUBMIT = range(0x200, 0x208)


class VirglDriver(GpuDriver):
    """It takes the feature that `GpuDriver` leaves; its context is 7."""

    FEATURES = GpuDriver.FEATURES | 1

    def __init__(self, guest: Guest, memory: int = PICTURES) -> None:
        """``memory`` is where that for pictures begins."""
        super().__init__(guest)
        self._next = memory

    @override
    def came(self, queue: int = 0) -> list[tuple[int, int]]:
        """What is drawn comes back when another thread has told so: that takes time of the clock on the wall."""
        end = time.monotonic() + 20
        while not (found := super().came(queue)) and time.monotonic() < end:
            time.sleep(0.001)
        return found

    @property
    def rendering(self) -> RenderingVgpu:
        function = self.guest.device.function
        assert isinstance(function, RenderingVgpu)
        return function

    def capset_info(self, place: int) -> tuple[int, int, int]:
        """Number, version and size."""
        answer = self.send(self.command(CAPSET_INFO, "I4x", place))
        assert unpack_from("<I", answer)[0] == Answered.OK_CAPSET_INFO
        number, version, size = unpack_from("<3I", answer, 24)
        return number, version, size

    def capset(self, number: int, version: int) -> bytes:
        answer = self.send(self.command(CAPSET, "2I", number, version))
        assert unpack_from("<I", answer)[0] == Answered.OK_CAPSET
        return answer[24:]

    def context(self, name: bytes = b"test") -> Answered:
        return self.do(CONTEXT, "2I64s", len(name), 0, name)  # type: ignore[arg-type]  # its name is bytes

    def create_3d(self, number: int, shape: Shape) -> Answered:
        s = shape
        values = s.target, s.format, s.bind, s.width, s.height, s.depth, s.array_size, s.last_level, s.samples, s.flags
        return self.do(CREATE_3D, "11I4x", number, *values)

    def use(self, number: int) -> Answered:
        return self.do(USE, "I4x", number)

    def copy(self, kind: int, number: int, box: Box, offset: int = 0, level: int = 0) -> Answered:
        return self.do(kind, "6IQ4I", *box, offset, number, level, 0, 0)

    def submit(self, commands: bytes) -> Answered:
        return self.do(SUBMIT, "I4x", len(commands), more=commands)
