# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""VirtioFunction: a virtio device of an author's, of which he declares queues and says what is done with a chain."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias, TypeVar

from typing_extensions import override

from mdev_user.driver.backend import B
from mdev_user.driver.function import Function
from mdev_user.driver.hooks import on_read, on_write
from mdev_user.driver.interrupts import INTX, MSI, MSIX, Message, Sender
from mdev_user.driver.jobs import worker
from mdev_user.driver.members import declarations, of_kind
from mdev_user.driver.pools import Profile
from mdev_user.driver.state import MOST_ENTRIES, Saved, Session, Table
from mdev_user.driver.virtio.chain import Chain, KeptChain
from mdev_user.driver.virtio.queue import MOST_QUEUES, Virtqueue, check_queues
from mdev_user.driver.virtio.ring import INDEXES, STRETCH, Feature, Ring
from mdev_user.driver.virtio.transport import (
    CONFIG_INTERRUPT,
    DRIVER_OK,
    NEEDS_RESET,
    NO_VECTOR,
    QUEUE_INTERRUPT,
    QueueRegisters,
    Status,
    Transport,
    VirtioConfig,
    identity_of,
    queue_registers,
    structures,
    transport_of,
)
from mdev_user.errors import DriverError, GuestError, StateError
from mdev_user.pci.capabilities import Capability

P = TypeVar("P", bound=Profile)

_TRANSPORT = int(Feature.VERSION_1 | Feature.RING_INDIRECT_DESC | Feature.RING_EVENT_IDX)
_OWN_FEATURES = (1 << 24) - 1 | ((1 << 64) - (1 << 50))
"""The bits of which the kind of device says what they mean (section 2.2)."""


_LOW = (1 << 32) - 1
_BATCH, _CHAIN = STRETCH, 4
"""Descriptors of a queue that are served until others have their turn; and as how many each chain counts at least."""
_DERIVED = ("_queues", "_registers", "_own_capabilities", "_own_vectors")


