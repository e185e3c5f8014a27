"""What a guest's 2D commands cost it, and what of them would cost its host too much."""

from collections.abc import Iterator
from struct import pack

import pytest

from mdev_user.driver import Chain, sleep
from mdev_user.drivers.vgpu import function
from mdev_user.drivers.vgpu.card import Card
from mdev_user.drivers.vgpu.commands import LARGEST, Answered
from mdev_user.drivers.vgpu.entries import SMALLEST, fault_of
from mdev_user.drivers.vgpu.function import COMMAND, ENTRY, MOST_RESOURCES, SEARCHED, Vgpu
from mdev_user.drivers.vgpu.resources import MOST_SHOWN, Places, Resource, Shown
from mdev_user.testing import Guest
from mdev_user.units import PAGE
from mdev_user.vfio import screens
from unit.driver.virtio.ring_driver import BUFFERS
from unit.drivers.vgpu.gpu_driver import ATTACH, OK, TRANSFER, GpuDriver

BAD_PARAMETER = Answered.ERR_INVALID_PARAMETER
CLEARED = PAGE // 4
"""Pixels of the smallest picture."""


@pytest.fixture
def driver() -> Iterator[GpuDriver]:
    with Guest(Card, "GVTg_V5_4") as guest:
        yield GpuDriver(guest)


def entries(*lengths: int) -> bytes:
    return b"".join(pack("<QI4x", BUFFERS, each) for each in lengths)


# --- accounts ----------------------------------------------------------------------------------------------------


def test_every_entry_of_a_backing_is_paid_for(driver: GpuDriver) -> None:
    driver.create(1, 16, 16)
    before = driver.gpu.drawn
    assert driver.attach(1, [(BUFFERS, PAGE)] * 200) == OK
    assert driver.gpu.drawn - before == COMMAND + 200 * ENTRY


def test_looking_for_a_place_is_paid_for_by_what_is_there(driver: GpuDriver) -> None:
    costs = []
    for number in range(1, 5):
        before = driver.gpu.drawn
        driver.create(number, 1, 1)
        costs.append(driver.gpu.drawn - before)
    assert costs == [2 * COMMAND + CLEARED + there * SEARCHED for there in range(4)]


def test_places_know_what_they_are_asked_without_a_look_at_all() -> None:
    places, known = Places(), [Resource(1, 32, 32, at * PAGE) for at in (0, 3, 5)]
    for each in reversed(known):
        places.add(each)
    assert places.used == 3 * PAGE
    assert [places.hole(size * PAGE, 8 * PAGE) for size in (1, 2, 3)] == [PAGE, PAGE, None]
    places.drop(known[1])
    assert (places.used, places.hole(3 * PAGE, 8 * PAGE)) == (2 * PAGE, PAGE)


def test_pictures_of_a_guest_have_an_end(driver: GpuDriver) -> None:
    gpu = driver.gpu
    for number in range(2, MOST_RESOURCES + 1):  # as if by commands
        gpu._add(number, Resource(1, 1, 1, number * PAGE))
    assert driver.create(1, 1, 1) == OK
    assert driver.create(MOST_RESOURCES + 1, 1, 1) == Answered.ERR_OUT_OF_MEMORY
    assert driver.unref(7) == OK
    assert driver.create(MOST_RESOURCES + 1, 1, 1) == OK


# --- memory that answers when it likes, as that of a guest does that shares none --------------------------------------


