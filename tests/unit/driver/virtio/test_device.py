"""A virtio device of an author's: a guest's driver in memory uses it, and abuses it."""

from collections.abc import Callable, Iterator
from struct import pack, unpack

import pytest

from mdev_user.driver.virtio.function import VirtioFunction
from mdev_user.driver.virtio.ring import INDIRECT, NEXT, WRITE, Feature, Ring
from mdev_user.drivers import virtio_rng
from mdev_user.testing import Guest, check
from mdev_user.units import MiB
from unit.driver.virtio.devices import Card, Echo, Features, PinnedCard
from unit.driver.virtio.ring_driver import AVAILABLE, BUFFERS, FEATURES, USED, Piece, RingDriver, VirtioDriver

OFFERED = FEATURES | Features.UPPER
ABC, PLACE = Piece(BUFFERS, 3, 0), Piece(BUFFERS + 0x100, 16)


@pytest.fixture
def guest() -> Iterator[Guest]:
    with Guest(PinnedCard) as made:
        made.memory[BUFFERS : BUFFERS + 3] = b"abc"
        yield made


def echo(guest: Guest) -> Echo:
    function = guest.device.function
    assert isinstance(function, Echo)
    return function


def capabilities(guest: Guest) -> dict[int, tuple[int, int, int]]:
    """The structures: bar, offset and length by kind."""
    found: dict[int, tuple[int, int, int]] = {}
    at = guest.read_config(0x34, 1)[0]
    while at:
        identity, following, length, kind, bar = guest.read_config(at, 5)
        if identity == 0x09:
            found[kind] = (bar, *unpack("<II", guest.read_config(at + 8, 8)))
            assert length == (20 if kind == 2 else 16)
        at = following
    return found


def test_everything_about_pci_follows_from_the_kind_of_device() -> None:
    with Guest(Card) as guest:
        assert unpack("<HH", guest.read_config(0, 4)) == (0x1AF4, 0x1040 + 42)
        assert unpack("<HH", guest.read_config(0x2C, 4)) == (0x1AF4, 0x40 + 42)
        assert guest.read_config(8, 1) == b"\1"
        assert capabilities(guest) == {1: (0, 0, 0x38), 2: (0, 0x80, 2), 3: (0, 0x40, 1), 4: (2, 0, 5)}
        guest.enable_msix()
        assert guest.vectors(guest.listens_to) == 3
    with Guest(virtio_rng.Card) as guest:
        assert 4 not in capabilities(guest)


def test_features_are_offered_in_halves(guest: Guest) -> None:
    for half, features in ((0, OFFERED & 0xFFFF_FFFF), (1, OFFERED >> 32), (2, 0)):
        guest.write_bytes(0, 0, pack("<I", half))
        assert guest.read_bytes(0, 4, 4) == pack("<I", features)


@pytest.mark.parametrize(
    ("features", "taken"),
    [
        (OFFERED, True),
        (1 << 32, True),
        (0, False),
        (FEATURES & 0xFFFF_FFFF, False),
        (1 << 32 | 1, False),
        (1 << 63 | 1 << 32, False),
    ],
)
def test_features_that_were_not_offered_are_refused(guest: Guest, features: int, taken: bool) -> None:
    assert VirtioDriver(guest).negotiate(features) == taken
    assert echo(guest).negotiated == (features if taken else 0)
    guest.write_bytes(0, 0x14, b"\x0f")
    assert bool(VirtioDriver(guest).status & 4) == taken


def test_queues_have_banks_of_their_own(guest: Guest) -> None:
    assert guest.read_bytes(0, 0x12, 2) == b"\2\0"
    for queue, size in ((0, 16), (1, 4), (2, 0)):
        guest.write_bytes(0, 0x16, pack("<H", queue))
        assert guest.read_bytes(0, 0x18, 2) == pack("<H", size)


def test_author_names_bits_and_reads_and_writes_streams(guest: Guest) -> None:
    driver = VirtioDriver(guest, 4, queues=2)
    driver.start()
    assert driver.ask(ABC, PLACE) == (0, 3)
    assert guest.memory[PLACE.address : PLACE.address + 4] == b"cba\0"
    assert (guest.pin, driver.isr(), driver.isr()) == (True, 1, 0)
    driver.start(OFFERED)
    pieces = [Piece(BUFFERS + at, 1, 0) for at in range(3)]
    assert driver.ask(driver.rings[0].indirect([*pieces, Piece(PLACE.address, 2), Piece(PLACE.address + 8, 2)])) == (
        0,
        3,
    )
    assert guest.memory[PLACE.address : PLACE.address + 9] == b"CBa" + bytes(5) + b"A"
    assert driver.ask(ABC, PLACE, queue=1) == (0, 1)
    assert echo(guest).handled == 1
    assert guest.errors == 0


