"""What heads and pointers show of 3D resources: copies, which the renderer makes when they are to be seen."""

from functools import partial

from typing_extensions import override

from mdev_user.driver import Picture, Session, sleep, worker
from mdev_user.drivers.vgpu import commands as c
from mdev_user.drivers.vgpu.commands import MOST_HEADS, Answered, RefusedError
from mdev_user.drivers.vgpu.function import Outcome
from mdev_user.drivers.vgpu.process import ProcessVgpu, frame_size, refusals
from mdev_user.drivers.vgpu.resources import BYTES, FORMATS, LARGEST_POINTER, MOST_SHOWN, Image, Shown
from mdev_user.drivers.vgpu.virgl.program import Virgl
from mdev_user.drivers.vgpu.virgl.shape import Box, Target

FRAME_TIME = 1 / 30
"""Seconds between two copies of what a head shows."""


class HeadsVgpu(ProcessVgpu):
    frames = Session(dict[int, tuple[int, int, int]])
    """By head that shows a 3D resource: width, height and format of its copy."""

    async def show_3d(self, command: c.SetScanout) -> Outcome:
        self._check_head(command.head)
        self._check_shown(command)
        most = min(frame_size(self.profile), MOST_SHOWN)
        if command.width * command.height * BYTES > most:
            raise RefusedError(Answered.ERR_INVALID_PARAMETER, f"{command}: more than {most} bytes on a head")
        shown = Shown(command.resource, command.x, command.y, command.width, command.height)
        return Outcome(effect=partial(self._show_3d, command.head, shown))

    def _show_3d(self, head: int, shown: Shown) -> None:
        """The process may have died while the command was answered."""
        self._show(head, shown if shown.resource in self.shapes else None)

    async def flush_3d(self, command: c.Flush) -> Outcome:
        self._check_shown(command)
        await self.drawing.frame()
        return Outcome(effect=partial(self._refresh_all, command.resource))

    def _check_shown(self, command: c.SetScanout | c.Flush) -> None:
        """It can be shown: of two dimensions, and with pixels that a screen knows."""
        shape = self.shapes[command.resource]
        box = Box(command.x, command.y, 0, command.width, command.height, 1)
        if shape.target != Target.TEXTURE_2D or shape.format not in FORMATS or not shape.holds(box, 0):
            raise RefusedError(Answered.ERR_INVALID_PARAMETER, f"resource {command.resource} cannot show {box}")

    @override
    def _show(self, head: int, shown: Shown | None) -> None:
        super()._show(head, shown)
        if shown is not None and shown.resource in self.shapes:
            self.refresh(head)
        else:
            self.frames.pop(head, None)

    def _refresh_all(self, number: int) -> None:
        for head, each in self.shown.items():
            if each.resource == number:
                self.refresh(head)

    @worker(limit=MOST_HEADS)
    async def refresh(self, head: int) -> None:
        """Have a copy of what a head shows, not more often than somebody could look at it."""
        if head not in self.shown:
            return
        await self._in_turn(partial(self._copy_shown, head))
        await sleep(FRAME_TIME)

    async def _copy_shown(self, head: int) -> None:
        """What it shows now: before its turn came, and while it is copied, a guest shows something else."""
        shown = self.shown.get(head)
        shape = self.shapes.get(shown.resource) if shown else None
        if shown is None or shape is None:
            return
        box = Box(shown.x, shown.y, 0, shown.width, shown.height, 1)
        await self._timed(Virgl.picture, shown.resource, box, head * frame_size(self.profile))
        now = self.shown.get(head)
        if now is not None and now.resource in self.shapes:
            self.frames[head] = shown.width, shown.height, shape.format
            self.damaged(head)

    @override
    def picture(self, head: int) -> Picture | None:
        if head not in self.frames:
            return super().picture(head)
        width, height, pixels = self.frames[head]
        at, stride = head * frame_size(self.profile), width * BYTES
        frame = self.renderer.buffer[at : at + stride * height]
        return Picture(width, height, stride, FORMATS[pixels], frame, self._pointer(head))

    async def point_3d(self, command: c.UpdateCursor) -> Outcome:
        self._check_head(command.head)
        number, shape = command.resource, self.shapes[command.resource]
        if max(shape.width, shape.height) > LARGEST_POINTER or shape.format not in FORMATS:
            raise RefusedError(Answered.ERR_INVALID_PARAMETER, f"resource {number} cannot be a pointer")
        at = self.profile.fence * frame_size(self.profile)
        box = Box(0, 0, 0, shape.width, shape.height, 1)
        with refusals():
            await self._in_turn(partial(self._timed, Virgl.picture, number, box, at))
        pixels = bytes(self.renderer.buffer[at : at + BYTES * shape.width * shape.height])
        place = command.hot_x, command.hot_y, command.x, command.y
        image = Image(shape.format, shape.width, shape.height, pixels, *place)
        return Outcome(effect=partial(self._point, command.head, image))
