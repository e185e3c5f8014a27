"""Function classes: no state but what is declared, and mistakes told when the class is created."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from mdev_user.driver import (
    MSI,
    MSIX,
    U8,
    U32,
    Bar,
    DriverError,
    Each,
    Flag,
    Function,
    Interrupt,
    Memory,
    Part,
    Parts,
    PciId,
    Profile,
    Register,
    RegisterFile,
    ResetKind,
    Saved,
    attribute,
    declarations,
    job,
    on_read,
    on_read_each,
    on_write,
    on_write_each,
    pending,
)
from mdev_user.driver.undeclared import stores_to_self
from unit.driver.bench import Bench

ID = PciId(vendor=0x1DE5, device=5, class_code=0x120000)


class Status(Register):
    done, busy = Flag(0), Flag(1)


class Queue(RegisterFile):
    tail = U32(0)
    status = Status.at(4)


class Regs(Bar, index=0, size=4096):
    status = Status.at(0)
    number = U32(4)
    queue = Each(Queue, at=64, count=2)


class Second(Regs, index=1):
    extra = U8(4095)


class Sample(Function[Profile]):
    identity = ID
    regs, second = Regs(), Second()
    total = Saved(0)
    THRESHOLD = 5
    NAMES = ("one", "two")

    @on_write(Second.number)
    def add(self, value: int) -> None:
        self.total += value
        self.regs.number = self.total


def test_device_has_no_attribute_that_was_not_declared() -> None:
    made: Any = Bench(Sample).device.function  # Any: undeclared names are set on it
    assert set(vars(made)) <= set(Sample._plan.members)
    with pytest.raises(AttributeError, match=r"Sample has no totl: declare it \(totl = Saved\(...\)\), or it is lost"):
        made.totl = 1
    with pytest.raises(AttributeError, match=r"did you mean total\?"):
        made.totl = 1
    with pytest.raises(AttributeError, match="no attribute 'totl'"):
        print(made.totl)
    with pytest.raises(AttributeError, match=r"Sample.regs is declared in the class: it cannot be set"):
        made.regs = 1
    with pytest.raises(AttributeError):
        made.THRESHOLD = 1


def test_error_in_a_computed_member_is_the_one_that_is_seen() -> None:
    class Typo(Sample):
        @pending
        def is_ready(self) -> bool:
            return self.total.bit_size > 0  # type: ignore[attr-defined, no-any-return]  # the mistake

    made: Any = Bench(Typo).device.function  # Any: of a class inside the test
    with pytest.raises(AttributeError, match="'int' object has no attribute 'bit_size'"):
        print(made.is_ready)


def test_bars_of_one_kind_lie_beside_each_other() -> None:
    bench = Bench(Sample)
    bench.write(4, 7, region=1)
    bench.write(4095, b"\x09", region=1)
    assert (bench.read(4), bench.read(4, region=1), bench.read(4095, 1), bench.read(4095, 1, region=1)) == (7, 7, 0, 9)


def test_declarations_are_walked_in_their_order_with_those_of_bases() -> None:
    class Derived(Sample):
        more = Saved(1)
        total = Saved(2)

    names = [name for name in declarations(Derived) if name in {"regs", "second", "total", "more", "add"}]
    assert names == ["regs", "second", "add", "more", "total"]
    made: Any = Bench(Derived).device.function  # Any: of a class inside the test
    assert (made.total, made.more) == (2, 1)


def test_stores_to_self_are_found_wherever_they_are() -> None:
    def method(self: Any, values: list[int]) -> None:  # Any: names are what this is about
        self.plain = 1
        self.first, other.second = 1, 2
        for self.looped in values:
            pass
        with other as self.file:
            pass

        def inner() -> None:
            self.nested = 1

        inner()
        self.regs.number = 5
        values.sort(key=lambda value: value)

    other: Any = None  # Any: as above
    assert set(stores_to_self(method)) == {"plain", "first", "looped", "file", "nested"}


def test_methods_may_take_more_than_they_are_given() -> None:
    class Lenient(Sample):
        @on_write(Regs.number)
        def work(self, value: int, scale: int = 2) -> None:
            self.total = value * scale

        @on_read(Regs.status.done)
        def answer(self, *_more: object) -> bool:
            return True

    bench = Bench(Lenient)
    bench.write(4, 7)
    assert (bench.device.function._state["total"], bench.read(0)) == (14, 1)


# --- mistakes ---------------------------------------------------------------------------------------------------


def identity_missing() -> None:
    class Wrong(Function[Profile]):
        regs = Regs()


def undeclared_in_a_method() -> None:
    class Wrong(Sample):
        def work(self) -> None:
            self.totals = 1


def undeclared_in_a_job() -> None:
    class Wrong(Sample):
        @job()
        async def work(self) -> None:
            self.scratch = 1


def undeclared_in_a_pending() -> None:
    class Wrong(Sample):
        @pending
        def is_ready(self) -> bool:
            self.scratch = 1
            return True


def shared_list() -> None:
    class Wrong(Sample):
        waiting: list[int] = []


def constant_set_in_a_method() -> None:
    class Wrong(Sample):
        brightness = 100

        def work(self, value: int) -> None:
            self.brightness = value


def test_what_is_set_on_something_else_than_a_device_may_have_the_name_of_a_constant() -> None:
    class Fine(Sample):
        made = 0
        level = Saved(1)

        @classmethod
        def count(cls) -> None:
            cls.made += 1

        def work(self, value: int) -> None:
            self.level = value
            self.total = self.regs.number = value + self.made

    Fine.count()
    assert Fine.made == 1


def own_init() -> None:
    class Wrong(Sample):
        def __init__(self) -> None: ...


def own_slots() -> None:
    class Wrong(Sample):
        __slots__ = ("scratch",)


def taken_name() -> None:
    class Wrong(Sample):
        profile = Saved(0)  # type: ignore[assignment]  # the mistake


def saved_picture() -> None:
    class Wrong(Sample):
        picture = Saved(0)  # type: ignore[assignment]  # the mistake


def bar_of_heads() -> None:
    class Wrong(Sample):
        heads = Regs()  # type: ignore[assignment]  # the mistake


def picture_of_a_write() -> None:
    class Wrong(Sample):
        @on_write(Regs.number)
        def picture(self, value: int) -> None: ...  # type: ignore[explicit-override]  # the mistake


def reset_as_a_job() -> None:
    class Wrong(Sample):
        @job(limit=1)
        async def reset(self) -> None: ...  # type: ignore[override, explicit-override]  # the mistake


def async_reset() -> None:
    class Wrong(Sample):
        async def reset(self, kind: ResetKind) -> None: ...  # type: ignore[override, explicit-override]  # the mistake


def damage_by_number() -> None:
    class Wrong(Sample):
        tells_damage = 1  # type: ignore[assignment]  # the mistake


def own_damaged() -> None:
    class Wrong(Sample):
        damaged = Saved(0)  # type: ignore[assignment]  # the mistake


def wrong_vectors() -> None:
    class Wrong(Sample):
        vectors = 4  # type: ignore[assignment]  # the mistake


def bar_twice() -> None:
    class Wrong(Function[Profile]):
        identity = ID
        one, other = Regs(), Regs()


def register_of_another_bar() -> None:
    class Wrong(Function[Profile]):
        identity = ID
        second = Second()

        @on_write(Regs.number)
        def work(self, value: int) -> None: ...


def value_forgotten() -> None:
    class Wrong(Sample):
        @on_write(Regs.number)  # type: ignore[arg-type]  # the mistake
        def work(self) -> None: ...


def value_too_many() -> None:
    class Wrong(Sample):
        @on_write(Regs.number)  # type: ignore[arg-type]  # the mistake
        def work(self, index: int, value: int) -> None: ...


def value_by_name_only() -> None:
    class Wrong(Sample):
        @on_write(Regs.number)  # type: ignore[arg-type]  # the mistake
        def work(self, *, value: int) -> None: ...


def index_forgotten() -> None:
    class Wrong(Sample):
        @on_write_each(Regs.queue.tail)  # type: ignore[arg-type]  # the mistake
        def work(self, value: int) -> None: ...


def read_with_a_value() -> None:
    class Wrong(Sample):
        @on_read(Regs.number)  # type: ignore[arg-type]  # the mistake
        def work(self, value: int) -> int:
            return value


def read_without_the_index() -> None:
    class Wrong(Sample):
        @on_read_each(Regs.queue.tail)  # type: ignore[arg-type]  # the mistake
        def work(self) -> int:
            return 0


def pending_with_a_value() -> None:
    class Wrong(Sample):
        @pending  # type: ignore[arg-type]  # the mistake
        def work(self, value: int) -> bool:
            return bool(value)


def attribute_without_self() -> None:
    class Wrong(Sample):
        @attribute()  # type: ignore[arg-type]  # the mistake
        def work() -> int:
            return 0


def job_without_self() -> None:
    class Wrong(Sample):
        @job()  # type: ignore[arg-type]  # the mistake
        async def work() -> None: ...


@dataclass(frozen=True)
class Other(Profile):
    memories: int
    lanes: int = 1


def memory_of_another_profile() -> None:
    class Graphic(Sample):
        vram = Memory(index=2, size=lambda profile: profile.memory)

    Bench(Graphic, Other(memories=4096))


def parts_of_another_profile() -> None:
    class Port(Part[Profile]):
        regs = Regs()

    class Serial(Function[Profile]):
        identity = ID
        ports = Parts(Port, count=lambda profile: profile.ports)

    Bench(Serial, Other(memories=4096))


def mistake_inside_a_size() -> None:
    class Graphic(Sample):
        vram = Memory(index=2, size=lambda profile: profile.memories.bytes)

    Bench(Graphic, Other(memories=4096))


def register_not_placed() -> None:
    class Wrong(Sample):
        @on_write(Status.done)
        def work(self, value: bool) -> None: ...


def no_register() -> None:
    on_write(5)  # type: ignore[call-overload]  # the mistake


def array_without_each() -> None:
    class Wrong(Sample):
        @on_write(Regs.queue.tail)
        def work(self, value: int) -> None: ...


def each_without_array() -> None:
    class Wrong(Sample):
        @on_write_each(Regs.number)
        def work(self, index: int, value: int) -> None: ...


def async_method() -> None:
    @on_read(Regs.number)  # type: ignore[arg-type]  # the mistake
    async def work(self: Sample) -> int:
        return 1


def job_no_async() -> None:
    @job()  # type: ignore[arg-type]  # the mistake
    def work(self: Sample) -> None: ...


def job_busy_number() -> None:
    job(busy=Regs.number)  # type: ignore[arg-type]  # the mistake


def job_busy_condition() -> None:
    job(busy=Regs.number.any)


def job_busy_of_an_array() -> None:
    job(busy=Regs.queue.status.busy)


def job_busy_and_limit() -> None:
    job(busy=Regs.status.busy, limit=2)


def job_without_limit() -> None:
    job(limit=0)


def interrupt_of_a_number() -> None:
    Interrupt(Regs.number)  # type: ignore[arg-type]  # the mistake


def interrupt_not_placed() -> None:
    Interrupt(Status.done)


def interrupt_of_an_array() -> None:
    Interrupt(Regs.queue.status.done)


def interrupt_of_another_bar() -> None:
    class Wrong(Function[Profile]):
        identity = ID
        regs = Regs()
        done = Interrupt(Second.status.done)


class Tables(Function[Profile]):
    """Five bars; memory takes the sixth."""

    identity = ID
    frames = Memory(index=0, size=4096)
    lines = Memory(index=1, size=lambda _profile: 4096)


def table_without_a_bar() -> None:
    class Full(Tables):
        vectors = MSIX(4)
        a, b = Memory(index=2, size=4096), Memory(index=3, size=4096)
        c, d = Memory(index=4, size=4096), Memory(index=5, size=4096)

    Bench(Full)


def table_in_a_bar() -> None:
    class Taken(Tables):
        vectors = MSIX(4, bar=1)

    Bench(Taken)


def too_few_vectors() -> None:
    class Few(Sample):
        vectors = MSIX(1)
        one, other = Interrupt(Regs.status.done), Interrupt(Regs.status.busy)

    Bench(Few)


def too_many_vectors() -> None:
    class Many(Sample):
        vectors = MSI(33)

    Bench(Many)


def no_vectors() -> None:
    MSI(0)


def less_than_no_vectors() -> None:
    MSI(-1)


def no_table() -> None:
    MSIX(0)


def too_large_a_table() -> None:
    MSIX(2049)


def memory_over_registers() -> None:
    class Over(Sample):
        frame = Memory(index=1, size=4096)

    Bench(Over)


def memory_past_its_bar() -> None:
    class Past(Sample):
        frame = Memory(index=0, size=4096, offset=4096)

    Bench(Past)


def memory_not_in_pages() -> None:
    class Odd(Sample):
        frame = Memory(index=2, size=1000)

    Bench(Odd)


def memory_at_an_odd_offset() -> None:
    Memory(index=2, size=4096, offset=100)


def memory_no_power_of_two() -> None:
    class Odd(Sample):
        frame = Memory(index=2, size=12288)

    Bench(Odd)


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (
            identity_missing,
            "Wrong: say what it is: identity = PciId(vendor=..., device=..., class_code=...), given None",
        ),
        (undeclared_in_a_method, "in Wrong.work: Wrong has no totals: declare it (totals = Saved(...)), or it is lost"),
        (undeclared_in_a_method, "; did you mean total?"),
        (undeclared_in_a_job, "in Wrong.work: Wrong has no scratch: declare it (scratch = Saved(...))"),
        (undeclared_in_a_pending, "in Wrong.is_ready: Wrong has no scratch: declare it"),
        (
            constant_set_in_a_method,
            "in Wrong.work: Wrong.brightness is a constant of the class: it cannot be set on a device; "
            "use brightness = Saved(100)",
        ),
        (shared_list, "Wrong.waiting: a list in the class would be one for all mdevs, and not saved; use Saved, Table"),
        (own_init, "Wrong.__init__: a device is made by its parent: declare its state, and begin in opened()"),
        (own_slots, "Wrong: __slots__: state is declared"),
        (taken_name, "Wrong.profile: the name is the API's own; choose another"),
        (
            saved_picture,
            "Wrong.picture: the API asks a device for it: expected a method, given a Saved; choose",
        ),
        (bar_of_heads, "Wrong.heads: the API asks a device for it: expected a number or a property, given a R"),
        (
            picture_of_a_write,
            "Wrong.picture: the API asks a device for it: expected a method, given a method for @on",
        ),
        (reset_as_a_job, "Wrong.reset: the API asks a device for it: expected a method, given a Job; choose another"),
        (async_reset, "Wrong.reset: the API asks a device for it: expected a method, given an async def; choose"),
        (damage_by_number, "Wrong.tells_damage: the API asks a device for it: expected True or False, given 1; ch"),
        (own_damaged, "Wrong.damaged: the name is the API's own; choose another"),
        (wrong_vectors, "Wrong.vectors: expected MSI(n), MSIX(n) or INTX(), given 4"),
        (bar_twice, "Wrong.other: bar 0 is one already; give a subclass another index: class Second(Regs, index=...)"),
        (
            register_of_another_bar,
            "Wrong.work: @on_write(Regs.number): expected a register of a bar of Wrong, given Re",
        ),
        (
            register_not_placed,
            "Wrong.work: @on_write(done): expected a register of a bar of Wrong, given a register th",
        ),
        (value_forgotten, "work: @on_write: expected def work(self, value), given def work(self)"),
        (value_too_many, "expected def work(self, value), given def work(self, index, value)"),
        (value_by_name_only, "expected def work(self, value), given def work(self, *, value)"),
        (index_forgotten, "@on_write_each: expected def work(self, index, value), given def work(self, value)"),
        (read_with_a_value, "@on_read: expected def work(self), given def work(self, value)"),
        (read_without_the_index, "@on_read_each: expected def work(self, index), given def work(self)"),
        (pending_with_a_value, "@pending: expected def work(self), given def work(self, value)"),
        (attribute_without_self, "@attribute: expected def work(self), given def work()"),
        (job_without_self, "@job: expected async def work(self, ...), given async def work()"),
        (memory_of_another_profile, "vram: size: Other has no field memory; did you mean memories?"),
        (parts_of_another_profile, "ports: count: Other has no field ports; add it: ports: int"),
        (mistake_inside_a_size, "vram: size: 'int' object has no attribute 'bytes'"),
        (no_register, "@on_write: expected a register of a bar, such as Regs.doorbell, given 5"),
        (array_without_each, "Wrong.work: @on_write(Regs.queue.tail): expected @on_write_each"),
        (each_without_array, "Wrong.work: @on_write_each(Regs.number): expected @on_write"),
        (async_method, "work: expected a def for @on_read, given an async def; the guest waits for it. Start a @job"),
        (job_no_async, "work: a job is an async def"),
        (job_busy_number, "@job: busy: expected a Flag of a register, such as Regs.status.busy, given Regs.number"),
        (job_busy_condition, "@job: busy: expected a Flag of a register"),
        (job_busy_of_an_array, "@job: busy: expected a Flag of a register"),
        (job_busy_and_limit, "@job: with busy only one is under way at a time: limit=2 contradicts it"),
        (job_without_limit, "@job: limit: expected 1 to 1024, given 0"),
        (interrupt_of_a_number, "Interrupt: expected a Flag of a register, a condition (.any, .equals()) or @pending"),
        (interrupt_not_placed, "Interrupt: done is not placed; name it by its bar, such as Regs.status.done"),
        (interrupt_of_an_array, "Interrupt: Regs.queue.status.done is in an array: an interrupt follows one bit"),
        (interrupt_of_another_bar, "Second.status.done: expected a register of a bar of Wrong, given Second"),
        (table_without_a_bar, "Full: MSIX: the table needs a BAR of its own, and all six are taken"),
        (table_in_a_bar, "Taken: MSIX(bar=1): expected a free one, of [2, 3, 4, 5]"),
        (too_few_vectors, "Few: vectors: 2 interrupts need MSIX(2), given 1"),
        (too_many_vectors, "Many: 33 interrupts: MSI has at most 32 vectors; say vectors = MSIX(33)"),
        (no_vectors, "MSI: vectors: expected a number from 0x1 to 0x800, given 0x0"),
        (less_than_no_vectors, "MSI: vectors: expected a number from 0x1 to 0x800, given -0x1"),
        (no_table, "MSIX: vectors: expected a number from 0x1 to 0x800, given 0x0"),
        (too_large_a_table, "MSIX: vectors: expected a number from 0x1 to 0x800, given 0x801"),
        (memory_over_registers, "Over.frame: bytes 0x0 to 0x1000 hold the register status at 0x0: a page is either"),
        (memory_past_its_bar, "Past.frame: bytes 0x1000 to 0x2000 of bar 0: expected a free place in its 0x1000 bytes"),
        (memory_not_in_pages, "frame: size: expected a multiple of 0x1000 bytes, given 1000"),
        (memory_at_an_odd_offset, "Memory: offset: expected a multiple of 0x1000, given 0x64"),
        (memory_no_power_of_two, "MemoryBar: expected a power of two"),
    ],
)
def test_mistake_is_told(declare: Callable[[], None], message: str) -> None:
    with pytest.raises(DriverError) as raised:
        declare()
    assert message in str(raised.value)