def test_configuration_changes_are_told(guest: Guest) -> None:
    driver = VirtioDriver(guest, 4, queues=2)
    guest.write_bytes(2, 4, b"\3")
    assert (driver.isr(), guest.read_bytes(0, 0x15, 1)) == (0, b"\1")  # not before DRIVER_OK
    driver.start()
    guest.write_bytes(2, 4, b"\4")
    assert (guest.pin, driver.isr(), guest.read_bytes(0, 0x15, 1)) == (True, 2, b"\1")
    assert guest.read_bytes(2, 0, 4) == pack("<I", 40)


def test_messages_go_to_the_vectors_that_the_guest_chose() -> None:
    with Guest(Card) as guest:
        guest.enable_msix()
        driver = VirtioDriver(guest, 4, queues=2).start(vector=2)
        driver.ask(ABC, PLACE)
        guest.write_bytes(2, 4, b"\4")
        assert (guest.take_messages(), guest.pin) == ([2, 0], False)
        guest.write_bytes(0, 0x1A, pack("<H", 3))
        assert guest.read_bytes(0, 0x1A, 2) == b"\xff\xff"


def offer_all(driver: VirtioDriver, count: int) -> None:
    ring = driver.rings[0]
    for index in range(count):
        ring.chain([index], [Piece(PLACE.address + index, 1)])
        ring.offer(index)


@pytest.mark.parametrize(
    ("features", "wake_at", "interrupts"),
    [(Feature.VERSION_1, 0, 16), (FEATURES, 15, 1), (FEATURES, 16, 0), (FEATURES, 7, 1)],
)
def test_event_index_saves_interrupts(features: int, wake_at: int, interrupts: int) -> None:
    assert interrupts_of_a_batch(features, wake_at) == interrupts


def interrupts_of_a_batch(features: int, wake_at: int) -> int:
    """Of 16 chains that are served in one go."""
    with Guest(virtio_rng.Card) as guest:
        guest.enable_msix()
        driver = VirtioDriver(guest, 16).start(features, vector=1)
        offer_all(driver, 16)
        driver.rings[0].wake_at(wake_at)
        driver.kick()
        guest.run()
        assert len(driver.rings[0].taken()) == 16
        return guest.take_messages().count(1)


async def always(self: Ring, told: int, served: int) -> bool:
    return True


def test_without_the_event_index_each_chain_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    monkeypatch.setattr(Ring, "wants_interrupt", always)
    assert interrupts_of_a_batch(FEATURES, 15) == 16


def test_guest_that_notifies_only_when_it_was_asked_to_is_never_forgotten(guest: Guest) -> None:
    driver = VirtioDriver(guest, 4, queues=2).start()
    ring = driver.rings[0]
    ring.chain([0], [PLACE])
    notified = 0
    for steps in range(40):
        for each in (0, steps):
            for _ in range(each):
                guest.step()
            before = ring.added
            ring.offer(0)
            if ring.notify_at == before:
                notified += 1
                driver.kick()
        guest.run()
        assert len(ring.taken()) == 2
    assert notified < 80
    assert guest.errors == 0


def test_ring_wraps_and_so_does_its_index() -> None:
    with Guest(virtio_rng.Card) as guest:
        driver = VirtioDriver(guest, 8).start(Feature.VERSION_1)
        ring = driver.rings[0]
        ring.chain([3], [Piece(BUFFERS, 1)])
        function = guest.device.function
        assert isinstance(function, VirtioFunction)
        function._served[0] = function._told[0] = 0xFFF0
        ring.begin_at(0xFFF0)
        for _ in range(4):
            for _ in range(8):
                ring.offer(3)
            driver.kick()
            guest.run()
            assert ring.taken() == [(3, 1)] * 8
        assert ring.seen == 0x10
        assert guest.errors == 0


def test_reset_by_status_ends_what_is_under_way(guest: Guest) -> None:
    driver = VirtioDriver(guest, 4, queues=2)
    for steps in range(10):
        driver.start()
        driver.rings[0].chain([0, 1], [ABC, PLACE])
        driver.rings[0].offer(0)
        driver.kick()
        for _ in range(steps):
            guest.step()
        guest.write_bytes(0, 0x14, b"\0")
        assert (guest.device.jobs, guest.pin, driver.status) == ([], False, 0)
        guest.memory[USED : USED + 0x100] = bytes(0x100)
        guest.run()
        assert guest.memory[USED : USED + 0x100] == bytes(0x100)


@pytest.mark.parametrize("count", [1, 3])
def test_chain_is_given_back_once_wherever_the_device_is_migrated(guest: Guest, count: int) -> None:
    driver = VirtioDriver(guest, 4, queues=2)
    steps, ended = 0, False
    while not ended:
        ring = driver.start(Feature.VERSION_1).rings[0]
        offer_all(driver, count)
        driver.kick()
        for _ in range(steps):
            guest.step()
        taken, ended, steps = ring.taken(), not guest.device.jobs, steps + 1
        for head, _length in taken:  # the guest uses its buffer for something else
            guest.memory[PLACE.address + head : PLACE.address + head + 1] = b"x"
        guest.device.load(guest.device.save())
        guest.run()
        assert taken + ring.taken() == [(each, 0) for each in range(count)]
        assert guest.memory[PLACE.address : PLACE.address + count] == b"x" * len(taken) + bytes(count - len(taken))
        guest.memory[PLACE.address : PLACE.address + count] = bytes(count)
        assert driver.isr() == 1
        assert echo(guest).handled == count
    assert steps > 5 * count
    assert guest.errors == 0


