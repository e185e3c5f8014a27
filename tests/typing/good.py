# mypy: disable-error-code="explicit-override"

"""Author code of every kind of declaration; no checker has anything to say of it."""

from dataclasses import dataclass
from enum import Enum, IntEnum

from mdev_user.driver import (
    MSIX,
    RC,
    RO,
    RW1C,
    U8,
    U16,
    U32,
    U64,
    WO,
    Alias,
    Attribute,
    AttributeGroup,
    Bar,
    Chain,
    DeviceRegion,
    DmaFault,
    Each,
    Field,
    Flag,
    Function,
    Instances,
    Interrupt,
    KiB,
    Memory,
    Message,
    MiB,
    Parent,
    Part,
    Parts,
    PciExpress,
    PciId,
    Pending,
    Policy,
    Pool,
    Process,
    ProcessEnded,
    Profile,
    Program,
    Ref,
    RegionType,
    Register,
    RegisterFile,
    ResetKind,
    Saved,
    Session,
    Share,
    Table,
    VendorSpecific,
    VirtioConfig,
    VirtioFunction,
    Virtqueue,
    attribute,
    job,
    on_read,
    on_read_each,
    on_write,
    on_write_each,
    pending,
    sleep,
)
from mdev_user.driver import Engine as DrawingEngine
from mdev_user.testing import Guest


class Mode(IntEnum):
    IDLE = 0
    RUN = 1
    STEP = 2
    RESERVED = 3


class Speed(Enum):
    SLOW = 0
    FAST = 1


class Control(Register, size=2):
    mode = Field(0, 2, Mode)
    level = Field(2, 4)
    ready = Flag(15, RO)


class Status(Register):
    done, fault, busy = Flag(0, RW1C), Flag(1, RC), Flag(7, RO)
    speed = Field(8, 1, Speed, RO)


class Lcr(Register, size=1):
    dlab = Flag(7)


class Queue(RegisterFile):
    base = U64(0)
    tail = U32(8)
    control = Control.at(12)


class Regs(Bar, index=0, size=16 * KiB):
    control = Control.at(0, reset=1)
    status = Status.at(4)
    number, key = U32(8), U16(12, WO)
    queue = Each(Queue, at=0x100, count=4, stride=0x20)


class Monitor(DeviceRegion, index=9, size=64, kind=RegionType(0x8000_1DE5, 1)):
    width = U32(0)
    edges = Each(Queue, at=0x20, count=1)


class Port(Bar, index=1, size=8, io=True):
    rbr, thr = U8(0, RO), U8(0, WO)
    lcr = Lcr.at(3)
    divisor = U16(0, bank=Lcr.dlab)


@dataclass(frozen=True)
class Slice(Profile):
    engines: int
    memory: int


@dataclass(frozen=True)
class Descriptor:
    address: int
    length: int


def size_of(profile: Slice) -> VendorSpecific:
    return VendorSpecific(profile.memory.to_bytes(8, "little"))


class Engine(Function[Slice]):
    identity = PciId(vendor=0x1DE5, device=1, class_code=0x120000)
    vectors = MSIX(8)
    capabilities = (PciExpress(), size_of)

    regs, port, monitor = Regs(), Port(), Monitor()
    vram = Memory(index=2, size=lambda profile: profile.memory)
    shown = Alias(vram, index=10, kind=RegionType(1, 2))
    frames = Saved(0)
    current = Saved[Descriptor | None](None)
    waiting = Table[int, Descriptor](limit=16)
    cache = Session(dict[int, bytes])
    clock = Attribute(100, unit="MHz", range=(10, 400), group="engine")
    done = Interrupt(Regs.status.done)
    completion = Message()

    @pending
    def is_waiting(self) -> bool:
        return bool(self.waiting)

    queued = Interrupt(is_waiting)

    @attribute(group="engine")
    def load(self) -> int:
        return self.frames // self.clock

    @on_write(Regs.number)
    def start(self, value: int) -> None:
        if not self.run(value, name="run"):
            self.regs.status.fault = True

    @on_write(Regs.control.mode)
    def change(self, mode: Mode) -> None:
        self.regs.control.level = mode.value

    @on_write(Regs.control)
    def configure(self, written: Control) -> None:
        self.frames = int(written) + written.level

    @on_write_each(Regs.queue.tail)
    def ring(self, index: int, tail: int) -> None:
        queue = self.regs.queue[index]
        self.waiting[index] = Descriptor(queue.base, tail)
        queue.control.mode = Mode.RUN

    @on_write(Monitor.width)
    def resize(self, width: int) -> None:
        self.monitor.width = width & ~1

    @on_read(Regs.status.speed)
    def speed(self) -> Speed:
        return Speed.FAST if self.clock > 200 else Speed.SLOW

    @on_read_each(Regs.queue.base)
    def base(self, index: int) -> int:
        return index

    @job(busy=Regs.status.busy)
    async def run(self, value: int, name: str) -> None:
        try:
            data = await self.dma.read(value, 16)
            await self.dma.write(value, data[::-1])
            await sleep(0.1)
        except DmaFault:
            self.regs.status.fault = True
            return
        self.vram[0:16] = data
        self.cache[value] = data
        self.completion.send(3)

    def opened(self) -> None:
        self.frames = len(self.cache)

    def reset(self, kind: ResetKind) -> None:
        if kind is ResetKind.POWER_ON:
            self.frames = 0

    def closed(self) -> None:
        self.cache.clear()


