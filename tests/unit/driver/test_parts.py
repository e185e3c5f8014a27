"""Parts: each has its own bars, state, methods, jobs and interrupts; how many there are is the type's."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from typing_extensions import override

from mdev_user.driver import (
    MSIX,
    RO,
    RW1C,
    U32,
    Attribute,
    Bar,
    Flag,
    Function,
    Interrupt,
    Memory,
    Parent,
    Part,
    Parts,
    PciId,
    Pool,
    Profile,
    Register,
    Saved,
    job,
    on_write,
    pending,
    sleep,
)
from mdev_user.driver.inspection.register_map import register_map
from mdev_user.driver.levels import Levels
from mdev_user.errors import DriverError
from mdev_user.units import PAGE
from mdev_user.vfio.requests import Irq
from unit.driver.bench import Bench

ID = PciId(vendor=0x1DE5, device=2, class_code=0x120000)


class Status(Register):
    done, busy = Flag(0, RW1C), Flag(1, RO)


class Control(Bar, index=0, size=256):
    total, limit = U32(0, RO), U32(4)


class Engine(Bar, index=0, size=256):
    status, command = Status.at(0), U32(4)


@dataclass(frozen=True)
class Slice(Profile):
    channels: int


class Channel(Part[Slice]):
    """A bar with registers and one with memory."""

    regs, buffer = Engine(), Memory(index=1, size=PAGE)
    commands, seen = Saved(0), Saved("")
    done = Interrupt(Engine.status.done)

    @on_write(Engine.command)
    def obey(self, value: int) -> None:
        self.commands += 1
        self.work(value)

    @job(busy=Engine.status.busy)
    async def work(self, value: int) -> None:
        await sleep(1)
        self.buffer[0] = value
        self.regs.status.done = True

    @override
    def opened(self) -> None:
        self.seen = f"opened {self.index} of {self.profile.channels}"


class Dma(Function[Slice]):
    """Channels, and a bar of the function's own in front of them."""

    identity = ID
    regs = Control()
    channels = Parts(Channel, count=lambda profile: profile.channels, bar=1)

    @pending
    def full(self) -> bool:
        return 0 < self.regs.limit <= sum(each.commands for each in self.channels)

    exhausted = Interrupt(full)


class Card(Parent[Slice]):
    function = Dma
    channels = Pool(4)
    types = {"1": Slice(channels=1), "2": Slice(channels=2)}


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(Dma, Card.types["2"])
    yield made
    made.close()


def dma(bench: Bench) -> Dma:
    made = bench.device.function
    assert isinstance(made, Dma)
    return made


def test_each_part_has_its_own_bars_and_state(bench: Bench) -> None:
    bench.write(4, 7, region=1)
    bench.write(4, 8, region=3)
    bench.write(4, 9, region=3)
    assert [each.commands for each in dma(bench).channels] == [1, 2]
    assert (bench.read(4, region=1), bench.read(4, region=3)) == (7, 9)
    assert [each.regs.command for each in dma(bench).channels] == [7, 9]


class Gates(Bar, index=0, size=256):
    open = U32(0)


class Gate(Part[Slice]):
    regs = Gates()


class Fence(Function[Slice]):
    """Its level is computed of what nothing but the guest writes, in its parts."""

    identity = ID
    gates = Parts(Gate, count=2)

    @pending
    def any_open(self) -> bool:
        return any(each.regs.open for each in self.gates)

    escape = Interrupt(any_open)


def test_a_write_to_a_plain_register_of_a_part_moves_a_level_of_the_function() -> None:
    bench = Bench(Fence, Slice(channels=2))
    (wire,) = bench.arm(Irq.MSI)
    bench.write(0, 1, region=1)
    assert wire.take() == 1
    bench.write(0, 0, region=1)
    bench.write(0, 1, region=1)
    assert wire.take() == 1


def test_parts_know_their_number_and_their_type(bench: Bench) -> None:
    assert [each.seen for each in dma(bench).channels] == ["opened 0 of 2", "opened 1 of 2"]
    assert list(bench.device.units) == ["", "channels[0]", "channels[1]"]


def test_each_part_has_jobs_and_memory_of_its_own(bench: Bench) -> None:
    bench.write(4, 7, region=1)
    bench.write(4, 8, region=3)
    assert [each.unit for each in bench.device.jobs] == ["channels[0]", "channels[1]"]
    assert (bench.read(0, region=1), bench.read(0, region=3)) == (2, 2)
    bench.jobs.step()
    bench.jobs.step()
    bench.jobs.step(b"")
    assert (bench.read(0, region=1), bench.read(0, region=3)) == (1, 2)
    assert (bench.read(0, 1, region=2), bench.read(0, 1, region=4)) == (7, 0)