Spoil = Callable[[VirtioDriver, RingDriver], object]
HOSTILE: dict[str, Spoil] = {
    "descriptor out of range": lambda driver, ring: ring.describe(0, BUFFERS, 8, WRITE | NEXT, 64).offer(0),
    "head out of range": lambda driver, ring: ring.offer(0xFFFF),
    "loop": lambda driver, ring: ring.describe(0, BUFFERS, 8, WRITE | NEXT, 0).offer(0),
    "write before read": lambda driver, ring: ring.chain([0, 1], [PLACE, ABC]).offer(0),
    "odd indirect table": lambda driver, ring: ring.describe(0, BUFFERS, 17, INDIRECT).offer(0),
    "unmapped buffer": lambda driver, ring: ring.describe(0, 1 << 40, 8, 0).offer(0),
    "buffer behind all memory": lambda driver, ring: ring.describe(0, (1 << 64) - 1, 8).offer(0),
    "unmapped descriptors": lambda driver, ring: area(driver, 0x20).offer(0),
    "unmapped available ring": lambda driver, ring: area(driver, 0x28),
    "unmapped used ring": lambda driver, ring: area(driver, 0x30).chain([0, 1], [ABC, PLACE]).offer(0),
    "too many chains": lambda driver, ring: ring.begin_at(5),
    "no size": lambda driver, ring: driver.guest.write_bytes(0, 0x18, b"\0\0"),
    "odd size": lambda driver, ring: driver.guest.write_bytes(0, 0x18, b"\3\0"),
    "larger than declared": lambda driver, ring: driver.guest.write_bytes(0, 0x18, b"\x20\0"),
    "reading more than there is": lambda driver, ring: ring.chain([0], [PLACE]).offer(0),
}


def area(driver: VirtioDriver, register: int) -> RingDriver:
    driver.guest.write_bytes(0, register, pack("<Q", 1 << 50))
    return driver.rings[1]


@pytest.mark.parametrize("spoil", HOSTILE.values(), ids=HOSTILE)
def test_hostile_ring_needs_a_reset_and_the_device_lives_on(guest: Guest, spoil: Spoil) -> None:
    driver = VirtioDriver(guest, 4, queues=2).start()
    guest.write_bytes(0, 0x16, b"\1\0")  # the second queue, whose method reads a byte at least
    spoil(driver, driver.rings[1])
    driver.kick(1)
    guest.run()
    assert guest.errors == 1
    assert driver.needs_reset
    assert driver.isr() == 2
    for queue in (0, 1):
        driver.kick(queue)
    guest.run()
    assert guest.errors == 1
    assert driver.start().ask(ABC, PLACE) == (0, 3)


def test_notification_of_a_queue_that_is_not_there_is_counted(guest: Guest) -> None:
    VirtioDriver(guest, 4, queues=2).start().kick(2)
    assert (guest.errors, guest.last_error) == (1, "queue 2: expected 0 to 1")


def test_queue_is_left_alone_before_driver_ok(guest: Guest) -> None:
    driver = VirtioDriver(guest, 4, queues=2).start()
    guest.write_bytes(0, 0x14, b"\x0b")
    driver.rings[0].begin_at(AVAILABLE)
    driver.kick()
    guest.run()
    assert guest.errors == 0


def test_saved_state_that_lies_is_an_error_of_the_guest(guest: Guest) -> None:
    driver, function = VirtioDriver(guest, 4, queues=2).start(), echo(guest)
    for queue in (-1, 2):
        function._serve(queue)
        guest.run()
    assert guest.errors == 2
    function._done[0], function._served[0], function._told[0] = (-1, 1 << 40), -3, 1 << 60
    driver.kick()
    guest.run()
    assert driver.start().ask(ABC, PLACE) == (0, 3)


def test_chain_gives_no_more_than_fits_into_memory(guest: Guest) -> None:
    driver = VirtioDriver(guest, 4, queues=2).start()
    guest.map(MiB, 256 * MiB)
    piece = Piece(MiB, 256 * MiB, 0)
    driver.rings[0].chain([0, 1], [piece, piece]).offer(0)
    driver.kick()
    guest.run()
    assert driver.needs_reset
    assert "536870912 bytes of a chain" in guest.last_error


def test_huge_length_costs_no_memory() -> None:
    with Guest(virtio_rng.Card) as guest:
        assert VirtioDriver(guest).start().ask(Piece(BUFFERS, 0xFFFF_FFFF)) == (0, 64)
        assert len(set(guest.memory[BUFFERS : BUFFERS + 64])) > 8


def test_device_with_two_queues_and_a_configuration_holds_what_all_must() -> None:
    check(Card)
