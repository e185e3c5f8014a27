"""The shipped virtio-rng with no more than its pin: INTx."""

from mdev_user.driver import INTX
from mdev_user.drivers import virtio_rng


class Pinned(virtio_rng.Rng):
    vectors = INTX()


class Card(virtio_rng.Card):
    function = Pinned
    driver_name = "pinned-rng"
