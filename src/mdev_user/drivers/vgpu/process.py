"""The renderer of an mdev: its process, what it has there and loses with it, and what it costs.

It is called in turns of the parent's drawing engine, however long they take: nobody else draws meanwhile. Only its
start, which takes longest, nobody else waits for.
"""

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from mdev_user.driver import DmaFault, GuestError, MiB, Process, ProcessEnded, Session, Table, Timed
from mdev_user.drivers.vgpu.commands import Answered, RefusedError
from mdev_user.drivers.vgpu.function import COMMAND, Slice, Vgpu
from mdev_user.drivers.vgpu.resources import BYTES, LARGEST_POINTER
from mdev_user.drivers.vgpu.virgl.program import Virgl
from mdev_user.drivers.vgpu.virgl.shape import Shape

T = TypeVar("T")

MOST_SHAPES = 1 << 14
"""3D resources of a guest."""
OWN_MEMORY = 512 * MiB
"""Of the renderer's process, beside the guest's resources: its code, contexts, shaders."""
SECONDS = 5.0
"""For one command, and for what it draws, while no other mdev draws."""
START_SECONDS = 0.4
"""What a start takes of a processor, about: for one that ends before it is told."""
PIXELS_PER_SECOND = 500_000_000
"""What a second of the renderer's processor time is in the engine's unit: about what copying takes."""
_POINTER = LARGEST_POINTER * LARGEST_POINTER * BYTES


class Shapes(dict[int, Shape]):
    """The 3D resources of a guest, and what they are charged."""

    used = 0

    def add(self, number: int, shape: Shape) -> None:
        self[number] = shape
        self.used += shape.charged

    def drop(self, number: int) -> None:
        self.used -= self.pop(number).charged


class Due:
    """Processor time of a renderer that the drawing engine has not been paid for. Some of it comes after the call."""

    seconds = 0.0

    def add(self, timed: Timed[Any]) -> None:  # Any: only its time is of interest
        self.seconds += timed.processor

    def paid(self) -> float:
        seconds, self.seconds = self.seconds, 0.0
        return seconds


def frame_size(profile: Slice) -> int:
    """Place for what is on a head, twice as large as its monitor."""
    width, height = profile.resolution
    return 2 * width * height * BYTES


class ProcessVgpu(Vgpu):
    renderer = Process(
        Virgl,
        arguments=lambda profile: (profile.high_gm,),
        memory=lambda profile: profile.high_gm + OWN_MEMORY,
        buffer=lambda profile: profile.fence * frame_size(profile) + _POINTER,
        seconds=SECONDS,
        pending_seconds=SECONDS,
    )
    lost = Table[int, bool](limit=MOST_SHAPES)
    """3D resources that ended with the process that had them; the guest does not know."""
    shapes = Session(Shapes)
    made = Session(set[int])
    """Contexts that are in the process."""
    due = Session(Due)

    @renderer.ended
    def renderer_ended(self, _error: ProcessEnded) -> None:
        for number in list(self.shapes):
            self._drop_3d(number)
            self.lost[number] = True
        self.made.clear()

    def _drop_3d(self, number: int) -> None:
        """The process may have died of what was asked for: then it is one of those that are lost."""
        if number not in self.shapes:
            self.lost.pop(number, None)
            return
        for head in [head for head, each in self.shown.items() if each.resource == number]:
            self._show(head, None)
        self.attached.drop(number)
        self.shapes.drop(number)

    # Any: the method's own parameters
    async def _drawn(self, method: Callable[..., str | None], *arguments: Any) -> None:  # noqa: ANN401
        """Call the renderer in a turn of the drawing engine. It may answer why not."""
        with refusals():
            fault = await self._in_turn(partial(self._draw, method, *arguments))
        if fault:
            raise RefusedError(Answered.ERR_UNSPEC, fault)

    async def _draw(self, method: Callable[..., str | None], *arguments: Any) -> str | None:  # noqa: ANN401 - as above
        fault = await self._timed(method, *arguments)
        if method is Virgl.submit:  # which returns before anything is drawn: nobody would have to wait
            await self._timed(Virgl.fence)
        return fault

    async def _timed(self, method: Callable[..., T], *arguments: Any) -> T:  # noqa: ANN401 - as above
        """Call the renderer, when it is its turn."""
        timed = await self.renderer.timed(method, *arguments)
        self.due.add(timed)
        return timed.value

    async def _in_turn(self, work: Callable[[], Coroutine[object, object, T]]) -> T:
        """Let the renderer work in a turn, which is charged the processor time that it took.

        Nobody is told the time of a process that refused, that died, or that a reset ended before it had answered: it
        is at least that for which the turn was held.
        """
        if not self.renderer.alive:
            await self._start()
        due = self.due  # after a reset there is another one
        async with self.drawing.turn(COMMAND) as turn:
            is_told = self.renderer.alive
            try:
                return await work()
            except BaseException:
                is_told = False
                raise
            finally:
                seconds = max(due.paid(), 0.0 if is_told else turn.seconds)
                turn.cost = COMMAND + seconds * PIXELS_PER_SECOND

    async def _start(self) -> None:
        """Start the process, which is charged however it ends, or a guest would have starts for nothing by resets."""
        seconds = START_SECONDS
        try:
            seconds = (await self.renderer.timed(Virgl.ready)).processor
        finally:
            self.drawing.charge(COMMAND + seconds * PIXELS_PER_SECOND)


@contextmanager
def refusals() -> Iterator[None]:
    """What the renderer does not do is answered, also when it has died of it."""
    try:
        yield
    except DmaFault:
        raise
    except GuestError as error:
        raise RefusedError(Answered.ERR_UNSPEC, str(error)) from error
