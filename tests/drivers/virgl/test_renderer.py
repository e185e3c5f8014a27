"""The renderer with the real library, in a process of its own: what is drawn, who may use it, what it survives."""

import random
import signal
from collections.abc import Iterator
from struct import unpack_from

import pytest

from core import core_skip
from drivers.virgl.child import Child, Gone
from drivers.virgl.stream import BGRA, clear, command, target
from mdev_user.driver import GuestError, NotSupported
from mdev_user.drivers.vgpu.virgl import capsets
from mdev_user.drivers.vgpu.virgl.binding import Copy, missing
from mdev_user.drivers.vgpu.virgl.formats import BLOCKS
from mdev_user.drivers.vgpu.virgl.renderer import MOST_CONTEXTS
from mdev_user.drivers.vgpu.virgl.shape import Box, Shape, Target

SIDE = 64
LINE, SIZE = SIDE * 4, SIDE * SIDE * 4
PICTURE = Shape(Target.TEXTURE_2D, BGRA, 2 | 8, SIDE, SIDE, 1, 1, 0, 0, 0)
WHOLE = Copy((0, 0, 0, SIDE, SIDE, 1))
ORANGE = bytes.fromhex("4080ffff")
ROUNDS = 100
SEED = random.SystemRandom().randrange(1 << 32)


@pytest.fixture(scope="module")
def process() -> Iterator[Child]:
    if reason := missing():
        core_skip(reason)
    with Child() as child:
        yield child


@pytest.fixture
def child(process: Child) -> Child:
    """With context 1, that may draw into resource 10, whose memory is the first of the guest's."""
    prepare(process)
    return process


@pytest.fixture
def own() -> Iterator[Child]:
    """A process that a test may end."""
    if reason := missing():
        core_skip(reason)
    with Child() as child:
        yield child


def orange(child: Child, resource: int = 10, context: int = 1) -> None:
    child("submit", context, target(resource) + clear(1, 0.5, 0.25, 1))


def test_what_was_drawn_is_read_back_exactly(child: Child) -> None:
    orange(child)
    child("read", 1, 10, WHOLE)
    assert child.memory[:SIZE] == ORANGE * (SIDE * SIDE)


