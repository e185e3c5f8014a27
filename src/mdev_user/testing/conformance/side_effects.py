# ruff: noqa: SLF001 - declarations know each other's underscored names
"""What changes nothing: reads of registers that are neither cleared nor computed by it, and copies of the state."""

from mdev_user.driver.hooks import marks_of
from mdev_user.driver.members import declarations
from mdev_user.regs.kinds import RC
from mdev_user.testing.conformance.operations import Copy, Operation, Read
from mdev_user.testing.conformance.player import Broken, Player
from mdev_user.vfio.requests import Region


class QuietReads:
    """Compares a device before and after each of them."""

    def __init__(self, player: Player) -> None:
        self._player = player
        self._loud: dict[int, list[tuple[int, int]]] = {}
        """By region: where registers are that a read may change, first byte and end."""
        for place, bar in player.bars():
            computed = _computed(place.kind, type(bar))
            self._loud[place.bar + bar._number] = [
                (slot.offset, slot.end)
                for slot in bar._layout.slots
                if slot.path in computed or any(field.access is RC for field in slot.fields)
            ]

    def before(self, operation: Operation) -> bytes:
        """The device's state, if the operation must not change it."""
        return self._player.guest.device.save() if self._is_quiet(operation) else b""

    def after(self, operation: Operation, before: bytes) -> None:
        """`Broken` when it has."""
        if before and self._player.guest.device.save() != before:
            why = "" if isinstance(operation, Copy) else "; no register there is declared RC or has an on_read"
            raise Broken(f"{operation} changed the device's state{why}")

    def _is_quiet(self, operation: Operation) -> bool:
        if not isinstance(operation, Read):
            return isinstance(operation, Copy)
        if operation.region > Region.CONFIG and operation.region not in self._loud:
            return False
        end = operation.offset + operation.count
        loud = self._loud.get(operation.region, ())
        return not any(operation.offset < stop and at < end for at, stop in loud)


def _computed(unit: type, bar: type) -> set[str]:
    """The registers that methods compute, by path."""
    marks = [mark for member in declarations(unit).values() if callable(member) for mark in marks_of(member)]
    return {
        mark.place.place.path for mark in marks if mark.decorator.startswith("on_read") and mark.place.place.bar is bar
    }
