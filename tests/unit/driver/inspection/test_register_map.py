"""Register maps: that they tell what is declared, and that the device does what they tell."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import msgspec
import pytest
from typing_extensions import override

from mdev_user.driver import Access, Device, DeviceOps, Mdev, MdevParentOps, MdevType, Parent
from mdev_user.driver.inspection.register_map import ArrayInfo, BarInfo, RegisterInfo, RegisterMap, register_map
from mdev_user.drivers.crc import Card
from mdev_user.errors import DriverError
from unit.driver.queues import QueueCard

DRIVERS = [Card, QueueCard]


def bar(index: int) -> BarInfo:
    return next(each for each in register_map(QueueCard).bars if each.index == index)


def register(name: str, index: int = 0) -> RegisterInfo:
    return next(each for each in bar(index).registers if each.name == name)


def device(parent: type[Parent[Any]]) -> Device:
    return Device(parent.function, next(iter(parent.types.values())), UUID(int=1))


# --- the device does what the map tells ---------------------------------------------------------------------------


def wrong_resets(found: RegisterMap, device: Device) -> Iterator[str]:
    """The registers whose bytes on a new device, where the map says they are, are not what it says."""
    for bar in found.bars:
        for each in bar.registers:
            if each.bank is None and not {"WO", "UNIMPL"} & set(each.access):
                for offset in offsets(each):
                    value = int.from_bytes(device.read(bar.index, offset, each.size), "little")
                    if value != each.reset:
                        yield f"{each.name} at {offset:#x}: {value:#x}"


def offsets(register: RegisterInfo) -> list[int]:
    array = register.array or ArrayInfo(name="", count=1, stride=0)
    return [register.offset + number * array.stride for number in range(array.count)]


def replaced(found: RegisterMap, name: str, **changes: Any) -> RegisterMap:
    """The map with one register told wrongly."""
    bars = [
        msgspec.structs.replace(
            bar,
            registers=[
                msgspec.structs.replace(each, **changes) if each.name == name else each for each in bar.registers
            ],
        )
        for bar in found.bars
    ]
    return msgspec.structs.replace(found, bars=bars)


@pytest.mark.parametrize("parent", DRIVERS)
def test_a_new_device_reads_as_the_map_tells(parent: type[Parent[Any]]) -> None:
    assert list(wrong_resets(register_map(parent), device(parent))) == []


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("answer", {"offset": 0x18}),
        ("answer", {"reset": 1}),
        ("queue.control", {"array": ArrayInfo(name="queue", count=4, stride=0x24)}),
        ("queue.control", {"array": ArrayInfo(name="queue", count=5, stride=0x20)}),
    ],
)
def test_a_map_that_tells_otherwise_is_found(name: str, changes: dict[str, Any]) -> None:
    found = replaced(register_map(QueueCard), name, **changes)
    assert list(wrong_resets(found, device(QueueCard)))


@pytest.mark.parametrize("parent", DRIVERS)
def test_every_declared_register_is_told_once(parent: type[Parent[Any]]) -> None:
    for each in register_map(parent).bars:
        declared = parent.function._plan.bars.get(each.index)
        paths = {slot.path for slot in declared._layout.slots} if declared else set()
        told = [register.name for register in each.registers]
        assert sorted(told) == sorted(paths)
        assert [one.offset for one in each.registers] == sorted(one.offset for one in each.registers)


# --- what is told ------------------------------------------------------------------------------------------------


def test_fields_have_their_bits_kinds_and_values() -> None:
    on, speed, level = register("control").fields
    assert (on.name, on.lsb, on.mask, on.access, on.type, on.values) == ("on", 0, 1, "RW1S", "bool", {})
    assert (speed.lsb, speed.width, speed.mask, speed.type) == (4, 2, 0x30, "Speed")
    assert speed.values == {"SLOW": 0, "FAST": 1, "FASTER": 2, "RESERVED_3": 3}
    assert (level.access, level.type) == ("RO", "int")


def test_accesses_are_those_of_the_bits() -> None:
    assert register("control").access == ["RW1S", "RW", "RO"]
    assert register("command").access == ["WO"]
    assert register("spare").access == ["RSVD"]
    names = set(Access.__members__)
    assert all(set(each.access) <= names for each in bar(0).registers)


def test_an_array_is_told_at_its_first_element() -> None:
    tail = register("queue.tail")
    assert (tail.offset, tail.array) == (0x110, ArrayInfo(name="queue", count=4, stride=0x20))
    assert register("counter").array == ArrayInfo(name="counter", count=3, stride=2)
    assert register("queue_count").array is None


def test_a_bank_is_told_by_the_bits_that_select_it() -> None:
    banks = {each.name: each.bank for each in bar(2).registers}
    assert banks == {
        "page": None,
        "low": None,
        "first": "page.number == 0x1",
        "any_other": "page.number != 0",
        "high": "page.high",
    }


def test_about_is_the_first_paragraph_of_the_innermost_class_that_says_something() -> None:
    assert register("queue.control").about.startswith("Turns the engine on")
    assert "second paragraph" not in register("control").about
    assert register("queue.tail").about == "A ring in the guest's memory."
    assert register("seen").about == ""
    assert register_map(Card).about == ""


def test_bars_are_told_with_memory_ports_and_the_vectors_table() -> None:
    wide, ports, buffer, table = register_map(QueueCard).bars
    assert (wide.wide, wide.io, wide.sizes) == (True, False, {"small": 0x4000, "large": 0x4000})
    assert [(each.name, each.offset, each.sizes["small"]) for each in wide.memories] == [("window", 0x2000, 0x2000)]
    assert (ports.io, ports.about) == (True, "")
    assert (buffer.name, buffer.sizes, buffer.registers) == ("buffer", {"small": 0x4000, "large": 0x10000}, [])
    assert buffer.memories[0].sizes == buffer.sizes
    assert [each.vectors for each in (wide, ports, buffer, table)] == [False, False, False, True]
    assert table.index == 4


def test_interrupts_are_told_with_what_raises_them() -> None:
    found = register_map(QueueCard)
    assert [(each.vector, each.name, each.pending, each.enable) for each in found.interrupts] == [
        (0, "on", "regs.control.on", "regs.control.speed == 0x1"),
        (1, "level", "regs.control.level != 0", None),
        (2, "over", "overrun", None),
    ]
    assert (found.messages, found.vectors) == ("MSI-X", 4)
    assert (register_map(Card).messages, register_map(Card).vectors) == ("MSI", 2)


def test_a_driver_written_by_hand_declares_no_registers() -> None:
    class ByHand(MdevParentOps):
        driver_name = "by-hand"
        mdev_types = (MdevType("1"),)

        @override
        def create(self, mdev: Mdev) -> DeviceOps:
            return DeviceOps()

        @override
        def remove(self, mdev: Mdev) -> None:
            pass

    with pytest.raises(DriverError, match=r"^by-hand declares no registers: .*given ByHand"):
        register_map(ByHand)


def test_a_map_survives_json() -> None:
    found = register_map(QueueCard)
    assert msgspec.json.decode(msgspec.json.encode(found), type=RegisterMap) == found
