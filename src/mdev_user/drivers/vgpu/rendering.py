"""RenderingVgpu: the graphics adapter with 3D (VIRTIO_GPU_F_VIRGL), its commands: a renderer has a process.

The process is started when a guest first has something for it; until then the mdev is as one without, and can be
migrated. What the renderer has is lost when the process dies: resources are gone for the guest, and what it begins
anew works again.
"""

from collections.abc import Callable, Coroutine, Mapping
from functools import cache, partial
from typing import Any

from typing_extensions import override

from mdev_user.driver import Attribute, Chain, Engine, GuestError, KeptChain, MiB, ResetKind, Table, attribute, job
from mdev_user.drivers.vgpu import commands as c
from mdev_user.drivers.vgpu.commands import Answered, Features, RefusedError
from mdev_user.drivers.vgpu.function import DONE, Outcome
from mdev_user.drivers.vgpu.heads import HeadsVgpu
from mdev_user.drivers.vgpu.process import MOST_SHAPES, refusals
from mdev_user.drivers.vgpu.resources import BYTES
from mdev_user.drivers.vgpu.virgl import commands as c3
from mdev_user.drivers.vgpu.virgl.binding import Copy, missing
from mdev_user.drivers.vgpu.virgl.capsets import OFFERED, Capset
from mdev_user.drivers.vgpu.virgl.program import Virgl
from mdev_user.drivers.vgpu.virgl.renderer import MOST_CONTEXTS
from mdev_user.drivers.vgpu.virgl.shape import Box, Shape

MOST_COMMANDS = 4 * MiB
"""Bytes of one SUBMIT_3D."""


@cache
def has_renderer() -> bool:
    """Whether this machine has what draws."""
    return not missing()


class Gpu(Engine):
    """What all mdevs of the parent share: the time to draw, and what the renderer says that it can do."""

    capsets: Mapping[int, tuple[Capset, ...]] = {}
    """By the memory to draw with. They are replaced as a whole, so steps of several mdevs may."""