def test_vectors_are_the_functions_and_then_those_of_each_part(bench: Bench) -> None:
    wires = bench.arm(Irq.MSI, 3)
    dma(bench).channels[1].regs.status.done = True
    bench.write(4, 0, region=3)
    assert [each.take() for each in wires] == [0, 0, 1]
    dma(bench).channels[0].regs.status.done = True
    bench.write(4, 0, region=1)
    assert [each.take() for each in wires] == [0, 1, 0]


def test_an_interrupt_of_the_function_follows_what_a_part_did(bench: Bench) -> None:
    wires = bench.arm(Irq.MSI, 3)
    bench.write(4, 2)
    bench.write(4, 0, region=1)
    assert wires[0].take() == 0
    bench.write(4, 0, region=3)
    assert wires[0].take() == 1


def test_without_settling_both_the_function_would_miss_it(monkeypatch: pytest.MonkeyPatch) -> None:
    settle = Levels.settle
    monkeypatch.setattr(Levels, "settle", lambda levels: settle(levels) if levels._vector else None)
    bench = Bench(Dma, Card.types["2"])
    with pytest.raises(AssertionError):
        test_an_interrupt_of_the_function_follows_what_a_part_did(bench)
    bench.close()


def test_a_reset_puts_all_parts_back(bench: Bench) -> None:
    bench.write(4, 7, region=1)
    bench.reset()
    assert (bench.read(0, region=1), dma(bench).channels[0].commands, bench.device.jobs) == (0, 0, [])


def test_how_many_there_are_is_the_types() -> None:
    one = Bench(Dma, Card.types["1"])
    assert [index for index in range(6) if one.vfio.region_info(index).size] == [0, 1, 2]
    one.close()


def test_a_register_map_tells_the_parts_of_all_types() -> None:
    found = register_map(Card)
    assert [(each.index, each.name, each.same_as) for each in found.bars] == [
        (0, "regs", None),
        (1, "channels[0].regs", None),
        (2, "channels[0].buffer", None),
        (3, "channels[1].regs", "channels[0].regs"),
        (4, "channels[1].buffer", "channels[0].buffer"),
    ]
    assert found.bars[3].sizes == {"2": 256}
    assert [(each.vector, each.name, each.pending) for each in found.interrupts] == [
        (0, "exhausted", "full"),
        (1, "channels[0].done", "channels[0].regs.status.done"),
        (2, "channels[1].done", "channels[1].regs.status.done"),
    ]


# --- mistakes ----------------------------------------------------------------------------------------------------


def part_of_a_part() -> None:
    class Wrong(Part[Slice]):
        inner = Parts(Channel, count=1)


def attribute_of_a_part() -> None:
    class Wrong(Part[Slice]):
        clock = Attribute(1)

    Parts(Wrong, count=1)


def no_part() -> None:
    Parts(Dma, count=1)  # type: ignore[type-var]  # the mistake


def undeclared_state() -> None:
    class Wrong(Part[Slice]):
        def work(self) -> None:
            self.scratch = 1


def taken_name() -> None:
    class Wrong(Part[Slice]):
        index = Saved(0)


def bars_beyond_the_last() -> None:
    Bench(Dma, Slice(channels=3))


def bar_of_another() -> None:
    class Wrong(Function[Slice]):
        identity = ID
        regs = Control()
        channels = Parts(Channel, count=1)

    Bench(Wrong, Slice(channels=1))


def negative_count() -> None:
    class Wrong(Function[Slice]):
        identity = ID
        channels = Parts(Channel, count=-1)

    Bench(Wrong, Slice(channels=1))


def misspelt_count() -> None:
    class Wrong(Function[Slice]):
        identity = ID
        channels = Parts(Channel, count=lambda profile: profile.chanels)

    Bench(Wrong, Slice(channels=1))


def too_few_vectors() -> None:
    class Wrong(Function[Slice]):
        identity = ID
        vectors = MSIX(1)
        channels = Parts(Channel, count=2)

    Bench(Wrong, Slice(channels=1))


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (part_of_a_part, "Wrong.inner: a part has no parts; give them to the function"),
        (attribute_of_a_part, "Wrong.clock: attributes are the function's"),
        (no_part, "Parts: expected a Part class, given"),
        (undeclared_state, "in Wrong.work: Wrong has no scratch: declare it"),
        (taken_name, "Wrong.index: the name is the API's own; choose another"),
        (bars_beyond_the_last, "Dma.channels[2]: bar 6: a function has the bars 0 to 5"),
        (bar_of_another, "Wrong.channels[0]: bar 0 is Wrong's already; place one elsewhere (bar=...)"),
        (negative_count, "channels: count: expected a number from 0x0 to 0x40, given -0x1"),
        (misspelt_count, "channels: count: Slice has no field chanels; did you mean channels?"),
        (too_few_vectors, "Wrong: vectors: 2 interrupts need MSIX(2), given 1"),
    ],
)
def test_mistake_is_told(mistake: Callable[[], None], message: str) -> None:
    with pytest.raises(DriverError) as raised:
        mistake()
    assert message in str(raised.value)
