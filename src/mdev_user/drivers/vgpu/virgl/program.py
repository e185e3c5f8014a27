"""Virgl: the program in which a renderer draws for one guest, from and to the guest's memory."""

from collections.abc import Sequence

from typing_extensions import override

from mdev_user.driver import GuestError, Pending, Program
from mdev_user.drivers.vgpu.commands import entries_of
from mdev_user.drivers.vgpu.entries import fault_of
from mdev_user.drivers.vgpu.virgl.binding import Copy, Library, address_of
from mdev_user.drivers.vgpu.virgl.capsets import Capset, told
from mdev_user.drivers.vgpu.virgl.renderer import Renderer
from mdev_user.drivers.vgpu.virgl.shape import Box, Shape

_LOOK_AGAIN = 0.002
"""Seconds, where no file tells that a fence has passed."""


class Virgl(Program):
    """What can be asked of it is what a guest asks of its virtio-gpu; a GuestError is what it does not get."""

    def __init__(self, memory: int) -> None:
        """``memory`` is what the guest is told that it has to draw with, in bytes."""
        self._memory = memory
        self._renderer = Renderer(Library())
        self._backings: dict[int, Sequence[tuple[int, int]]] = {}
        self._fence_fd = self._renderer.fence_fd
        if self._fence_fd >= 0:
            self.watch(self._fence_fd, self._renderer.poll)

    def ready(self) -> None:
        """It has been started."""

    def capsets(self) -> list[Capset]:
        return [told(each, self._memory) for each in self._renderer.capsets()]

    # --- contexts -------------------------------------------------------------------------------------------

    def create_context(self, context: int, name: bytes) -> None:
        self._renderer.create_context(context, name)

    def destroy_context(self, context: int) -> None:
        self._renderer.destroy_context(context)

    def attach(self, context: int, resource: int) -> None:
        self._renderer.attach(context, resource)

    def detach(self, context: int, resource: int) -> None:
        self._renderer.detach(context, resource)

    def submit(self, context: int, commands: bytes) -> str:
        """What is wrong with the commands; empty when nothing is. No error, so that its time is told, too."""
        try:
            self._renderer.submit(context, commands)
        except GuestError as error:
            return str(error)
        return ""

    def fence(self) -> Pending[None]:
        """Answered when all that was submitted until now is done."""
        pending = Pending[None]()
        self._renderer.fence(lambda: pending.done(None))
        if self._fence_fd < 0:
            self._look()
        return pending

    def _look(self) -> None:
        self._renderer.poll()
        if self._renderer.waits:
            self.after(_LOOK_AGAIN, self._look)

    # --- resources ------------------------------------------------------------------------------------------

    def create_resource(self, resource: int, shape: Shape) -> None:
        self._renderer.create_resource(resource, shape)

    def unref_resource(self, resource: int) -> None:
        self._renderer.unref_resource(resource)
        self._backings.pop(resource, None)

    def attach_backing(self, resource: int, entries: bytes) -> None:
        """``entries`` are as the guest gave them. DmaFault where its memory cannot be had."""
        if fault := fault_of(entries):
            raise GuestError(f"resource {resource}: {fault}")
        backing = entries_of(entries)
        mapped = [piece for address, length in backing for piece in self.memory.pieces(address, length, write=True)]
        self._renderer.attach_pieces(resource, [(piece.pointer, len(piece.view)) for piece in mapped])
        self._backings[resource] = backing

    def detach_backing(self, resource: int) -> None:
        self._renderer.detach_pieces(resource)
        self._backings.pop(resource, None)

    def to_host(self, context: int, resource: int, copy: Copy) -> None:
        """Copy a part of a resource from its backing."""
        self._renderer.write(context, resource, copy)

    def from_host(self, context: int, resource: int, copy: Copy) -> None:
        """Copy a part of a resource to its backing."""
        self._renderer.read(context, resource, copy)

    def picture(self, resource: int, box: Box, at: int) -> int:
        """Copy what a part of a resource looks like to ``at`` of the common buffer; how many bytes that took."""
        return self._renderer.picture(resource, box, self._room(at))

    def _room(self, at: int) -> tuple[int, int]:
        room = self.buffer[at:]
        if not room:
            raise GuestError(f"a picture at {at}: the buffer has {len(self.buffer)} bytes")
        return address_of(room), len(room)

    @override
    def unmapped(self, address: int, length: int) -> None:
        """A resource has no backing any more when a part of it has gone."""
        for resource, backing in list(self._backings.items()):
            if any(begin < address + length and address < begin + size for begin, size in backing):
                self.detach_backing(resource)
