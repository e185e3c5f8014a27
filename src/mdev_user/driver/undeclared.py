"""Finds state that a driver class keeps without declaring it.

No type checker sees ``self.scratch = 1`` in a method (it takes it for a definition), and state that nobody knows of is
lost when a device is saved. So the code of a class is read when the class is created.
"""

import dis
from collections.abc import Iterator
from types import CodeType, FunctionType

from mdev_user.driver.members import Member

_MUTABLE = (list, dict, set, bytearray)


def stores_to_self(member: object) -> Iterator[str]:
    """The names that a method, or what a decorator made of one, stores to the object that it is called with."""
    for method in (member, *vars(member).values()) if hasattr(member, "__dict__") else (member,):
        if isinstance(method, FunctionType) and method.__code__.co_argcount:
            yield from _stores(method.__code__, method.__code__.co_varnames[0])


def is_shared_state(member: object) -> bool:
    """Whether a value in a class body is state that all devices would share."""
    return isinstance(member, _MUTABLE)


def is_constant(member: object) -> bool:
    """Whether a value in a class body is plain: no declaration, no method, and nothing that takes what is set."""
    return not isinstance(member, Member) and not hasattr(member, "__get__") and not hasattr(member, "__set__")


def _stores(code: CodeType, owner: str) -> Iterator[str]:
    before: dis.Instruction | None = None
    for instruction in dis.get_instructions(code):
        if instruction.opname == "STORE_ATTR" and before is not None and _loads(before, owner):
            yield instruction.argval
        before = instruction
    for constant in code.co_consts:
        if isinstance(constant, CodeType) and owner in constant.co_freevars:
            yield from _stores(constant, owner)


def _loads(instruction: dis.Instruction, name: str) -> bool:
    """Whether the last thing that an instruction loads is that variable (newer Pythons load two at once)."""
    loaded = instruction.argval[-1] if isinstance(instruction.argval, tuple) else instruction.argval
    return instruction.opname.startswith(("LOAD_FAST", "LOAD_DEREF")) and loaded == name
