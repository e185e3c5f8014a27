"""Vgpu: a graphics adapter that every Linux has the driver of (virtio 1.2, section 5.7), on a slice of the parent's.

A command is read and checked, answered, and takes effect only then: a device that is saved before its guest has the
answer begins the command anew where it is loaded.
"""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from typing_extensions import override

from mdev_user.driver import (
    RO, U32, WO, Attribute, AttributeGroup, Chain, DmaFault, Engine, GuestError, InvalidValue, Memory, Picture,
    Pointer, Profile, Rect, ResetKind, ScatterList, Session, Share, Table, VirtioConfig, VirtioFunction, Virtqueue,
    attribute, edid_of, on_write, sleep,
)  # fmt: skip
from mdev_user.drivers.vgpu import commands as c
from mdev_user.drivers.vgpu.commands import ENTRY_SIZE, MOST_HEADS, Answered, Features, RefusedError
from mdev_user.drivers.vgpu.entries import MOST_PIECES, Attached, fault_of
from mdev_user.drivers.vgpu.resources import (
    BYTES, FORMATS, LARGEST, LARGEST_POINTER, MOST_SHOWN, POINTER_FORMATS, STRETCH, Image, Places, Resource, Shown,
    bands, charge, closed_up, is_sound, overlap,
)  # fmt: skip

MOST_RESOURCES = 1 << 12
COMMAND = 1 << 17
"""Pixels that each turn costs beside those that are drawn: its way through queue and engine takes as long as these."""
LINE = 1 << 8
"""What each line costs."""
ENTRY = 256
"""What each entry of a backing costs that is read and understood: half a microsecond."""
SEARCHED = 64
"""What each picture costs between which a place is looked for."""
DISPLAY_EVENT = 1
_ZEROS = memoryview(bytes(STRETCH))


@dataclass(frozen=True)
class Slice(Profile):
    """What a type has, in GVT-g's words."""

    low_gm: int
    """Bytes of graphics memory for pictures, which heads can show."""
    high_gm: int
    """Bytes of graphics memory for what is rendered."""
    fence: int
    """Scanout engines: heads that can have a monitor."""
    weight: int
    """The share of the drawing engine, while others want it, too."""
    resolution: tuple[int, int]
    """Pixels of a monitor."""


class Settings(VirtioConfig):
    events, events_clear = U32(0x00, RO), U32(0x04, WO)
    heads, capsets = U32(0x08, RO), U32(0x0C, RO)


def _nothing() -> None:
    """The effect of what only asks."""


class Outcome(NamedTuple):
    """How a command is answered, and what it does then."""

    answer: Answered = Answered.OK_NODATA
    body: bytes = b""
    effect: Callable[[], None] = _nothing


DONE = Outcome()