class Card(Parent[Slice]):
    function = Engine
    engines, memory = Pool(8, homogeneous=True), Pool(256 * MiB)
    types = {"1": Slice(engines=1, memory=MiB), "4": Slice(engines=4, memory=64 * MiB)}


class Few(Parent[Slice]):
    function = Engine
    count = Instances(2)
    types = {"1": Slice(engines=1, memory=MiB)}


class Settings(VirtioConfig):
    volume = U8(0)


class Speaker(VirtioFunction[Slice]):
    virtio_id = 25
    offers = 1 << 3
    settings, played = Settings(), Saved(0)
    sound, events = Virtqueue(size=64), Virtqueue(size=4)

    @sound.served
    async def play(self, chain: Chain) -> None:
        data = await chain.read(chain.readable)
        await chain.write(data[: chain.writable])
        self.played += len(data) + chain.written

    @events.served
    async def keep(self, chain: Chain) -> None: ...

    @on_write(Settings.volume)
    def turn(self, volume: int) -> None:
        self.settings.volume = min(volume, 11) if self.negotiated & self.offers else 0
        self.config_changed()


class Gpu:
    """What the mdevs of a parent share."""

    def __init__(self, drawing: DrawingEngine) -> None:
        self.drawing, self.node = drawing, "card0"


class Monitors(Part[Slice, Gpu]):
    heads = Saved(0)

    def opened(self) -> None:
        self.heads = len(self.backend.node)


class Drawing(Function[Slice, Gpu]):
    identity = PciId(vendor=0x1DE5, device=2, class_code=0x038000)
    regs, monitors = Regs(), Parts(Monitors, count=1)
    weight = Attribute(4, range=(1, 16), group="scheduling")
    limit = Attribute(0, range=(0, 240), group="scheduling")
    schedule = AttributeGroup(weight, limit, group="scheduling")
    drawing = Share(weight, frame_rate=limit, engine=lambda gpu: gpu.drawing)

    @job()
    async def draw(self, pixels: int) -> None:
        await self.drawing.frame()
        async with self.drawing.turn(pixels):
            self.regs.number = len(self.backend.node)
        async with self.drawing.turn() as turn:
            turn.cost = 0.5

    @attribute(group="scheduling")
    def drawn(self) -> int:
        return int(self.drawing.given)


class Graphics(Parent[Slice, Gpu]):
    function = Drawing
    count = Instances(2)
    types = {"1": Slice(engines=1, memory=MiB)}
    policy = Attribute(Policy.BEST_EFFORT)

    def open(self) -> Gpu:
        return Gpu(DrawingEngine(lambda: self.policy, whole=16))

    def close(self, backend: Gpu) -> None:
        backend.node = ""


class Rotating(VirtioFunction[Slice, DrawingEngine]):
    virtio_id = 25
    requests, share = Virtqueue(size=64), Share(2)

    @requests.served
    async def serve(self, chain: Chain) -> None:
        async with self.share.turn(chain.readable + 1):
            await chain.write(bytes(chain.writable))
        print(self.backend.policy.name)


class Renderer(Program):
    def __init__(self, textures: int) -> None:
        self._textures = textures

    def submit(self, context: int, data: bytes, *, last: bool = False) -> int:
        return len(data) + context + last

    def fence(self, number: int) -> Pending[str]:
        pending = Pending[str]()
        self.after(0.1, lambda: pending.done(str(number)))
        return pending


class Rendering(Function[Slice]):
    identity = PciId(vendor=0x1DE5, device=1, class_code=0x120000)
    renderer = Process(Renderer, arguments=lambda profile: (profile.memory,), buffer=lambda profile: profile.memory)
    frames = Saved(0)

    @renderer.ended
    def renderer_ended(self, error: ProcessEnded) -> None:
        self.frames = len(str(error))

    @job()
    async def draw(self, data: bytes) -> None:
        self.frames = await self.renderer.call(Renderer.submit, 1, data, last=True)
        name: str = await self.renderer.call(Renderer.fence, 3)
        timed = await self.renderer.timed(Renderer.submit, 1, name.encode())
        self.frames = timed.value + int(timed.seconds) + len(self.renderer.buffer) + self.renderer.alive


class Rotators(Parent[Slice, DrawingEngine]):
    function = Rotating
    count = Instances(2)
    types = {"1": Slice(engines=1, memory=MiB)}

    def open(self) -> DrawingEngine:
        return DrawingEngine()


def names(engine: Engine) -> tuple[int, Mode, Speed, Descriptor | None, int]:
    first = next(iter(engine.regs.queue))
    return first.tail, engine.regs.control.mode, engine.regs.status.speed, engine.current, engine.profile.memory


def references() -> tuple[Ref[int], Ref[bool], Ref[Mode], Ref[bool], Ref[bool]]:
    return (
        Regs.number,
        Regs.status.done,
        Regs.queue.control.mode,
        Regs.number.any,
        Regs.control.mode.equals(Mode.RUN),
    )


def plays(guest: Guest) -> tuple[int, bool, Mode, int, bool]:
    guest.write(Regs.number, 1)
    guest.write(Regs.status.done, True)
    guest.write(Regs.control.mode, Mode.RUN)
    guest.write(Regs.control, 0x11)
    guest.write(Regs.queue.tail, 5, 3)
    control = guest.read(Regs.control)
    guest.write(Regs.control, control)
    tail = guest.read(Regs.queue.tail, element=3)
    return guest.read(Regs.number), guest.read(Regs.status.done), control.mode, tail, guest.pin