class RenderingVgpu(HeadsVgpu):
    offers = Features.EDID | Features.VIRGL

    rendering = Attribute(True, group="vgpu")
    """Whether a guest is offered 3D, from its next reset on: one that used it cannot be migrated."""

    @attribute(group="vgpu", unit="bytes")
    def high_gm_used(self) -> int:
        return self.shapes.used

    contexts = Table[int, bytes](limit=MOST_CONTEXTS)
    """Their names, by number."""

    @override
    def features(self) -> int:
        return self.offers if self.rendering and has_renderer() else self.offers & ~Features.VIRGL

    @override
    def reset(self, kind: ResetKind) -> None:
        super().reset(kind)
        self.settings.capsets = len(OFFERED) if self.features() & Features.VIRGL else 0

    # --- commands -------------------------------------------------------------------------------------------

    @override
    async def _outcome(self, header: c.Header, data: bytes, chain: Chain) -> Outcome:
        if header.type not in c3.FORMS or not self.negotiated & Features.VIRGL:
            return await self._outcome_2d(header, data, chain)
        form, kind = c3.FORMS[header.type]
        lacking = c.HEADER_SIZE + form.size - len(data)
        if lacking > chain.readable:
            raise RefusedError(Answered.ERR_UNSPEC, f"{kind.__name__}: {lacking} bytes are missing")
        data += await chain.read(max(0, lacking))
        command = kind(*form.unpack_from(data, c.HEADER_SIZE))
        if isinstance(command, c3.Submit3d):
            return await self.submit(header.context, command, data[c.HEADER_SIZE + form.size :], chain)
        return await _EXECUTE[kind](self, header.context, command)

    async def _outcome_2d(self, header: c.Header, data: bytes, chain: Chain) -> Outcome:
        """A command that 2D has, too: perhaps for a 3D resource."""
        command, size = c.command_of(header, data)
        number = getattr(command, "resource", 0)
        if number in self.lost and isinstance(command, c.Unref):
            return Outcome(effect=partial(self._forget_lost, number))
        if number not in self.shapes:
            if isinstance(command, c.Create2d):
                self._check_new(number)
            return await super()._outcome(header, data, chain)
        if isinstance(command, c.AttachBacking):
            return await self.attach_3d(command, data[size:], chain)
        if type(command) not in _EXECUTE_EITHER:
            raise RefusedError(Answered.ERR_INVALID_RESOURCE_ID, f"resource {number} is not one of 2D")
        return await _EXECUTE_EITHER[type(command)](self, command)

    def _forget_lost(self, number: int) -> None:
        self.lost.pop(number, None)

    @override
    def _finish(self, header: c.Header, chain: Chain, outcome: Outcome) -> None:
        """Fences pass in their order: while the renderer runs, behind all that it was given."""
        super()._finish(header, chain, outcome)
        if header.flags & c.FENCE and self.renderer.alive:
            self.pass_fence(chain.keep())

    @job(limit=512)
    async def pass_fence(self, chain: KeptChain) -> None:
        """Give a chain back when what was drawn until now is there."""
        try:
            if self.renderer.alive:
                self.due.add(await self.renderer.timed(Virgl.fence))
        except GuestError:  # counted; there is nothing to wait for any more
            pass
        (self.cursor if chain.queue else self.control).give_back(chain)

    # --- what the renderer can do ---------------------------------------------------------------------------

    async def capset_info(self, _context: int, command: c3.GetCapsetInfo) -> Outcome:
        capsets = await self._capsets()
        if command.place >= len(capsets):
            return Outcome(Answered.OK_CAPSET_INFO, c3.NO_CAPSET)
        return Outcome(Answered.OK_CAPSET_INFO, c3.capset_info(capsets[command.place]))

    async def capset(self, _context: int, command: c3.GetCapset) -> Outcome:
        for each in await self._capsets():
            if each.number == command.capset and command.version <= each.version:
                return Outcome(Answered.OK_CAPSET, each.contents)
        raise RefusedError(Answered.ERR_INVALID_PARAMETER, f"there is no {command}")

    async def _capsets(self) -> tuple[Capset, ...]:
        """Asked of a process that has heard of no guest, since all mdevs of the parent get the same."""
        memory, known = self.profile.high_gm, self._gpu.capsets
        if memory in known:
            return known[memory]
        is_new = not self.renderer.alive  # asked first of all: nothing of a guest has been in it
        with refusals():
            capsets = tuple(await self._in_turn(partial(self._timed, Virgl.capsets)))
        if any(each.number not in OFFERED or not 0 <= each.version < 1 << 32 for each in capsets):
            raise RefusedError(Answered.ERR_UNSPEC, "the renderer tells of sets that are none")
        if is_new and not self.made and not self.shapes:
            self.renderer.end()
            self._gpu.capsets = {**self._gpu.capsets, memory: capsets}
        return capsets

    @property
    def _gpu(self) -> Gpu:
        """The backend of `Vgpu` is any engine, of `Card` this one."""
        return self.backend if isinstance(self.backend, Gpu) else Gpu()

    # --- contexts -------------------------------------------------------------------------------------------

    async def create_context(self, context: int, command: c3.CreateContext) -> Outcome:
        if not context or context in self.contexts or command.name_length > c3.LONGEST_NAME:
            raise RefusedError(Answered.ERR_INVALID_CONTEXT_ID, f"context {context}: expected a new one, not 0")
        if len(self.contexts) >= MOST_CONTEXTS:
            raise RefusedError(Answered.ERR_OUT_OF_MEMORY, f"context {context}: {MOST_CONTEXTS} are there")
        name = command.name[: command.name_length]
        return Outcome(effect=partial(self.contexts.__setitem__, context, name))

    async def destroy_context(self, context: int, _command: c3.DestroyContext) -> Outcome:
        self._check_context(context)
        if context in self.made:
            await self._drawn(Virgl.destroy_context, context)
        return Outcome(effect=partial(self._forget_context, context))

    def _forget_context(self, context: int) -> None:
        self.contexts.pop(context, None)
        self.made.discard(context)

    async def attach_resource(self, context: int, command: c3.AttachResource) -> Outcome:
        """A resource of 2D is attached to each context of a program that has it, and used in none."""
        await self._in_context(context, Virgl.attach, command.resource)
        return DONE

    async def detach_resource(self, context: int, command: c3.DetachResource) -> Outcome:
        await self._in_context(context, Virgl.detach, command.resource)
        return DONE

    async def _in_context(self, context: int, method: Callable[[Virgl, int, int], None], number: int) -> None:
        self._check_context(context)
        if number in self.shapes:
            await self._ready(context)
            await self._drawn(method, context, number)
        elif number not in self.resources and number not in self.lost:
            raise RefusedError(Answered.ERR_INVALID_RESOURCE_ID, f"there is no resource {number}")

    def _check_context(self, context: int) -> None:
        if context not in self.contexts:
            raise RefusedError(Answered.ERR_INVALID_CONTEXT_ID, f"there is no context {context}")

    async def _ready(self, context: int) -> None:
        """The context is there in the process, if it is one at all."""
        if context not in self.made and context in self.contexts:
            await self._drawn(Virgl.create_context, context, self.contexts[context])
            self.made.add(context)

    async def submit(self, context: int, command: c3.Submit3d, begun: bytes, chain: Chain) -> Outcome:
        self._check_context(context)
        missing = command.size - len(begun)
        if command.size > MOST_COMMANDS or missing > chain.readable:
            raise RefusedError(Answered.ERR_INVALID_PARAMETER, f"{command.size} bytes of commands, or not as many")
        commands = begun[: command.size] + await chain.read(max(0, missing))
        await self._ready(context)
        await self._drawn(Virgl.submit, context, commands)
        return DONE

    # --- resources ------------------------------------------------------------------------------------------

    async def create_3d(self, _context: int, command: c3.Create3d) -> Outcome:
        number, shape = command.resource, Shape(*command[1:])
        self._check_new(number)
        if fault := shape.fault():
            raise RefusedError(Answered.ERR_INVALID_PARAMETER, f"resource {number}: {fault}")
        free = self.profile.high_gm - self.shapes.used
        if shape.charged > free or len(self.shapes) + len(self.lost) >= MOST_SHAPES:
            raise RefusedError(
                Answered.ERR_OUT_OF_MEMORY, f"{shape.charged} bytes: {free} of {self.profile.high_gm} are free"
            )
        await self._drawn(Virgl.create_resource, number, shape)
        return Outcome(effect=partial(self._add_3d, number, shape))

    def _add_3d(self, number: int, shape: Shape) -> None:
        """The process may have died of it while the command was answered; so too below."""
        if self.renderer.alive:
            self.shapes.add(number, shape)
        else:
            self.lost[number] = True

    def _check_new(self, number: int) -> None:
        if not number or number in self.resources or number in self.shapes or number in self.lost:
            raise RefusedError(Answered.ERR_INVALID_RESOURCE_ID, f"resource {number}: expected a new one, not 0")

    async def unref_3d(self, command: c.Unref) -> Outcome:
        await self._drawn(Virgl.unref_resource, command.resource)
        return Outcome(effect=partial(self._drop_3d, command.resource))

    async def attach_3d(self, command: c.AttachBacking, begun: bytes, chain: Chain) -> Outcome:
        """The process makes sense of the entries, in its own time."""
        number, count = command.resource, command.pieces
        data = await self._entries(command, begun, chain, c.ENTRY_SIZE // BYTES)
        await self._drawn(Virgl.attach_backing, number, data)
        return Outcome(effect=partial(self._attach_3d, number, count))

    def _attach_3d(self, number: int, count: int) -> None:
        if number in self.shapes:
            self.attached.add(number, count)

    async def detach_3d(self, command: c.DetachBacking) -> Outcome:
        if command.resource not in self.attached:
            raise RefusedError(Answered.ERR_UNSPEC, f"resource {command.resource} has no backing")
        await self._drawn(Virgl.detach_backing, command.resource)
        return Outcome(effect=partial(self._detach_3d, command.resource))

    def _detach_3d(self, number: int) -> None:
        self.attached.drop(number)

    async def to_host(self, context: int, command: c3.TransferToHost3d) -> Outcome:
        await self._copy(context, Virgl.to_host, command)
        return DONE

    async def from_host(self, context: int, command: c3.TransferFromHost3d) -> Outcome:
        await self._copy(context, Virgl.from_host, command)
        return DONE

    async def _copy(
        self,
        context: int,
        method: Callable[[Virgl, int, int, Copy], None],
        command: c3.TransferToHost3d | c3.TransferFromHost3d,
    ) -> None:
        number, box = command.resource, Box(*command[:6])
        if context:
            self._check_context(context)
        if number not in self.shapes:
            raise RefusedError(Answered.ERR_INVALID_RESOURCE_ID, f"there is no 3D resource {number}")
        if not self.shapes[number].holds(box, command.level):
            raise RefusedError(Answered.ERR_INVALID_PARAMETER, f"resource {number}: no {box} in {command.level}")
        await self._ready(context)
        copy = Copy(box, command.offset, command.level, command.stride, command.layer_stride)
        await self._drawn(method, context, number, copy)


# Any: each takes the command of its own kind
_EXECUTE: Mapping[type, Callable[[RenderingVgpu, int, Any], Coroutine[object, object, Outcome]]] = {  # Any: as above
    c3.GetCapsetInfo: RenderingVgpu.capset_info,
    c3.GetCapset: RenderingVgpu.capset,
    c3.CreateContext: RenderingVgpu.create_context,
    c3.DestroyContext: RenderingVgpu.destroy_context,
    c3.AttachResource: RenderingVgpu.attach_resource,
    c3.DetachResource: RenderingVgpu.detach_resource,
    c3.Create3d: RenderingVgpu.create_3d,
    c3.TransferToHost3d: RenderingVgpu.to_host,
    c3.TransferFromHost3d: RenderingVgpu.from_host,
}
_EXECUTE_EITHER: Mapping[type, Callable[[RenderingVgpu, Any], Coroutine[object, object, Outcome]]] = {  # Any: as above
    c.Unref: RenderingVgpu.unref_3d,
    c.DetachBacking: RenderingVgpu.detach_3d,
    c.SetScanout: RenderingVgpu.show_3d,
    c.Flush: RenderingVgpu.flush_3d,
    c.UpdateCursor: RenderingVgpu.point_3d,
}
"""Commands of 2D, for a 3D resource."""
