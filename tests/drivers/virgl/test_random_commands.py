"""Random commands of 2D and 3D, with a renderer that refuses and dies as it likes: accounts stay right."""

import random
from struct import pack, unpack_from
from typing import Any

import pytest

from drivers.virgl.guest_driver import VirglDriver
from mdev_user.driver import GuestError, MiB
from mdev_user.drivers.vgpu import card, rendering
from mdev_user.drivers.vgpu.card import gvtg
from mdev_user.drivers.vgpu.commands import Answered
from mdev_user.drivers.vgpu.rendering import RenderingVgpu
from mdev_user.drivers.vgpu.virgl import commands as c3
from mdev_user.drivers.vgpu.virgl.capsets import Capset
from mdev_user.drivers.vgpu.virgl.program import Virgl
from mdev_user.testing import Guest

HIGH = MiB
COMMANDS, ROUNDS = 150, 8
FORMS_2D = {0x101: "4I", 0x102: "I4x", 0x103: "6I", 0x104: "5I4x", 0x105: "4IQI4x", 0x106: "2I", 0x107: "I4x"}
SEED = random.SystemRandom().randrange(1 << 32)
OK = {Answered.OK_NODATA, Answered.OK_CAPSET_INFO, Answered.OK_CAPSET, Answered.OK_DISPLAY_INFO, Answered.OK_EDID}


class Card(card.Card):
    types = {"small": gvtg(8, low=1, high=HIGH // MiB, resolution=(64, 64))}


@pytest.fixture
def chance(monkeypatch: pytest.MonkeyPatch) -> random.Random:
    """What the renderer does follows it, too."""
    chance = random.Random(SEED)

    def answering(name: str, answer: object) -> None:
        # Any: the arguments of each
        def method(_program: Virgl, *_arguments: Any) -> object:
            draw = chance.random()
            if draw < 0.1:
                raise GuestError("no")
            if draw < 0.12:
                raise RuntimeError("dead")
            return answer

        method.__name__ = name
        monkeypatch.setattr(Virgl, name, method)

    monkeypatch.setattr(rendering, "has_renderer", lambda: True)
    monkeypatch.setattr(Virgl, "__init__", lambda _program, _memory: None)
    monkeypatch.setattr(Virgl, "unmapped", lambda _program, _address, _length: None)
    for name in ("create_context", "destroy_context", "attach", "detach", "create_resource"):
        answering(name, None)
    answering("submit", "")
    for name in ("unref_resource", "attach_backing", "detach_backing", "to_host", "from_host", "fence"):
        answering(name, None)
    answering("picture", 64 * 64 * 4)
    answering("capsets", [Capset(1, 1, bytes(308)), Capset(2, 2, bytes(1376))])
    return chance


def number(chance: random.Random) -> int:
    return chance.choice((0, 1, 1, 1, 2, 3, 4, 5, 6, 16, 64, 64, 1 << 20, chance.randrange(1 << 32)))


def body(chance: random.Random, kind: int) -> bytes:
    if kind == 0x204 and chance.random() < 0.7:  # one that can be
        return pack("<12I", number(chance), 2, 1, 10, 64, chance.choice((1, 64, 999)), 1, 1, 0, 0, 0, 0)
    if kind == 0x101 and chance.random() < 0.7:
        return pack("<4I", number(chance), 1, 16, 16)
    form = c3.FORMS[kind][0].format if kind in c3.FORMS else f"<{FORMS_2D[kind]}"
    values = [number(chance) if letter != "s" else b"" for letter in letters(form)]
    return pack(form, *values) + chance.randbytes(chance.choice((0, 0, 16, 64)))


def letters(form: str) -> str:
    """A letter for each value: ``4IQ4x64s`` has IIIIQs."""
    found, count = "", ""
    for each in form.lstrip("<"):
        if each.isdigit():
            count += each
            continue
        found += "" if each == "x" else each if each == "s" else each * int(count or 1)
        count = ""
    return found


def test_accounts_are_right_whatever_happens(chance: random.Random) -> None:
    answered: set[int] = set()
    for _ in range(ROUNDS):
        with Guest(Card) as guest:
            driver = VirglDriver(guest)
            driver.PATIENCE = 0.0
            driver.context()
            for _ in range(COMMANDS):
                kind = chance.choice([*c3.FORMS, *FORMS_2D])
                header = pack("<IIQII", kind, chance.choice((0, 0, 1)), 5, chance.choice((7, 7, 7, 0, 9)), 0)
                answer = driver.send(header + body(chance, kind))
                answered.add(unpack_from("<I", answer)[0])
                check(driver.rendering)
            guest.reset()
            check(driver.rendering)
    assert answered <= set(Answered), f"seed {SEED}"
    assert Answered.OK_NODATA in answered, f"seed {SEED}"


def check(gpu: RenderingVgpu) -> None:
    shapes, known = gpu.shapes, set(gpu.shapes)
    assert shapes.used == sum(each.charged for each in shapes.values()) <= HIGH, f"seed {SEED}"
    assert not known & set(gpu.resources), f"seed {SEED}"
    assert not known & set(gpu.lost), f"seed {SEED}"
    assert set(gpu.attached) == known & set(gpu.attached) | set(gpu.entries), f"seed {SEED}"
    assert gpu.attached.pieces == sum(gpu.attached.values()), f"seed {SEED}"
    assert gpu.made <= set(gpu.contexts), f"seed {SEED}"
    assert gpu.renderer.alive or not (known or gpu.made), f"seed {SEED}"
    for head, shown in gpu.shown.items():
        assert shown.resource in known | set(gpu.resources), f"seed {SEED}"
        assert head < gpu.heads
