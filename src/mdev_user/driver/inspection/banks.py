# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""Banks in words: when a register is seen at its place."""

from mdev_user.regs.bar import Bar
from mdev_user.regs.refs import Ref
from mdev_user.regs.slots import Slot


def bank_of(bar: type[Bar], slot: Slot) -> str | None:
    """``lcr.dlab``, ``page == 0x2``; None for a register that is always there."""
    if slot.bank is None or slot.selected is None:
        return None
    path = bar._layout.slots[slot.selected.index].path
    return condition(f"{path}.{slot.bank.field}" if slot.bank.field else path, slot.bank)


def condition(name: str, ref: Ref[bool]) -> str:
    """What ``ref`` tests, the register or field being called ``name``."""
    if ref.wanted is not None:
        return f"{name} == {ref.wanted:#x}"
    return name if ref.width == 1 else f"{name} != 0"
