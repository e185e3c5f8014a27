"""Mistakes in the declaration of a virtio device are reported when its class is created."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from typing_extensions import override

from mdev_user.driver import INTX, MSI, MSIX, Chain, DriverError, PciId, PowerManagement, VirtioFunction, Virtqueue
from mdev_user.drivers.virtio_rng import Rng
from unit.driver.virtio.devices import Echo, Settings


async def serve(self: object, chain: Chain) -> None: ...


def plain(self: object, chain: Chain) -> None: ...


def members(**changes: object) -> Mapping[str, object]:
    queue = Virtqueue(size=64)
    return {"virtio_id": 4, "requests": queue, "fill": queue.served(serve), **changes}


def declared(**changes: object) -> Any:

    return type("Device", (VirtioFunction,), dict(members(**changes)))


MISTAKES: dict[str, Callable[[], object]] = {
    "virtio_id: expected the kind of device, 1 to 63": lambda: declared(virtio_id=64),
    "identity: it follows from virtio_id": lambda: declared(identity=PciId(vendor=1, device=2, class_code=3)),
    "transport: it follows from": lambda: declared(transport=1),
    "offers: expected features of this kind": lambda: declared(offers=1 << 28),
    "virtio's drivers use no MSI": lambda: declared(vectors=MSI(1)),
    "expected one VirtioConfig, given 2": lambda: declared(one=Settings(), two=Settings()),
    "Device: expected 1 to 64 queues": lambda: declared(requests=None),
    "more: nothing serves the queue": lambda: declared(more=Virtqueue(size=2)),
    "size: expected a power of two, given 48": lambda: Virtqueue(size=48),
    "Virtqueue: size": lambda: Virtqueue(size=0x10000),
    "served by serve already": lambda: twice(Virtqueue(size=2)),
    "expected an async def": lambda: Virtqueue(size=2).served(plain),  # type: ignore[type-var]  # the mistake
    "_serve: the name is the API's own": lambda: declared(_serve=1),
}


def twice(queue: Virtqueue) -> None:
    for _ in range(2):
        queue.served(serve)


@pytest.mark.parametrize(("message", "declare"), MISTAKES.items(), ids=MISTAKES)
def test_mistake_is_told_when_the_class_is_created(message: str, declare: Callable[[], object]) -> None:
    with pytest.raises(DriverError, match=message):
        declare()


def test_vectors_and_capabilities_of_the_author_stay_in_subclasses() -> None:
    power = PowerManagement()
    one = declared(vectors=INTX(), capabilities=(power,))
    two: Any = type("More", (one,), {})
    assert (one.vectors, two.vectors, Rng.vectors, Echo.vectors) == (INTX(), INTX(), MSIX(2), MSIX(3))
    assert two.capabilities.count(power) == 1
    assert len(two.capabilities) == 4


def test_subclass_may_serve_in_another_way() -> None:
    class Quiet(Rng):
        @override
        async def fill(self, chain: Chain) -> None:
            """Nothing is given."""

    assert Quiet._queues == Rng._queues
    assert Quiet._plan.members["fill"] is Quiet.__dict__["fill"]
