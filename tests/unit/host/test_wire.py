"""What the front and a host say to each other, there and back."""

from typing import get_args
from uuid import UUID

import msgspec
import pytest

from mdev_user.host import wire
from mdev_user.host.purpose import Purpose
from mdev_user.host.wire import Answer, Call, Inspection, Packet, ParentDescription, Value
from mdev_user.mdev.types import MdevAttribute, MdevType
from mdev_user.pci.identity import PciId
from mdev_user.vfio.inspection import (
    Change,
    Decoded,
    FieldValue,
    MissingRegisters,
    NamedValue,
    Suggestion,
    TouchedRegister,
    TraceLine,
    Unmodelled,
)

UUID_ = UUID("11111111-2222-4333-8444-555555555555")
ATTRIBUTE = MdevAttribute("vendor", "name", writable=True)

CALLS: list[Call] = [
    wire.Load("mtty", "mtty", {"ports": "24", "text": "ä,="}),
    wire.Unload("mtty"),
    wire.Reload("mtty"),
    wire.Create("mtty", "mtty-1", UUID_),
    wire.Remove(UUID_),
    wire.Lend(UUID_),
    wire.Probe(UUID_),
    wire.Unprobe(UUID_),
    wire.GetAvailable("mtty", "mtty-1"),
    wire.Show(UUID_, ATTRIBUTE),
    wire.Store(UUID_, ATTRIBUTE, bytes(range(256))),
    wire.ShowParent("mtty", ATTRIBUTE),
    wire.StoreParent("mtty", ATTRIBUTE, b"\0"),
    wire.Inspect(UUID_),
    wire.Disconnect(UUID_),
    wire.BeginMove(UUID_, Purpose.LOAD),
    wire.HandOver(UUID_, "/run/other"),
    wire.ListValues(UUID_),
    wire.ListUnmodelled(UUID_),
    wire.BeginTrace(UUID_, 1 << 40),
    wire.ReadTrace(UUID_, 7, 1.0),
    wire.EndTrace(UUID_, 7),
    wire.CopyPicture(UUID_, 3, 1 << 40),
]
FIELDS = (FieldValue("on", 1), FieldValue("speed", 2, "FAST"), FieldValue("level", None))
VALUES: list[Value] = [
    None,
    0,
    -5,
    1 << 60,
    "text\n",
    ParentDescription("mtty", [MdevType("1", "One", None), MdevType("2", "Two", "of it")], None, [ATTRIBUTE]),
    ParentDescription("card", [MdevType("x")], 4, [], [], PciId(0x4348, 0x3253, 0x070002, subsystem=1)),
    Inspection(42, 0, "qemu", 1 << 40, "the client went away", {"reads": 1 << 50, "slowest_step": "read"}),
    Inspection(None, 0, "", 0, "", {}),
    Inspection(None, 0, "", 0, "", {}, parked=True, last_move="it went away"),
    wire.Values(opened=True, values=[NamedValue("regs.wide", (1 << 64) - 1, size=8, region=0, fields=FIELDS)]),
    wire.Values(opened=False, values=[NamedValue("regs.level", None, computed=0xFF), NamedValue("name", "x")]),
    wire.UnmodelledAnswer(
        Unmodelled([MissingRegisters("Regs", [Suggestion("unknown_0x40", 64, 4, 12, 0)], left_out=False)], 12, False)
    ),
    wire.CopiedPicture(wire.CopiedImage(0, 640, 480, 2560, 0x34325258)),
    wire.CopiedPicture(
        wire.CopiedImage(0, 1, 1, 4, 0x34325258),
        wire.CopiedPointer(wire.CopiedImage(4096, 64, 64, 256, 0x34325241), -7, 9, 1, 2),
    ),
    wire.TraceLines([]),
    wire.TraceLines(
        [
            TraceLine(kind="lost", time=1.5, count=7),
            TraceLine(
                kind="write",
                time=2.5,
                region=0,
                offset=8,
                size=4,
                data="01000000",
                decoded=Decoded(
                    registers=(TouchedRegister("regs.control", 1, 4, 0, FIELDS),),
                    changes=(Change("regs.control.on", "0x0", "0x1"),),
                    unmodelled=True,
                ),
            ),
        ]
    ),
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: type(call).__name__)
def test_a_call_survives_the_wire(call: Call) -> None:
    data = msgspec.msgpack.encode(Packet(7, call))
    assert msgspec.msgpack.decode(data, type=Packet) == Packet(7, call)


def test_every_call_is_tried_here() -> None:
    assert {type(each) for each in CALLS} == set(get_args(Call))


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_an_answer_survives_the_wire(value: Value) -> None:
    answer = Answer(9, value)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(answer), type=Answer) == answer


def test_a_failure_survives_the_wire() -> None:
    answer = Answer(9, errno=28, message="full", kind="NoSpace")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(answer), type=Answer) == answer
