"""vgpu with a share that asks for no weight."""

from mdev_user.driver import Share
from mdev_user.drivers.vgpu import card, function


class Vgpu(function.Vgpu):
    drawing = Share(1)


class Card(card.Card):
    function = Vgpu
