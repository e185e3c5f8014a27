"""Arity: whether a driver's method takes what it will be called with; seen when its class is created."""

from collections.abc import Callable
from inspect import Parameter, Signature, signature

from mdev_user.errors import DriverError


def check_arity(decorator: str, method: Callable[..., object], *passed: str) -> None:
    """DriverError unless ``method`` can be called with its object and then ``passed``, all by position."""
    has = signature(method)
    try:
        has.bind("self", *passed)
    except TypeError as error:
        name = method.__name__
        raise DriverError(
            f"{name}: {decorator}: expected def {name}({', '.join(('self', *passed))}), given def {name}{_shown(has)}"
        ) from error


def _shown(has: Signature) -> str:
    bare = [each.replace(annotation=Parameter.empty) for each in has.parameters.values()]
    return str(Signature(bare))