def test_memory_in_pieces_is_one_stretch(child: Child) -> None:
    child("detach_pieces", 10)
    child("attach_pieces", 10, [(3 * SIZE, 4096), (2 * SIZE, 100), (SIZE, SIZE)])
    orange(child)
    child("read", 1, 10, WHOLE)
    first, second, third = child.memory[3 * SIZE :][:4096], child.memory[2 * SIZE :][:100], child.memory[SIZE:][:SIZE]
    assert first + second == ORANGE * ((4096 + 100) // 4)
    assert third[: SIZE - 4196] == ORANGE * ((SIZE - 4196) // 4)
    assert third[SIZE - 4196 :] == bytes(4196)


def test_a_part_is_written_and_read_with_its_stride(child: Child) -> None:
    orange(child)
    child.memory[: 8 * 40] = bytes(range(40)) * 8
    child("write", 1, 10, Copy((4, 6, 0, 10, 8, 1), stride=40))
    child("read", 1, 10, Copy((0, 0, 0, SIDE, SIDE, 1)))
    rows = [child.memory[LINE * row : LINE * (row + 1)] for row in range(SIDE)]
    for number, row in enumerate(rows):
        inside = bytes(range(40)) if 6 <= number < 14 else ORANGE * 10
        assert row == ORANGE * 4 + inside + ORANGE * (SIDE - 14)
    child("read", 1, 10, Copy((4, 6, 0, 10, 1, 1), offset=SIZE - 40))
    assert child.memory[SIZE - 40 : SIZE] == bytes(range(40))


def test_picture_is_what_a_screen_would_show(child: Child) -> None:
    orange(child)
    assert child("picture", 10, Box(3, 3, 0, 5, 5, 1), SIZE, 100) == 100
    assert child.memory[SIZE : SIZE + 104] == ORANGE * 25 + bytes(4)
    with pytest.raises(GuestError, match="does not fit"):
        child("picture", 10, Box(3, 3, 0, 5, 5, 1), SIZE, 99)


def test_texture_is_uploaded_by_level(child: Child) -> None:
    levels = Shape(Target.TEXTURE_2D, BGRA, 2 | 8, 16, 16, 1, 1, 4, 0, 0)
    child("create_resource", 11, levels)
    child("attach_pieces", 11, [(SIZE, SIZE)])
    child.memory[SIZE : SIZE + 64] = bytes(range(64))
    child("write", 0, 11, Copy((0, 0, 0, 4, 4, 1), level=2))
    child.memory[SIZE : SIZE + 64] = bytes(64)
    child("read", 0, 11, Copy((0, 0, 0, 4, 4, 1), level=2))
    assert child.memory[SIZE : SIZE + 64] == bytes(range(64))


def test_context_cannot_use_what_is_not_attached_to_it(child: Child) -> None:
    """Also after it has tried: what the other one draws is not hurt."""
    orange(child)
    child("create_context", 2, b"two")
    with pytest.raises(GuestError, match="Illegal resource 10"):
        child("submit", 2, target(10) + clear(0, 0, 0, 0))
    with pytest.raises(GuestError, match="Illegal resource 10"):
        child("write", 2, 10, WHOLE)
    child("submit", 1, clear(1, 0.5, 0.25, 1))
    child("read", 1, 10, WHOLE)
    assert child.memory[:SIZE] == ORANGE * (SIDE * SIDE)


def test_context_that_is_attached_may_draw(child: Child) -> None:
    """The control of the test above."""
    child("create_context", 2, b"two")
    child("attach", 2, 10)
    orange(child, context=2)
    child("read", 2, 10, WHOLE)
    assert child.memory[:SIZE] == ORANGE * (SIDE * SIDE)


def test_fences_pass_in_their_order(child: Child) -> None:
    orange(child)
    assert child("fences", 50, "submit", 1, clear(1, 0, 0, 1)) == list(range(50))


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("submit", (7, clear(0, 0, 0, 0))),
        ("submit", (1, b"\xff" * 64)),
        ("create_context", (0, b"none")),
        ("create_context", (1, b"again")),
        ("destroy_context", (2,)),
        ("attach", (2, 10)),
        ("attach", (1, 99)),
        ("detach", (1, 99)),
        ("create_resource", (10, PICTURE)),
        ("create_resource", (0, PICTURE)),
        ("create_resource", (11, Shape(2, 9999, 10, 64, 64, 1, 1, 0, 0, 0))),
        ("create_resource", (11, Shape(2, BGRA, 10, 1 << 20, 1 << 20, 1, 1, 0, 0, 0))),
        ("create_resource", (11, Shape(2, BGRA, 0, 64, 64, 1, 1, 0, 0, 0))),
        ("unref_resource", (99,)),
        ("attach_pieces", (99, [(0, 4096)])),
        ("attach_pieces", (10, [(0, 4096)])),
        ("detach_pieces", (99,)),
        ("read", (1, 99, WHOLE)),
        ("read", (1, 10, Copy((0, 0, 0, SIDE + 1, SIDE, 1)))),
        ("read", (1, 10, Copy((0, 0, 0x8000_0000, 1, 1, 1)))),
        ("write", (1, 10, Copy((0, 0, 0, SIDE, SIDE, 1), offset=16))),
        ("write", (1, 10, Copy((0, 0, 0, SIDE, SIDE, 1), offset=1 << 63))),
        ("write", (1, 10, Copy((0, 0, 0, SIDE, SIDE, 1), stride=LINE - 1))),
        ("write", (1, 10, Copy((0, 0, 0, SIDE, SIDE, 1), level=1))),
        ("picture", (10, Box(0, 0, 0, SIDE, SIDE, 1), 0, 64)),
    ],
)
def test_what_is_not_there_is_refused(child: Child, method: str, arguments: tuple[object, ...]) -> None:
    with pytest.raises(GuestError):
        child(method, *arguments)
    child("create_context", 3, b"three")
    child("attach", 3, 10)
    orange(child, context=3)


def test_copies_need_memory(child: Child) -> None:
    child("detach_pieces", 10)
    with pytest.raises(GuestError, match="no memory"):
        child("read", 1, 10, WHOLE)
    with pytest.raises(GuestError, match="cannot have no memory"):
        child("attach_pieces", 10, [])


def test_contexts_are_counted(child: Child) -> None:
    for number in range(2, MOST_CONTEXTS + 1):
        child("create_context", number, b"")
    with pytest.raises(GuestError, match="more than 64"):
        child("create_context", MOST_CONTEXTS + 1, b"")
    child("destroy_context", 5)
    child("create_context", MOST_CONTEXTS + 1, b"")


def formats_of(capset: capsets.Capset) -> set[int]:
    """Those that can be sampled, drawn, and used for depths and vertices."""
    masks = [int.from_bytes(capset.contents[at : at + 64], "little") for at in range(4, 4 + 4 * 64, 64)]
    return {number for number in range(512) for mask in masks if mask >> number & 1}