class VirtioFunction(Function[P, B]):
    """Subclass it as a `Function`; declare ``virtio_id``, the `Virtqueue`s, and what serves them.

    ``identity``, ``transport`` (BAR 0), the capabilities and ``vectors`` follow: MSI-X with a vector for each queue and
    one for the configuration, unless ``vectors = INTX()``. A `VirtioConfig` is the device configuration, in BAR 2.
    ``offers`` are the features of this kind of device; the transport's are VERSION_1, RING_INDIRECT_DESC and
    RING_EVENT_IDX.

    A ring that lies is a guest's error: counted, and the device's status has NEEDS_RESET until the guest resets it.
    Nothing is saved of a queue but how far it was served, and which chains the driver has kept (`Chain.keep`); so a
    device is saved at any time, a chain in work included (`Virtqueue.served`).
    """

    _overridable = Function._overridable | {"virtio_id", "offers", "features", *_DERIVED}

    virtio_id: ClassVar[int]
    """The kind of device (section 5): 4 is an entropy source."""
    offers: ClassVar[int] = 0
    """Features of this kind of device, bits 0 to 23 and 50 to 63: an IntFlag, say. See `features`."""

    transport: Transport
    negotiated = Saved(0)
    """The features that the guest accepted, from FEATURES_OK on."""

    _served = Table[int, int](limit=MOST_QUEUES)
    """By queue, the index of the first chain that was not looked at, or is served."""
    _told = Table[int, int](limit=MOST_QUEUES)
    """By queue, the index of the first chain that the guest does not know of."""
    _done = Table[int, tuple[int, int]](limit=MOST_QUEUES)
    """By queue, the head of the chain that was served last and is not in the used ring yet, and the bytes written."""
    _kept = Table[tuple[int, int], tuple[int, int]](limit=MOST_ENTRIES)
    """By queue and head, the chains that are kept: how many bytes were read and written."""
    _returned = Table[tuple[int, int], int](limit=MOST_ENTRIES)
    """By queue and head, those that were given back and are not in the used ring yet: the bytes written."""
    _out = Table[int, int](limit=MOST_QUEUES)
    """By queue, how many are in these two; so many fewer are in the used ring than were served."""
    _rings = Session[dict[int, tuple[tuple[int, ...], Ring]]](dict)
    """By queue, what it was when it was last looked up, with the registers that say so."""
    _here = Session[list[int]](list)
    """The features that this device offers, once they were asked for."""
    _signal: Sender
    _queues: ClassVar[Sequence[Virtqueue]] = ()
    _registers: ClassVar[Sequence[QueueRegisters]] = ()
    # Any: as in Function, the profile is the driver's own class.
    _own_capabilities: ClassVar[Sequence[Capability | Callable[[Any], Capability]]] = ()
    _own_vectors: ClassVar[INTX | MSI | MSIX | None] = None

    @override
    def __init_subclass__(cls) -> None:
        own = vars(cls)
        for taken in ("identity", "transport"):
            if taken in own:
                raise DriverError(f"{cls.__name__}.{taken}: it follows from virtio_id and the queues; take it out")
        members = declarations(cls)
        cls._queues = tuple(queue for _name, queue in of_kind(members, Virtqueue))
        check_queues(cls.__name__, list(cls._queues))
        cls.identity = identity_of(cls.__name__, getattr(cls, "virtio_id", None))
        offered = _offered(cls.__name__, cls.offers)
        cls._own_capabilities = own.get("capabilities", cls._own_capabilities)
        cls.capabilities = (*structures(_config(cls.__name__, members)), *cls._own_capabilities)
        cls._own_vectors = own.get("vectors", cls._own_vectors)
        cls.vectors = _vectors(cls.__name__, cls._own_vectors, len(cls._queues))
        bar = transport_of(offered, cls._queues)
        cls._registers = tuple(queue_registers(bar, number) for number in range(len(cls._queues)))
        made = {"transport": bar(), "_signal": Message(pin=bar.isr.any), **_hooks(bar, cls._queues)}
        for name, member in made.items():
            setattr(cls, name, member)
            if hasattr(member, "__set_name__"):
                member.__set_name__(cls, name)
        super().__init_subclass__()

    def config_changed(self) -> None:
        """What a guest reads in the device configuration has changed: it is told, once it uses the device."""
        regs = self.transport
        regs.config_generation = (regs.config_generation + 1) % 0x100
        if regs.status.driver_ok:
            self._interrupt(CONFIG_INTERRUPT, regs.config_vector)

    def features(self) -> int:
        """What this device offers of ``offers``: all of them, unless overridden, for what an operator's attribute says.

        Asked once after each open, reset and load, when it is first needed. A guest that takes more is refused, and so
        is a saved state whose guest took more (StateError).
        """
        return type(self).offers

    # --- the common configuration ---------------------------------------------------------------------------

    def _offers_now(self) -> int:
        return _offered(type(self).__name__, self.features(), type(self).offers)

    def _features(self) -> int:
        """What this device offers until its next reset."""
        if not self._here:
            self._here.append(self._offers_now())
        return self._here[0]

    @override
    def _check_state(self, state: Mapping[str, object]) -> None:
        negotiated: int = state["negotiated"]  # type: ignore[assignment]  # each is of its own type
        if missing := negotiated & ~self._offers_now():
            raise StateError(f"the saved device's guest uses features that this one does not offer: {missing:#x}")

    def _set_status(self, written: Status) -> None:
        status = self.transport.status
        if not int(written):
            self.reset_device()
        elif not status.features_ok:
            self.negotiated, status.driver_ok = 0, False
        elif not self.negotiated:
            self._negotiate()

    def _negotiate(self) -> None:
        """Accept the guest's features, or take FEATURES_OK back (section 3.1.1)."""
        regs = self.transport
        features = regs.driver_features_high << 32 | regs.driver_features_low
        if features & Feature.VERSION_1 and not features & ~self._features():
            self.negotiated = features
        else:
            regs.status.features_ok = regs.status.driver_ok = False

    def _granted(self, vector: int) -> int:
        """The vector that a guest asked for, or none where there is no such."""
        vectors = type(self).vectors
        return vector if isinstance(vectors, MSIX) and vector < vectors.vectors else NO_VECTOR

    def _interrupt(self, cause: int, vector: int) -> None:
        self.transport.isr |= cause
        if vector != NO_VECTOR:
            self._signal.send(vector)

    # --- the queues -----------------------------------------------------------------------------------------

    def _notified(self, queue: int) -> None:
        self._check_queue(queue)
        self._serve(queue)

    def _check_queue(self, queue: int) -> None:
        if not 0 <= queue < len(self._queues):
            raise GuestError(f"queue {queue}: expected 0 to {len(self._queues) - 1}")

    @worker(limit=MOST_QUEUES)
    async def _serve(self, queue: int) -> None:
        self._check_queue(queue)  # a job of a saved state, perhaps
        try:
            heads: list[int] = []
            done = 0
            while done < _BATCH:
                ring = self._ring(queue)
                if ring is None or not (some := await self._advance(queue, ring, heads)):
                    return
                done += some
        except GuestError:
            self._give_up()
            raise
        self._serve(queue)  # once more, behind what else is to be done: DMA alone need not wait, nor a ring have an end

    async def _advance(self, queue: int, ring: Ring, heads: list[int]) -> int:
        """Serve the next chain, or what is left to do of one. Returns how much that is of a batch; 0: there was none.

        ``heads`` has the next ones as far as they are known.
        """
        some, served, out = _CHAIN, self._served.get(queue, 0), self._out.get(queue, 0)
        used = (served - out) % INDEXES
        if queue not in self._done:
            if out and (place := self._next_returned(queue)) is not None:
                await self._return(queue, ring, used, place)
                return some
            await self._tell(queue, ring, used)
            if not heads and (waiting := await self._waiting(ring, served, out)):
                heads += await ring.heads(served, min(waiting, _BATCH // _CHAIN))
            if not heads:
                return 0
            some = await self._handle(queue, ring, served, heads.pop(0))
        if queue in self._done:
            await self._give_back(queue, ring, used)
        return some

    async def _handle(self, queue: int, ring: Ring, served: int, head: int) -> int:
        """Let the author's method serve a chain; that it did is known from its last step on. Returns as `_advance`."""
        serving: Callable[[Chain], Any] = getattr(self, self._queues[queue]._serving)  # Any: a coroutine
        place = queue, head
        if self._out and (place in self._kept or place in self._returned):
            raise GuestError(f"chain {head} of queue {queue} is available a second time: the device has it")
        buffers = await ring.buffers(head)
        some = max(_CHAIN, buffers.count)
        chain = Chain(self.dma, buffers, KeptChain(queue, head))
        await serving(chain)
        if not self.transport.status.driver_ok:  # it has reset the device
            return some
        if chain._is_kept:
            self._kept[place] = chain._places
            self._out[queue] = (self._out.get(queue, 0) + 1) % INDEXES
            self._served[queue] = (served + 1) % INDEXES
        else:
            self._done[queue] = head, chain.written
        return some

    async def _give_back(self, queue: int, ring: Ring, used: int) -> None:
        """Put the chain that was served into the used ring, where the guest does not look yet."""
        await ring.put_used(used, *self._done[queue])
        del self._done[queue]
        self._served[queue] = (self._served.get(queue, 0) + 1) % INDEXES

    def _next_returned(self, queue: int) -> tuple[int, int] | None:
        """Of those that were given back the first, so that one that was begun with is gone on with elsewhere."""
        return next((place for place in self._returned if place[0] == queue), None)

    async def _return(self, queue: int, ring: Ring, used: int, place: tuple[int, int]) -> None:
        """As `_give_back`, for a chain that was kept."""
        await ring.put_used(used, place[1], self._returned[place])
        del self._returned[place]
        self._out[queue] = (self._out[queue] - 1) % INDEXES

    def _ring(self, queue: int) -> Ring | None:
        """The queue, while the device may use it; looked up for each chain, since a guest may change it at any time."""
        found = self._registers[queue].ring(self.transport._values)
        known = self._rings.get(queue)
        if known is not None and known[0] == found and known[1].features == self.negotiated:
            return known[1]
        status, enable, size, descriptors, available, used = found
        if status & (DRIVER_OK | NEEDS_RESET) != DRIVER_OK or not enable & 1:
            return None
        ring = Ring(self.dma, size, descriptors, available, used, self.negotiated)
        ring.check()
        if ring.size > (most := self._queues[queue]._size):
            raise GuestError(f"queue {queue} of {ring.size}: expected at most {most}")
        self._rings[queue] = found, ring
        return ring

    async def _tell(self, queue: int, ring: Ring, used: int) -> None:
        """Let the guest know what is in the used ring. A migrated device may do it twice, which does no harm."""
        told = self._told.get(queue, 0)
        if told == used:
            return
        await ring.publish(used)
        wanted = await ring.wants_interrupt(told, used)
        self._told[queue] = used
        if wanted:
            self._interrupt(QUEUE_INTERRUPT, self.transport._values[self._registers[queue].vector])

    async def _waiting(self, ring: Ring, served: int, out: int) -> int:
        """How many chains wait. Where there is none the guest is asked to notify, and may have just added one."""
        if waiting := await ring.waiting(served, out):
            return waiting
        await ring.ask_for_notification(served)
        return await ring.waiting(served, out)

    def _give_up(self) -> None:
        """Section 2.1.2: a device that cannot go on says so, by the configuration's interrupt."""
        status = self.transport.status
        if not status.needs_reset:
            status.needs_reset = True
            self._interrupt(CONFIG_INTERRUPT, self.transport.config_vector)


AnyVirtio: TypeAlias = VirtioFunction[Any, Any]  # Any: of whatever profile and backend


def _hooks(bar: type[Transport], queues: Sequence[Virtqueue]) -> dict[str, Callable[..., object]]:
    """What happens when a guest accesses the registers of this BAR."""

    @on_write(bar.status)
    def set_status(self: AnyVirtio, written: Status) -> None:
        self._set_status(written)

    @on_write(bar.config_vector)
    def set_config_vector(self: AnyVirtio, vector: int) -> None:
        self.transport.config_vector = self._granted(vector)

    @on_write(bar.notify)
    def notified(self: AnyVirtio, queue: int) -> None:
        self._notified(queue)

    def features_low(self: AnyVirtio) -> int:
        return self._features() & _LOW

    def features_high(self: AnyVirtio) -> int:
        return self._features() >> 32

    for half in (features_low, features_high):
        on_read(getattr(bar, f"device_{half.__name__}"))(half)

    hooks: dict[str, Callable[..., object]] = {
        f"_on_{each.__name__}": each for each in (set_status, set_config_vector, notified, features_low, features_high)
    }
    for number, _queue in enumerate(queues):
        hooks[f"_on_queue{number}_vector"] = _vector_hook(bar, f"queue{number}_vector")
    return hooks


def _vector_hook(bar: type[Transport], register: str) -> Callable[..., None]:
    @on_write(getattr(bar, register))
    def set_vector(self: AnyVirtio, vector: int) -> None:
        setattr(self.transport, register, self._granted(vector))

    return set_vector


def _offered(owner: str, offers: object, most: int = _OWN_FEATURES) -> int:
    """With the transport's."""
    if not isinstance(offers, int) or offers & ~_OWN_FEATURES:
        raise DriverError(
            f"{owner}.offers: expected features of this kind of device, bits 0 to 23 and 50 to 63, given {offers!r}"
        )
    if offers & ~most:
        raise DriverError(f"{owner}.features(): expected some of {owner}.offers, {most:#x}, given {offers!r}")
    return int(offers) | _TRANSPORT


def _config(owner: str, members: dict[str, object]) -> type[VirtioConfig] | None:
    found = [type(each) for _name, each in of_kind(members, VirtioConfig)]
    if len(found) > 1:
        raise DriverError(f"{owner}: expected one VirtioConfig, given {len(found)}")
    return found[0] if found else None


def _vectors(owner: str, asked: object, queues: int) -> INTX | MSIX:
    if asked is None:
        return MSIX(queues + 1)
    if not isinstance(asked, INTX | MSIX):
        raise DriverError(f"{owner}.vectors: expected MSIX(n) or INTX(): virtio's drivers use no MSI; given {asked!r}")
    return asked
