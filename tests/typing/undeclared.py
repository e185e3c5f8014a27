"""A mistake that type checkers take for a definition; it is found when the class is created."""

from mdev_user.driver import Function, PciId, Profile, Saved


class Counting(Function[Profile]):
    identity = PciId(vendor=1, device=2, class_code=0)
    tick = Saved(0)

    def count(self) -> None:
        self.ticks = 1  # mistake (import): undeclared state