def test_pixels_that_never_come_hold_no_turn(driver: GpuDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.create(1, 16, 16)
    driver.attach(1, [(BUFFERS, PAGE)])
    before = driver.gpu.drawing.turns
    monkeypatch.setattr(type(driver.gpu.dma), "read_into", never)
    driver.begin(driver.command(TRANSFER, "4IQI4x", 0, 0, 16, 16, 0, 1))
    assert not driver.came()
    assert driver.gpu.drawing.turns == before + 1
    assert driver.gpu.backend._held == 0  # so whoever draws beside it goes on


def test_entries_that_never_come_hold_no_turn(driver: GpuDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.create(1, 16, 16)
    before = driver.gpu.drawing.turns
    begun = Chain.read
    monkeypatch.setattr(Chain, "read", lambda chain, count: (begun if count == LARGEST else never)(chain, count))
    driver.begin(driver.command(ATTACH, "2I", 1, 8, more=entries(*[PAGE] * 8)))
    assert not driver.came()
    assert driver.gpu.drawing.turns == before + 1
    assert driver.gpu.backend._held == 0


async def never(*_arguments: object) -> bytes:
    await sleep(86400)
    return b""


# --- pieces that are too small -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "is_sound"),
    [
        ((), True),
        ((1,), True),
        ((1, 1), True),
        ((1, SMALLEST, 1), True),
        ((PAGE, 1 << 16, 1 << 24, 0xFFFF_FF00, 0), True),
        ((PAGE, SMALLEST - 1, PAGE), False),
        ((PAGE, PAGE, 0, 1), False),
        ((PAGE, 1, 1, PAGE), False),
    ],
)
def test_pieces_between_the_first_and_the_last_are_not_tiny(
    driver: GpuDriver, lengths: tuple[int, ...], is_sound: bool
) -> None:
    assert bool(fault_of(entries(*lengths))) is not is_sound
    driver.create(1, 16, 16)
    assert driver.attach(1, [(BUFFERS, each) for each in lengths]) == (OK if is_sound else BAD_PARAMETER)
    assert driver.gpu.attached.pieces == (len(lengths) if is_sound else 0)


def test_entries_are_whole() -> None:
    assert fault_of(entries(PAGE)[:-1])


def test_state_with_more_pieces_than_a_guest_can_have_has_none(
    driver: GpuDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.create(1, 16, 16)
    driver.attach(1, [(BUFFERS, PAGE)] * 3)
    state = driver.guest.save()
    with Guest(Card, "GVTg_V5_4") as other:
        gpu: Vgpu = other.device.function  # type: ignore[assignment]  # the card's
        for most in (3, 2):
            monkeypatch.setattr(function, "MOST_PIECES", most)
            other.load(state)
            assert (len(gpu.entries), gpu.attached.pieces) == ((1, 3) if most == 3 else (0, 0))


# --- heads that nobody could look at -----------------------------------------------------------------------------


def test_no_head_shows_more_than_can_be_looked_at(driver: GpuDriver) -> None:
    assert MOST_SHOWN == screens.MOST_BYTES
    lines = MOST_SHOWN // (16384 * 4)
    driver.gpu._add(1, Resource(1, 16384, lines + 1, 0))
    assert driver.scanout(0, 1, 0, 0, 16384, lines + 1) == BAD_PARAMETER
    assert driver.scanout(0, 1, 0, 0, 1, lines + 1) == BAD_PARAMETER  # from its first pixel to its last
    assert driver.scanout(0, 1, 0, 1, 16384, lines) == OK
    assert len(driver.on_head() or b"") == MOST_SHOWN


def test_state_of_a_head_that_nobody_could_look_at_is_left_out(driver: GpuDriver) -> None:
    lines = MOST_SHOWN // (16384 * 4)
    driver.gpu._add(1, Resource(1, 16384, lines + 1, 0))
    for head, height in enumerate((lines, lines + 1)):
        assert driver.scanout(head, 1, 0, 0, 16384, lines) == OK
        driver.gpu.shown[head] = Shown(1, 0, 0, 16384, height)
    driver.gpu.shown[2] = Shown(9, 0, 0, 1, 1)
    with Guest(Card, "GVTg_V5_4") as other:
        other.load(driver.guest.save())
        gpu: Vgpu = other.device.function  # type: ignore[assignment]  # the card's
        assert list(gpu.shown) == [0]


# --- the two queues ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [0x100, 0x101, 0x102, 0x103, 0x104, 0x105, 0x106, 0x107, 0x10A])
def test_what_is_drawn_does_not_overtake_in_the_queue_of_pointers(driver: GpuDriver, kind: int) -> None:
    data = driver.command(kind, "4I", 1, 1, 8, 8, more=bytes(32))
    assert answer_of(driver.send(data, queue=1)) == Answered.ERR_UNSPEC
    assert not driver.gpu.resources
    assert not driver.needs_reset


@pytest.mark.parametrize("kind", [0x300, 0x301])
def test_pointers_have_a_queue_of_their_own(driver: GpuDriver, kind: int) -> None:
    driver.show(1, 16, 16, seed=1)
    data = driver.command(kind, "Iii4xIII4x", 0, 9, 9, 1, 0, 0)
    assert answer_of(driver.send(data)) == Answered.ERR_UNSPEC
    assert not driver.gpu.pointers
    assert answer_of(driver.send(data, queue=1)) == OK


def answer_of(answer: bytes) -> Answered:
    return Answered(int.from_bytes(answer[:4], "little"))
