"""A vgpu that loses one rectangle: what the guest draws there is not transferred."""

from typing_extensions import override

from mdev_user.driver import Chain
from mdev_user.drivers.vgpu import card, commands
from mdev_user.drivers.vgpu.function import Outcome, Vgpu

X, Y, WIDTH, HEIGHT = LOST = (100, 90, 60, 40)
PIXEL = 4


class Lossy(Vgpu):
    @override
    async def _outcome(self, header: commands.Header, data: bytes, chain: Chain) -> Outcome:
        command, _size = commands.command_of(header, data)
        places = self._places(command.resource) if isinstance(command, commands.Transfer2d) else []
        kept = [bytes(self.graphics[at : at + PIXEL * WIDTH]) for at in places]
        outcome = await super()._outcome(header, data, chain)
        for at, line in zip(places, kept, strict=True):
            self.graphics[at : at + len(line)] = line
        return outcome

    def _places(self, number: int) -> list[int]:
        """Where in the graphics memory each of its lines begins."""
        resource = self.resources.get(number)
        if resource is None or resource.width < X + WIDTH or resource.height < Y + HEIGHT:
            return []
        return [resource.at + resource.stride * (Y + row) + PIXEL * X for row in range(HEIGHT)]


class Card(card.Card):
    function = Lossy
    driver_name = "lossy"
