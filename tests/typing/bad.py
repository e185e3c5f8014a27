# mypy: ignore-errors

"""Mistakes of authors: each line that is one says who must report it; the import does what it declares."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from good import Card, Descriptor, Drawing, Engine, Gpu, Mode, Monitor, Regs, Renderer, Rendering, Slice

from mdev_user.driver import (
    U32,
    Alias,
    AttributeGroup,
    Bar,
    Chain,
    DeviceRegion,
    Function,
    Instances,
    Interrupt,
    Parent,
    PciId,
    Pool,
    Profile,
    Ref,
    Register,
    Saved,
    Share,
    VirtioFunction,
    Virtqueue,
    job,
    on_read,
    on_write,
    on_write_each,
    sleep,
)
from mdev_user.testing import Guest

T = TypeVar("T")


def write(ref: Ref[T], value: T) -> None: ...


@on_write(Regs.nubmer)  # mistake (mypy, pyright, import): misspelt register of a hook
def misspelt_register(self: Engine, value: int) -> None: ...


@on_write(Regs.status.dnoe)  # mistake (mypy, pyright, import): misspelt field
def misspelt_field(self: Engine, value: bool) -> None: ...


@on_write(Regs.number)  # mistake (mypy, pyright): the register is an int
def wrong_value_type(self: Engine, value: bytes) -> None: ...


@on_write(Regs.control.mode)  # mistake (mypy, pyright): the field is a Mode
def wrong_enumeration(self: Engine, value: str) -> None: ...


@on_write(Regs.status.done)  # mistake (mypy, pyright, import): a register is served by a def
async def async_hook(self: Engine, value: bool) -> None: ...


@on_read(Regs.number)  # mistake (mypy, pyright): it must answer an int
def wrong_answer(self: Engine) -> str:
    return self.uuid.hex


@on_write_each(Regs.queue.tail)  # mistake (mypy, pyright, import): which queue?
def index_forgotten(self: Engine, value: int) -> None: ...


def statements(dev: Engine) -> None:
    dev.regs.status.done = "yes"  # mistake (mypy, pyright): a flag is a bool
    dev.regs.number = b""  # mistake (mypy, pyright): a register is an int
    dev.regs.control.mode = 1  # mistake (mypy, pyright): the field is a Mode
    dev.regs.control = 5  # mistake (mypy, pyright): a register with fields is set field by field
    dev.regs.nubmer = 5  # mistake (mypy, pyright): misspelt register
    dev.regs.status.dnoe = True  # mistake (mypy, pyright): misspelt field
    dev.regs.queue[0].tial = 5  # mistake (mypy, pyright): misspelt register of an element
    dev.regs.queue.tail = 5  # mistake (mypy, pyright): of which element?
    dev.run("x", "run")  # mistake (mypy, pyright): wrong argument of a job
    dev.run(1)  # mistake (mypy, pyright): missing argument of a job
    print(dev.profile.engine)  # mistake (mypy, pyright): misspelt field of the profile
    dev.frames = "x"  # mistake (mypy, pyright): the saved value is an int
    dev.scratch = 1  # mistake (mypy, pyright): undeclared state
    dev.current = (1, 2)  # mistake (mypy, pyright): the saved value is a Descriptor or None
    dev.waiting["x"] = Descriptor(0, 0)  # mistake (mypy, pyright): the table's keys are ints
    dev.clock = "fast"  # mistake (mypy, pyright): the attribute is an int
    dev.completion.fire(3)  # mistake (mypy, pyright): it is called send
    dev.monitor.widht = 5  # mistake (mypy, pyright): misspelt register of a region
    dev.vram = bytes(16)  # mistake (mypy, pyright): memory is written, not replaced


async def calls(dev: Rendering) -> None:
    await dev.renderer.call(Renderer.submit, "1", b"")  # mistake (mypy, pyright): wrong argument of a call
    await dev.renderer.call(Renderer.submit, 1)  # mistake (mypy, pyright): missing argument of a call
    await dev.renderer.call(Drawing.reset, 1)  # mistake (mypy, pyright): no method of the program
    dev.frames = await dev.renderer.call(Renderer.fence, 1)  # mistake (mypy, pyright): it answers text


async def awaits(dev: Engine) -> None:
    sleep(1)  # mistake (mypy, pyright): not awaited
    dev.regs.number = dev.dma.read(0, 4)  # mistake (mypy, pyright): not awaited
    await dev.dma.write(0, 5)  # mistake (mypy, pyright): bytes are written


Interrupt(Regs.number)  # mistake (mypy, pyright, import): an interrupt follows a bit
Interrupt(Regs.status.done, enable=Regs.control.mode)  # mistake (mypy, pyright, import): and so does its enable
Slice(engines=1)  # mistake (mypy, pyright, import): the type forgets a resource
write(Regs.number, "x")  # mistake (mypy, pyright): a reference has one type
write(Regs.status.done, Mode.RUN)  # mistake (mypy, pyright): a reference has one type
Regs.control.mode.equals(2)  # mistake (mypy, pyright, import): the field is a Mode
Saved[int]("x")  # mistake (mypy, pyright): the saved value is an int


class Anonymous(Function[Slice]):
    identity = PciId(vendr=1, device=2, class_code=0)  # mistake (mypy, pyright, import): misspelt id


class Misspelt(Bar, indx=0, size=16): ...  # mistake (mypy, pyright, import): misspelt option of a bar


class Region(DeviceRegion, index=9, kind=1): ...  # mistake (mypy, pyright, import): a kind is a RegionType


class Ports(DeviceRegion, index=9, io=True): ...  # mistake (mypy, pyright, import): a region has no ports


Alias(Regs, index=9)  # mistake (mypy, pyright, import): an alias is of a memory
Instances("4")  # mistake (mypy, pyright, import): a number of instances


class Board: ...


AttributeGroup("weight")  # mistake (mypy, pyright, import): a group is of attributes, not of names
Share("4")  # mistake (mypy, pyright, import): a weight is a number, or an attribute of numbers


def backends(dev: Drawing, plain: Engine) -> None:
    print(dev.backend.nodes)  # mistake (mypy, pyright): misspelt attribute of the backend
    print(plain.backend.node)  # mistake (mypy, pyright): a function without brackets for it has no backend
    dev.drawing.turn("5")  # mistake (mypy, pyright): a cost is a number
    dev.drawing = 5  # mistake (mypy, pyright): a share is used, not set


async def turns(dev: Drawing) -> None:
    dev.drawing.frame()  # mistake (mypy, pyright): not awaited
    with dev.drawing.turn(5):  # mistake (mypy, pyright): async with
        pass


class NoBackend(Parent[Slice]):
    function = Drawing  # mistake (mypy, pyright, import): its backend is a Gpu, and this parent has none
    count = Instances(1)
    types = {"1": Slice(engines=1, memory=1)}


class OtherBackend(Parent[Slice, Gpu]):
    function = Drawing
    count = Instances(1)
    types = {"1": Slice(engines=1, memory=1)}

    def open(self) -> Board:  # mistake (mypy, pyright): the backend is a Gpu
        return Board()


@on_write(Monitor.widht)  # mistake (mypy, pyright, import): misspelt register of a region
def misspelt_register_of_a_region(self: Engine, value: int) -> None: ...


class Capable(Function[Slice]):
    identity = PciId(vendor=1, device=2, class_code=0)
    capabilities = (b"mine",)  # mistake (mypy, pyright, import): a capability is a value of its own class


class Wide(Register, width=8): ...  # mistake (mypy, pyright, import): the option is size, in bytes


class Placed(Bar, index=0, size=16):
    number = U32(0, "ro")  # mistake (mypy, pyright, import): an access kind is RO


class Vectors(Function[Slice]):
    identity = PciId(vendor=1, device=2, class_code=0)
    vectors = 4  # mistake (mypy, pyright, import): MSI(4) or MSIX(4)


class Busy(Function[Slice]):
    identity = PciId(vendor=1, device=2, class_code=0)

    @job(busy=Regs.number)  # mistake (mypy, pyright, import): busy is a bit
    async def work(self) -> None: ...


class Sync(Function[Slice]):
    identity = PciId(vendor=1, device=2, class_code=0)

    @job()  # mistake (mypy, pyright, import): a job is async
    def slow(self) -> None: ...


class Plain(VirtioFunction[Slice]):
    virtio_id = 4
    requests = Virtqueue(size=64)

    @requests.served  # mistake (mypy, pyright, import): a queue is served by an async def
    def fill(self, chain: Chain) -> None: ...


class Streamless(VirtioFunction[Slice]):
    virtio_id = 4
    requests = Virtqueue(size=64)

    @requests.served  # mistake (mypy, pyright): it gets a chain
    async def fill(self, chain: bytes) -> None: ...


class Kindless(VirtioFunction[Slice]):
    virtio_id = "rng"  # mistake (mypy, pyright, import): kinds of devices are numbers
    requests = Virtqueue(size=64)

    @requests.served
    async def fill(self, chain: Chain) -> None: ...


class Wordy(VirtioFunction[Slice]):
    virtio_id = 4
    requests = Virtqueue(size=64)

    @requests.served
    async def fill(self, chain: Chain) -> None:
        await chain.write("text")  # mistake (mypy, pyright): a chain takes bytes


class Unserved(VirtioFunction[Slice]):  # mistake (import): nothing serves the queue
    virtio_id = 4
    requests = Virtqueue(size=64)


class Sized(VirtioFunction[Slice]):
    virtio_id = 4
    requests = Virtqueue(size=48)  # mistake (import): not a power of two


@dataclass(frozen=True)
class Other(Profile):
    lanes: int


class Mixed(Parent[Slice]):
    function = Engine
    engines, memory = Pool(8), Pool(8)
    types = {"1": Other(lanes=1)}  # mistake (mypy, pyright, import): another parent's profile


class Foreign(Parent[Other]):
    function = Engine  # mistake (mypy, pyright, import): the function has another profile
    lanes = Pool(8)
    types = {"1": Other(lanes=1)}


def uses(card: Card, make: Callable[[], Card]) -> None: ...


def plays(guest: Guest) -> None:
    guest.write(Regs.number, "one")  # mistake (mypy, pyright): a guest writes another type
    guest.write(Regs.control.mode, 1)  # mistake (mypy, pyright): a guest writes an int to an enumeration
    guest.read(Regs.nubmer)  # mistake (mypy, pyright): a guest reads a misspelt register
    shown: str = guest.read(Regs.status.done)  # mistake (mypy, pyright): a guest reads another type
    guest.write(Regs.control, "all")  # mistake (mypy, pyright): a guest writes text to a register
    print(shown)
