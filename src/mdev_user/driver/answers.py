"""Answers: what the methods of a `Program` say that they answer, and what checks that they did."""

from collections.abc import Callable
from inspect import isfunction
from typing import cast, get_args, get_origin, get_type_hints

import msgspec

from mdev_user.driver.members import declarations
from mdev_user.driver.program import Pending, Program
from mdev_user.errors import DriverError
from mdev_user.vfio.programs import Decoder


def answers_of(program: type[Program]) -> dict[str, Decoder]:
    """What checks the answers of the methods that can be called; DriverError for one that does not say its type."""
    ours = declarations(Program)
    return {
        name: _decoder(f"{program.__name__}.{name}", member)
        for name, member in declarations(program).items()
        if not name.startswith("_") and isfunction(member) and name not in ours
    }


def _decoder(what: str, method: Callable[..., object]) -> Decoder:
    try:
        hints = get_type_hints(method)
    except (NameError, TypeError, AttributeError) as error:
        raise DriverError(f"{what}: {error}: the types of answers are needed at run time") from error
    if "return" not in hints:
        raise DriverError(f"{what}: its answer is checked: say of which type it is, or begin its name with _")
    answer = hints["return"]
    if get_origin(answer) is Pending:
        (answer,) = get_args(answer)
    try:
        decoder = msgspec.msgpack.Decoder(answer)
    except TypeError as error:
        raise DriverError(f"{what}: its answer cannot travel: {error}") from error
    return cast("Decoder", decoder.decode)
