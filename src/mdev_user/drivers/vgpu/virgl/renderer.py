"""Renderer: contexts and resources of one guest, and what it lets be drawn with them. It has its process for itself.

What a guest asks for and does not get is a GuestError, and changes nothing. What it asks for may also end the process
or keep it busy for good: whoever starts it has to reckon with that.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mdev_user.driver import GuestError
from mdev_user.drivers.vgpu.virgl.binding import Copy, Library, Pieces, ResourceArgs
from mdev_user.drivers.vgpu.virgl.capsets import OFFERED, Capset
from mdev_user.drivers.vgpu.virgl.formats import BLOCKS
from mdev_user.drivers.vgpu.virgl.shape import Box, Shape

MOST_CONTEXTS = 64
"""Programs of a guest that draw at the same time; one takes some 2.5 MB in the process."""
_FENCES = 1 << 31


@dataclass(slots=True)
class _Held:
    """A resource, and the memory that is attached to it."""

    shape: Shape
    pieces: Pieces | None = None


class Renderer:
    """All of its methods are called in one thread, that in which it was made."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._contexts: set[int] = set()
        self._resources: dict[int, _Held] = {}
        self._fences: deque[tuple[int, Callable[[], None]]] = deque()
        self._next_fence = 0

    @property
    def fence_fd(self) -> int:
        """Readable when `poll` has something to do; -1 where it has to be called time and again."""
        return self._library.fence_fd()

    @property
    def waits(self) -> bool:
        """Whether there are fences that have not passed."""
        return bool(self._fences)

    def capsets(self) -> list[Capset]:
        """Those of OpenGL that are there."""
        asked = [Capset(number, *self._library.capset(number)) for number in OFFERED]
        return [each for each in asked if each.contents]

    def reset(self) -> None:
        """No context and no resource is left; fences that wait are forgotten.

        The library's own reset ends the thread that tells of fences.
        """
        for context in list(self._contexts):
            self.destroy_context(context)
        for resource in list(self._resources):
            self.unref_resource(resource)
        self._fences.clear()

    # --- contexts -------------------------------------------------------------------------------------------

    def create_context(self, context: int, name: bytes) -> None:
        if context == 0 or context in self._contexts:
            raise GuestError(f"context {context} cannot be created: 0 is none, and each is created once")
        if len(self._contexts) >= MOST_CONTEXTS:
            raise GuestError(f"context {context} would be one of more than {MOST_CONTEXTS}")
        self._library.create_context(context, name)
        self._contexts.add(context)

    def destroy_context(self, context: int) -> None:
        self._check_context(context)
        self._contexts.remove(context)
        self._library.destroy_context(context)

    def attach(self, context: int, resource: int) -> None:
        """Let a context use a resource."""
        self._check_context(context)
        self._held(resource)
        self._library.attach(context, resource)

    def detach(self, context: int, resource: int) -> None:
        self._check_context(context)
        self._held(resource)
        self._library.detach(context, resource)

    def submit(self, context: int, commands: bytes) -> None:
        """Perform commands; a mistake among them may spoil the context for good, which is the guest's."""
        self._check_context(context)
        self._library.submit(context, commands)

    # --- resources ------------------------------------------------------------------------------------------

    def create_resource(self, resource: int, shape: Shape) -> None:
        """What it may cost is checked before by whoever keeps accounts: see `Shape.charged`."""
        if resource == 0 or resource in self._resources:
            raise GuestError(f"resource {resource} cannot be created: 0 is none, and each is created once")
        if fault := shape.fault():
            raise GuestError(f"resource {resource} cannot be created: {fault}")
        s = shape
        self._library.create_resource(
            ResourceArgs(
                resource, s.target, s.format, s.bind, s.width, s.height, s.depth, s.array_size, s.last_level,
                s.samples, s.flags,
            )
        )  # fmt: skip
        self._resources[resource] = _Held(shape)

    def unref_resource(self, resource: int) -> None:
        self.detach_pieces(resource)
        del self._resources[resource]
        self._library.unref_resource(resource)

    def attach_pieces(self, resource: int, pieces: Sequence[tuple[int, int]]) -> None:
        """Let a resource be copied from and to memory: addresses in this process, and lengths."""
        held = self._held(resource)
        if held.pieces is not None:
            raise GuestError(f"resource {resource} has its memory already")
        if not pieces:
            raise GuestError(f"resource {resource} cannot have no memory")
        attached = Pieces(pieces)
        self._library.attach_pieces(resource, attached)
        held.pieces = attached

    def detach_pieces(self, resource: int) -> None:
        """Use that memory no more; nothing happens where there is none."""
        held = self._held(resource)
        if held.pieces is not None:
            self._library.detach_pieces(resource)
            held.pieces = None

    def read(self, context: int, resource: int, copy: Copy) -> None:
        """Copy a part of a resource into the memory that is attached to it."""
        self._check_copy(resource, copy, self._held(resource).pieces)
        self._library.read(context, resource, copy)

    def write(self, context: int, resource: int, copy: Copy) -> None:
        """Copy the memory that is attached into a part of a resource."""
        self._check_copy(resource, copy, self._held(resource).pieces)
        self._library.write(context, resource, copy)

    def picture(self, resource: int, box: Box, into: tuple[int, int]) -> int:
        """Copy what a part of a resource looks like to an address of so many bytes; how many it took.

        Its lines follow each other without a gap, the topmost first.
        """
        block = BLOCKS[self._held(resource).shape.format]
        stride = block.columns(box.width) * block.size
        copy = Copy(box, stride=stride)
        pieces = Pieces([into])
        self._check_copy(resource, copy, pieces)
        size = stride * block.lines(box.height)
        if size > into[1] or box.depth != 1:
            raise GuestError(f"resource {resource}: its picture of {size} bytes does not fit {into[1]}")
        self._library.read(0, resource, copy, pieces)
        return size

    def _check_copy(self, resource: int, copy: Copy, pieces: Pieces | None) -> None:
        """The library checks the end of the memory, and not all of the box."""
        if not self._held(resource).shape.holds(Box(*copy.box), copy.level):
            raise GuestError(f"resource {resource} has no {copy}")
        if pieces is None:
            raise GuestError(f"resource {resource} has no memory to be copied from and to")

    # --- fences ---------------------------------------------------------------------------------------------

    def fence(self, passed: Callable[[], None]) -> None:
        """``passed`` is called by `poll` when all that was submitted until now is done."""
        number, self._next_fence = self._next_fence, (self._next_fence + 1) % _FENCES
        self._library.fence(number)
        self._fences.append((number, passed))

    def poll(self) -> None:
        """Tell whose fences have passed."""
        for last in self._library.passed():
            if not any(number == last for number, _passed in self._fences):
                continue  # of before a reset
            while self._fences:
                number, passed = self._fences.popleft()
                passed()
                if number == last:
                    break

    # --- what is there --------------------------------------------------------------------------------------

    def _check_context(self, context: int) -> None:
        if context not in self._contexts:
            raise GuestError(f"there is no context {context}")

    def _held(self, resource: int) -> _Held:
        held = self._resources.get(resource)
        if held is None:
            raise GuestError(f"there is no resource {resource}")
        return held