class Vgpu(VirtioFunction[Slice, Engine]):
    virtio_id = 16
    offers = Features.EDID
    settings = Settings()
    control, cursor = Virtqueue(size=256), Virtqueue(size=64)

    monitors = Attribute(1, range=(0, MOST_HEADS), group="vgpu")
    """Heads that have one, from the first."""
    weight = Attribute(1, range=(1, 16), group="scheduling", of_type=lambda profile: profile.weight)
    frame_rate_limit = Attribute(0, range=(0, 1000), unit="Hz", group="scheduling")
    schedule = AttributeGroup(weight, frame_rate_limit, group="scheduling")
    drawing = Share(weight, frame_rate=frame_rate_limit)
    """Of the engine, in pixels."""

    @attribute(group="scheduling", unit="pixels")
    def drawn(self) -> int:
        """What the mdev had of the engine so far: `COMMAND` and `LINE` say what counts beside pixels."""
        return int(self.drawing.given)

    @attribute(group="vgpu", unit="bytes")
    def low_gm_used(self) -> int:
        return self.places.used

    graphics = Memory(size=lambda profile: profile.low_gm)
    resources = Table[int, Resource](limit=MOST_RESOURCES)
    places = Session(Places)
    """Of ``resources``."""
    entries = Table[int, bytes](limit=MOST_RESOURCES)
    """Of the resources that have a backing, its entries as the guest gave them."""
    backings = Session(dict[int, ScatterList])
    """Of ``entries``, those that were needed so far."""
    attached = Session(Attached)
    """How many pieces the backings have, those of 3D resources, too."""
    shown = Table[int, Shown](limit=MOST_HEADS)
    """By head."""
    pointers = Table[int, Image](limit=MOST_HEADS)
    """By head."""

    tells_damage = True

    @property
    @override
    def heads(self) -> int:
        return self.profile.fence

    @override
    def reset(self, kind: ResetKind) -> None:
        self.settings.heads = self.heads

    @override
    def loaded(self) -> None:
        """A state comes from anywhere: what no command could have made of the resources is left out."""
        end = 0
        for number, each in sorted(self.resources.items(), key=lambda item: item[1].at):
            if each.at < end or not is_sound(each, self.profile.low_gm):
                del self.resources[number]
                continue
            self.places.add(each)
            end = each.at + each.charged
        self._load_entries()
        for head, shown in list(self.shown.items()):
            resource = self.resources.get(shown.resource)
            if resource is None or resource.span(shown.rect) > MOST_SHOWN:
                del self.shown[head]
        for head, image in list(self.pointers.items()):
            if not image.is_sound:
                del self.pointers[head]

    def _load_entries(self) -> None:
        for number, data in list(self.entries.items()):
            if number in self.resources and not fault_of(data):
                self.attached.add(number, len(data) // ENTRY_SIZE)
            else:
                del self.entries[number]
        if self.attached.pieces > MOST_PIECES:
            self.entries.clear()
            self.attached = Attached()

    @monitors.stored
    def plug(self) -> None:
        """A guest that is told asks for the heads anew."""
        if self.monitors > self.heads:
            raise InvalidValue(f"monitors: expected 0 to {self.heads}, given {self.monitors}")
        self.settings.events |= DISPLAY_EVENT
        self.config_changed()

    @on_write(Settings.events_clear)
    def clear_events(self, events: int) -> None:
        self.settings.events &= ~events

    # --- commands -------------------------------------------------------------------------------------------

    @control.served
    async def draw(self, chain: Chain) -> None:
        await self._execute(chain, lambda kind: kind not in c.OF_POINTERS)

    @cursor.served
    async def point(self, chain: Chain) -> None:
        """Section 5.7.2: what is done to pointers overtakes what is drawn, and nothing else does."""
        await self._execute(chain, c.OF_POINTERS.__contains__)

    async def _execute(self, chain: Chain, belongs: Callable[[int], bool]) -> None:
        """Perform a command of a type that ``belongs`` into its queue, and answer each."""
        data = await chain.read(min(chain.readable, c.LARGEST))
        if len(data) < c.HEADER_SIZE:
            raise GuestError(f"a command of {len(data)} bytes: expected {c.HEADER_SIZE} or more")
        header = c.header_of(data)
        try:
            if not belongs(header.type):
                raise RefusedError(Answered.ERR_UNSPEC, f"command {header.type:#x} is not one of this queue")
            outcome = await self._outcome(header, data, chain)
        except RefusedError as refusal:
            outcome = Outcome(refusal.answer)
        except DmaFault:  # counted: the guest's memory is not where it said
            outcome = Outcome(Answered.ERR_UNSPEC)
        answer = header.answer(outcome.answer) + outcome.body
        await chain.write(answer[: chain.writable])  # Linux leaves no place for that of the pointer's
        self._finish(header, chain, outcome)

    def _finish(self, _header: c.Header, _chain: Chain, outcome: Outcome) -> None:
        """The last step of a command: it is answered, and takes effect."""
        outcome.effect()

    async def _outcome(self, header: c.Header, data: bytes, chain: Chain) -> Outcome:
        command, size = c.command_of(header, data)
        if isinstance(command, c.AttachBacking):
            return await self.attach_backing(command, data[size:], chain)
        return await _EXECUTE[type(command)](self, command)

    # --- resources ------------------------------------------------------------------------------------------

    async def create_2d(self, command: c.Create2d) -> Outcome:
        number, width, height = command.resource, command.width, command.height
        if not number or number in self.resources:
            raise RefusedError(Answered.ERR_INVALID_RESOURCE_ID, f"resource {number}: expected a new one, not 0")
        if command.format not in FORMATS or not (0 < width <= LARGEST and 0 < height <= LARGEST):
            raise RefusedError(Answered.ERR_INVALID_PARAMETER, f"{width}x{height} pixels of format {command.format}")
        resource = Resource(command.format, width, height, await self._place_for(charge(width, height)))
        await self._clear(resource)
        return Outcome(effect=partial(self._add, number, resource))

    def _add(self, number: int, resource: Resource) -> None:
        self.resources[number] = resource
        self.places.add(resource)

    async def _clear(self, resource: Resource) -> None:
        """No picture begins with what another one left. That is drawing, too, or guests had it for nothing."""
        for at in range(resource.at, resource.at + resource.charged, STRETCH):
            size = min(STRETCH, resource.at + resource.charged - at)
            async with self.drawing.turn(COMMAND + size // BYTES):
                self.graphics[at : at + size] = _ZEROS[:size]
            await sleep(0)

    async def _place_for(self, needed: int) -> int:
        """The quota is exact: where no hole is large enough, but all together are, they are made one."""
        free = self.profile.low_gm - self.places.used
        if needed > free or len(self.resources) >= MOST_RESOURCES:
            raise RefusedError(Answered.ERR_OUT_OF_MEMORY, f"{needed} bytes: {free} of {self.profile.low_gm} are free")
        async with self.drawing.turn(COMMAND + SEARCHED * len(self.resources)):
            place = self.places.hole(needed, self.profile.low_gm)
        if place is not None:
            return place
        for number, old, new in list(closed_up(self.resources)):
            async with self.drawing.turn(COMMAND + old.charged // BYTES):
                self.graphics[new.at : new.at + old.charged] = self.graphics[old.at : old.at + old.charged]
                self.resources[number] = new
                self.places.drop(old)
                self.places.add(new)
            await sleep(0)
        return self.places.used

    async def unref(self, command: c.Unref) -> Outcome:
        self._resource(command.resource)
        return Outcome(effect=partial(self._drop, command.resource))

    def _drop(self, number: int) -> None:
        for head in [head for head, each in self.shown.items() if each.resource == number]:
            self._show(head, None)
        self._forget_backing(number)
        self.places.drop(self.resources.pop(number))

    async def attach_backing(self, command: c.AttachBacking, begun: bytes, chain: Chain) -> Outcome:
        self._resource(command.resource)
        data = await self._entries(command, begun, chain, ENTRY)
        if fault := fault_of(data):
            raise RefusedError(Answered.ERR_INVALID_PARAMETER, f"resource {command.resource}: {fault}")
        return Outcome(effect=partial(self._attach, command.resource, data))

    async def _entries(self, command: c.AttachBacking, begun: bytes, chain: Chain, cost: int) -> bytes:
        """The entries of a resource that may have as many, as they are; each ``cost`` so much."""
        number, count = command.resource, command.pieces
        missing = count * ENTRY_SIZE - len(begun)
        if number in self.attached or missing > chain.readable:
            raise RefusedError(Answered.ERR_UNSPEC, f"resource {number}: a second backing, or not of {count} entries")
        if count + self.attached.pieces > MOST_PIECES:
            raise RefusedError(Answered.ERR_OUT_OF_MEMORY, f"{count} entries more than {MOST_PIECES} of all resources")
        async with self.drawing.turn(COMMAND + cost * count):
            pass  # as below: nothing of the guest's is awaited in it
        return begun[: count * ENTRY_SIZE] + await chain.read(max(0, missing))

    def _attach(self, number: int, data: bytes) -> None:
        self.entries[number] = data
        self.attached.add(number, len(data) // ENTRY_SIZE)

    async def detach_backing(self, command: c.DetachBacking) -> Outcome:
        self._resource(command.resource)
        if command.resource not in self.entries:
            raise RefusedError(Answered.ERR_UNSPEC, f"resource {command.resource} has no backing")
        return Outcome(effect=partial(self._forget_backing, command.resource))

    def _forget_backing(self, number: int) -> None:
        self.backings.pop(number, None)
        self.attached.drop(number)
        self.entries.pop(number, None)

    def _resource(self, number: int) -> Resource:
        if number not in self.resources:
            raise RefusedError(Answered.ERR_INVALID_RESOURCE_ID, f"there is no resource {number}")
        return self.resources[number]

    def _backing(self, number: int) -> ScatterList:
        if number not in self.entries:
            raise RefusedError(Answered.ERR_UNSPEC, f"resource {number} has no backing")
        if number not in self.backings:
            self.backings[number] = ScatterList(self.entries[number])
        return self.backings[number]

    # --- drawing --------------------------------------------------------------------------------------------

    async def transfer_2d(self, command: c.Transfer2d) -> Outcome:
        resource, backing = self._resource(command.resource), self._backing(command.resource)
        rect = self._part(resource, command)
        if command.offset + resource.span(rect) > backing.size:
            raise RefusedError(Answered.ERR_INVALID_PARAMETER, f"{rect} at {command.offset} of {backing.size} bytes")
        start = command.offset - resource.first(rect)
        for band in bands(resource, rect):
            size = resource.span(band)
            async with self.drawing.turn(COMMAND + LINE * band.height + size // BYTES):
                pass  # a guest that shares no memory may never answer: that is not to be awaited in a turn
            await self._fetch(backing.cut(start + resource.first(band), size), resource, band)
            await sleep(0)  # the job thread is for all mdevs, and not only for those that draw
        return DONE

    async def _fetch(self, source: ScatterList, resource: Resource, band: Rect) -> None:
        """Of what is narrower than the picture, all between its lines is read, too: that takes less than to skip it."""
        first, stride, length = resource.at + resource.first(band), resource.stride, band.width * BYTES
        if length == stride:
            await self.dma.read_into(source, self.graphics[first : first + source.size])
            return
        lines = memoryview(bytearray(source.size))
        await self.dma.read_into(source, lines)
        for at in range(0, source.size, stride):
            self.graphics[first + at : first + at + length] = lines[at : at + length]

    async def flush(self, command: c.Flush) -> Outcome:
        rect = self._part(self._resource(command.resource), command)
        await self.drawing.frame()
        return Outcome(effect=partial(self._tell_damage, command.resource, rect))

    def _tell_damage(self, number: int, rect: Rect) -> None:
        for head, each in self.shown.items():
            if each.resource == number:
                part = overlap(rect, each.rect)
                self.damaged(head, Rect(part.x - each.x, part.y - each.y, part.width, part.height))

    def _part(self, resource: Resource, command: "c.Transfer2d | c.Flush | c.SetScanout") -> Rect:
        rect = Rect(command.x, command.y, command.width, command.height)
        if not resource.holds(rect):
            raise RefusedError(Answered.ERR_INVALID_PARAMETER, f"{rect} of {resource.width}x{resource.height} pixels")
        return rect

    # --- heads ----------------------------------------------------------------------------------------------

    async def display_info(self, _command: c.GetDisplayInfo) -> Outcome:
        width, height = self.profile.resolution
        heads = [Rect(width * head, 0, width, height) for head in range(min(self.monitors, self.heads))]
        return Outcome(Answered.OK_DISPLAY_INFO, c.display_info(heads))

    async def edid(self, command: c.GetEdid) -> Outcome:
        self._check_head(command.head)
        return Outcome(Answered.OK_EDID, c.edid_info(edid_of(*self.profile.resolution, "vgpu")))

    async def set_scanout(self, command: c.SetScanout) -> Outcome:
        self._check_head(command.head)
        if not command.resource:
            return Outcome(effect=partial(self._show, command.head, None))
        resource = self._resource(command.resource)
        rect = self._part(resource, command)
        if resource.span(rect) > MOST_SHOWN:
            raise RefusedError(Answered.ERR_INVALID_PARAMETER, f"{rect}: more than {MOST_SHOWN} bytes on a head")
        shown = Shown(command.resource, rect.x, rect.y, rect.width, rect.height)
        return Outcome(effect=partial(self._show, command.head, shown))

    def _show(self, head: int, shown: Shown | None) -> None:
        self.shown.pop(head, None)
        if shown is not None:
            self.shown[head] = shown
        self.damaged(head)

    def _check_head(self, head: int) -> None:
        if head >= self.heads:
            raise RefusedError(Answered.ERR_INVALID_SCANOUT_ID, f"head {head}: expected 0 to {self.heads - 1}")

    @override
    def picture(self, head: int) -> Picture | None:
        shown = self.shown.get(head)
        resource = self.resources.get(shown.resource) if shown else None
        if shown is None or resource is None or not resource.holds(shown.rect):
            return None
        first = resource.at + resource.first(shown.rect)
        pixels = self.graphics[first : first + resource.span(shown.rect)]
        drm = FORMATS[resource.format]
        return Picture(shown.width, shown.height, resource.stride, drm, pixels, self._pointer(head))

    def _pointer(self, head: int) -> Pointer | None:
        each = self.pointers.get(head)
        if each is None:
            return None
        image = Picture(each.width, each.height, 4 * each.width, POINTER_FORMATS[each.format], each.pixels)
        return Pointer(image, each.x + each.hot_x, each.y + each.hot_y, each.hot_x, each.hot_y)

    # --- the pointer ----------------------------------------------------------------------------------------

    async def update_cursor(self, command: c.UpdateCursor) -> Outcome:
        self._check_head(command.head)
        image = self._image(command) if command.resource else None
        return Outcome(effect=partial(self._point, command.head, image))

    def _image(self, command: c.UpdateCursor) -> Image:
        each = self._resource(command.resource)
        if max(each.width, each.height) > LARGEST_POINTER:
            raise RefusedError(Answered.ERR_INVALID_PARAMETER, f"a pointer of {each.width}x{each.height} pixels")
        pixels = bytes(self.graphics[each.at : each.at + each.stride * each.height])
        place = command.hot_x, command.hot_y, command.x, command.y
        return Image(each.format, each.width, each.height, pixels, *place)

    async def move_cursor(self, command: c.MoveCursor) -> Outcome:
        self._check_head(command.head)
        image = self.pointers.get(command.head)
        if image is None:
            return DONE
        return Outcome(effect=partial(self._point, command.head, replace(image, x=command.x, y=command.y)))

    def _point(self, head: int, image: Image | None) -> None:
        before = self.pointers.pop(head, None)
        if image is not None:
            self.pointers[head] = image
        for each in (before, image):
            if each is not None:
                self.damaged(head, each.rect)


# Any: each takes the command of its own kind
_EXECUTE: Mapping[type, Callable[[Vgpu, Any], Coroutine[object, object, Outcome]]] = {  # Any: as above
    c.GetDisplayInfo: Vgpu.display_info,
    c.GetEdid: Vgpu.edid,
    c.Create2d: Vgpu.create_2d,
    c.Unref: Vgpu.unref,
    c.DetachBacking: Vgpu.detach_backing,
    c.SetScanout: Vgpu.set_scanout,
    c.Flush: Vgpu.flush,
    c.Transfer2d: Vgpu.transfer_2d,
    c.UpdateCursor: Vgpu.update_cursor,
    c.MoveCursor: Vgpu.move_cursor,
}
