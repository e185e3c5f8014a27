"""Chains that a device keeps and gives back later, in another order; saved, reset and lied about meanwhile."""

from collections.abc import Callable, Iterator

import pytest
from typing_extensions import override

from mdev_user.driver import (
    INTX,
    Chain,
    GuestError,
    KeptChain,
    Parent,
    Pool,
    Session,
    Table,
    VirtioFunction,
    Virtqueue,
    job,
)
from mdev_user.driver.virtio.ring import Feature
from mdev_user.testing import Guest, check
from unit.driver.virtio.devices import Slice
from unit.driver.virtio.ring_driver import BUFFERS, FEATURES, Piece, VirtioDriver

SIZE, ROOM = 8, 0x10
ORDERS = BUFFERS + 0x1000


class Keeper(VirtioFunction[Slice]):
    """Keeps what it is given, until the other queue names it by its first byte."""

    virtio_id, vectors = 42, INTX()
    asks, orders = Virtqueue(size=SIZE), Virtqueue(size=SIZE)
    names = Table[int, KeptChain](limit=2 * SIZE)

    @asks.served
    async def keep(self, chain: Chain) -> None:
        (name,) = await chain.read(1)
        await chain.write(b"<")
        self.names[name] = chain.keep()

    @orders.served
    async def answer(self, chain: Chain) -> None:
        for name in await chain.read(chain.readable):
            self.finish(name)

    @job(limit=SIZE)
    async def finish(self, name: int) -> None:
        if name not in self.names:
            raise GuestError(f"{name}: expected the name of a chain")
        chain = await self.asks.reopen(self.names[name])
        await chain.write(await chain.read(chain.readable) + b">")
        self.asks.give_back(chain)
        del self.names[name]


class Impatient(Keeper):
    """Gives a chain back as it was kept."""

    @override
    async def answer(self, chain: Chain) -> None:
        for name in await chain.read(chain.readable):
            self.asks.give_back(self.names.pop(name))


class Forgetful(Keeper):
    """The negative control: what it remembers of its chains is not saved."""

    names = Session(dict[int, KeptChain])  # type: ignore[assignment]  # the mistake


class Card(Parent[Slice]):
    function = Keeper
    units = Pool(4)
    types = {"one": Slice(units=1)}


class ForgetfulCard(Card):
    function = Forgetful


@pytest.fixture
def guest() -> Iterator[Guest]:
    with Guest(Card) as made:
        yield made


def keeper(guest: Guest) -> Keeper:
    function = guest.device.function
    assert isinstance(function, Keeper)
    return function


class Asking(VirtioDriver):
    """The guest: chains with a name and a text, and orders by name."""

    def __init__(self, guest: Guest) -> None:
        super().__init__(guest, SIZE, queues=2)

    def keep(self, name: bytes, slot: int) -> None:
        """Make a chain available whose head is ``2 * slot``: two bytes to read, the name first, and place."""
        at = BUFFERS + slot * ROOM
        self.guest.memory[at : at + ROOM] = name + name.upper() + bytes(ROOM - 2)
        self.rings[0].chain([2 * slot, 2 * slot + 1], [Piece(at, 2, 0), Piece(at + 2, ROOM - 2)]).offer(2 * slot)
        self.kick()

    def kept(self, name: bytes, slot: int) -> None:
        """The same, and the device has it."""
        self.keep(name, slot)
        self.guest.run()

    def order(self, names: bytes) -> None:
        self.guest.memory[ORDERS : ORDERS + len(names)] = names
        self.rings[1].chain([0], [Piece(ORDERS, len(names), 0)]).offer(0)
        self.kick(1)

    def text(self, slot: int) -> bytes:
        at = BUFFERS + slot * ROOM + 2
        return bytes(self.guest.memory[at : at + 4]).rstrip(b"\0")


def test_chains_come_back_in_the_order_in_which_they_are_given_back(guest: Guest) -> None:
    driver = Asking(guest)
    driver.start()
    for slot, name in enumerate((b"a", b"b", b"c")):
        driver.keep(name, slot)
    guest.run()
    assert (driver.rings[0].taken(), driver.isr(), [driver.text(each) for each in range(3)]) == ([], 0, [b"<"] * 3)
    assert keeper(guest).asks.kept == tuple(keeper(guest).names.values())
    driver.order(b"cab")
    guest.run()
    assert driver.rings[0].taken() == [(4, 3), (0, 3), (2, 3)]
    assert [driver.text(each) for each in range(3)] == [b"<A>", b"<B>", b"<C>"]
    assert (guest.errors, driver.isr(), keeper(guest).asks.kept) == (0, 1, ())


def test_queue_goes_on_while_chains_are_kept(guest: Guest) -> None:
    """Of four heads one is kept all the time, and both rings wrap more than once."""
    driver = Asking(guest)
    driver.start()
    driver.kept(b"a", 0)
    for turn in range(3 * SIZE):
        driver.kept(b"b", 1 + turn % 3)
        driver.order(b"b")
        guest.run()
        assert driver.rings[0].taken() == [(2 + 2 * (turn % 3), 3)]
    driver.order(b"a")
    guest.run()
    assert (driver.rings[0].taken(), guest.errors) == ([(0, 3)], 0)


def test_chain_is_given_back_as_it_was_kept() -> None:
    class ImpatientCard(Card):
        function = Impatient

    with Guest(ImpatientCard) as guest:
        driver = Asking(guest)
        driver.start()
        driver.kept(b"a", 0)
        driver.order(b"a")
        guest.run()
        assert (driver.rings[0].taken(), driver.text(0)) == ([(0, 1)], b"<")