def test_capsets_name_formats_of_known_sizes(child: Child) -> None:
    first, second = child.capsets
    assert (first.number, second.number) == (capsets.VIRGL, capsets.VIRGL2)
    assert len(first.contents) == 308
    assert len(second.contents) >= 1376
    assert {1, 2, 67} <= formats_of(second) <= set(BLOCKS)
    shown = capsets.told(second, 512 << 20)
    assert unpack_from("<I", shown.contents, 692) == (512,)
    assert unpack_from("<I", shown.contents, 688)[0] & 4
    assert shown.contents[692 + 4 :] == second.contents[692 + 4 :]


def test_reset_leaves_nothing(child: Child) -> None:
    child("reset")
    for method, arguments in (("submit", (1, clear(0, 0, 0, 0))), ("unref_resource", (10,))):
        with pytest.raises(GuestError):
            child(method, *arguments)
    child("create_context", 1, b"one")
    child("create_resource", 10, PICTURE)
    child("attach_pieces", 10, [(0, SIZE)])
    child("read", 0, 10, WHOLE)
    assert child.memory[:SIZE] == bytes(SIZE)


# --- hostile ----------------------------------------------------------------------------------------------------


def test_garbage_is_refused_or_ends_the_process(own: Child) -> None:
    """Random words, and streams that begin well: each is an error, or none, or the end of a process of its own."""
    chance, statuses, child = random.Random(SEED), list[int](), own
    for _ in range(ROUNDS):
        try:
            prepare(child)
            garble(child, chance)
        except Gone as gone:
            statuses.append(gone.status)
            child = Child()
    assert set(statuses) <= {-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS}, f"seed {SEED}"
    with child:
        prepare(child)
        orange(child)
        child("read", 1, 10, WHOLE)
        assert child.memory[:SIZE] == ORANGE * (SIDE * SIDE)


def prepare(child: Child) -> None:
    child("reset")
    child("create_context", 1, b"one")
    child("create_resource", 10, PICTURE)
    child("attach_pieces", 10, [(0, SIZE)])
    child("attach", 1, 10)
    child.memory[: 4 * SIZE] = bytes(4 * SIZE)


def garble(child: Child, chance: random.Random) -> None:
    for _ in range(4):
        begun = target(10) + clear(1, 0, 0, 1) if chance.random() < 0.7 else b""
        wild = b"".join(
            command(chance.randrange(60), chance.randrange(16), *(words(chance) for _ in range(chance.randrange(24))))
            for _ in range(chance.randrange(8))
        )
        try:
            child("submit", 1, begun + wild)
        except GuestError:
            continue


def words(chance: random.Random) -> int:
    return chance.choice((0, 1, 5, 10, SIDE, chance.randrange(256), chance.randrange(1 << 32), 0xFFFF_FFFF))


def test_memory_is_what_was_charged(own: Child) -> None:
    """The library has no limits: what the formula says is what the process takes, and gives back."""
    large = Shape(Target.TEXTURE_2D, BGRA, 2 | 8, 1024, 1024, 1, 1, 0, 0, 0)
    before = own("resident")
    for number in range(100, 120):
        own("create_resource", number, large)
    taken = own("resident") - before
    for number in range(100, 120):
        own("unref_resource", number)
    assert taken == pytest.approx(20 * large.charged, rel=0.1)
    assert own("resident") - before < 4 * large.charged


def test_death_in_the_middle_is_seen(own: Child) -> None:
    prepare(own)
    orange(own)
    own.process.kill()
    with pytest.raises((Gone, BrokenPipeError)):
        own("submit", 1, clear(1, 0, 0, 1))
    assert own.process.wait(10) == -signal.SIGKILL


def test_missing_library_is_told_before_anything_can_abort(monkeypatch: pytest.MonkeyPatch) -> None:
    from mdev_user.drivers.vgpu.virgl import binding

    monkeypatch.setattr(binding, "_NEEDED", (("libmissing-gl.so.7", "libmissing-gl7", "libmissing-too.so.1"),))
    assert "libmissing-gl.so.7" in missing()
    assert "install libmissing-gl7" in missing()
    with pytest.raises(NotSupported, match="libmissing-gl7"):
        binding.Library()
    monkeypatch.setattr(binding, "_NEEDED", ())
    monkeypatch.setattr(binding, "_NAME", "libmissing-virgl.so.1")
    assert "install libvirglrenderer1" in missing()