@pytest.mark.parametrize("wake_at", [0, 1, 2])
def test_event_index_counts_what_comes_back(guest: Guest, wake_at: int) -> None:
    driver = Asking(guest)
    driver.start(FEATURES)
    driver.rings[0].wake_at(wake_at)
    for slot, name in enumerate((b"a", b"b")):
        driver.keep(name, slot)
    guest.run()
    interrupts = []
    for name in (b"b", b"a"):
        driver.order(name)
        guest.run()
        driver.rings[1].wake_at(0x8000)
        interrupts.append(driver.isr())
    assert interrupts == [1, int(wake_at == 1)]  # the first order of the other queue interrupts, too


def migrate(guest: Guest, steps: int) -> None:
    """After so many steps; and then run."""
    for _ in range(steps):
        guest.step()
    guest.device.load(guest.device.save())
    guest.run()


def given_back(card: type[Card], steps: int) -> list[list[tuple[int, int]]]:
    """What comes back of three chains when the device is migrated so often, each time after one more step."""
    found = []
    with Guest(card) as guest:
        driver = Asking(guest)
        for each in range(steps):
            driver.start(Feature.VERSION_1)
            for slot, name in enumerate((b"a", b"b", b"c")):
                driver.keep(name, slot)
            migrate(guest, each)
            driver.order(b"cb")
            migrate(guest, each)
            driver.order(b"a")
            migrate(guest, each)
            found.append(driver.rings[0].taken())
            if not guest.errors:
                assert ([driver.text(slot) for slot in range(3)], driver.isr()) == ([b"<A>", b"<B>", b"<C>"], 1)
    return found


def test_every_chain_comes_back_once_wherever_the_device_is_migrated() -> None:
    back = given_back(Card, 40)
    assert {tuple(sorted(each)) for each in back} == {((0, 3), (2, 3), (4, 3))}
    assert all(each[-1] == (0, 3) for each in back)


def test_chains_are_lost_with_what_a_device_forgets() -> None:
    """The negative control."""
    assert [] in given_back(ForgetfulCard, 3)


def test_reset_forgets_what_was_kept(guest: Guest) -> None:
    driver, function = Asking(guest), keeper(guest)
    for steps in range(8):
        driver.start()
        driver.kept(b"a", 0)
        (kept,) = function.asks.kept
        driver.order(b"a")
        for _ in range(steps):
            guest.step()
        driver.start()
        guest.run()
        assert (function.asks.kept, driver.rings[0].taken(), guest.errors) == ((), [], 0)
        with pytest.raises(GuestError, match="has not kept it"):
            function.asks.give_back(kept)
    driver.kept(b"a", 0)
    with pytest.raises(GuestError, match="queue 1 has not kept it"):
        function.orders.give_back(function.asks.kept[0])


def test_head_that_is_available_twice_needs_a_reset(guest: Guest) -> None:
    driver = Asking(guest)
    driver.start()
    driver.kept(b"a", 0)
    driver.rings[0].offer(0)
    driver.kick()
    guest.run()
    assert driver.needs_reset
    assert "chain 0 of queue 0 is available a second time" in guest.last_error


def test_head_that_is_available_twice_is_served_again_once_it_was_given_back(guest: Guest) -> None:
    driver, function = Asking(guest), keeper(guest)
    refused = []
    for steps in range(8):
        driver.start()
        driver.kept(b"a", 0)
        driver.rings[0].offer(0)
        driver.kick()
        for _ in range(steps):
            guest.step()
        if function.asks.kept:
            function.asks.give_back(function.asks.kept[0])
        guest.run()
        refused.append(driver.needs_reset)
        assert refused[-1] or (driver.rings[0].taken(), len(function.asks.kept)) == ([(0, 1)], 1)
    assert refused == sorted(refused)
    assert set(refused) == {False, True}


def test_no_more_is_kept_than_the_queue_has(guest: Guest) -> None:
    driver = Asking(guest)
    driver.start()
    for slot in range(SIZE // 2):
        driver.kept(bytes([slot]), slot)
    driver.rings[0].begin_at(SIZE + 1)
    driver.kick()
    guest.run()
    assert driver.needs_reset
    assert guest.last_error == "5 chains are available in a queue of 8, and 4 are kept"


LIES = {
    "shorter now": lambda driver, function: function._kept.update({(0, 0): (0, 1 << 40)}),
    "a loop": lambda driver, function: driver.rings[0].describe(0, BUFFERS, 1, 1, 0),
    "queue 0 has not kept it": lambda driver, function: function._kept.clear(),
}


@pytest.mark.parametrize(("message", "lie"), LIES.items(), ids=LIES)
def test_lie_about_what_was_kept_is_an_error_of_the_guest(
    guest: Guest, message: str, lie: Callable[[Asking, Keeper], object]
) -> None:
    driver = Asking(guest)
    driver.start()
    driver.kept(b"a", 0)
    lie(driver, keeper(guest))
    driver.order(b"a")
    guest.run()
    assert (guest.errors, driver.needs_reset) == (1, "kept it" not in message)
    assert message in guest.last_error


def test_state_that_lies_about_what_is_out_harms_its_guest_only(guest: Guest) -> None:
    driver, function = Asking(guest), keeper(guest)
    driver.start()
    for place in ((0, -1), (0, 1 << 40), (70, 1)):
        function._returned[place] = -5
    function._out[0], function._served[0] = -(1 << 63), 1 << 63
    driver.kept(b"a", 0)
    driver.start()
    driver.kept(b"a", 0)
    driver.order(b"a")
    guest.run()
    assert driver.rings[0].taken() == [(0, 3)]


def test_device_that_keeps_chains_holds_what_all_must() -> None:
    check(Card, examples=10)
