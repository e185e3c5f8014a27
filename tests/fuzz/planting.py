"""Planted faults: one line of one function is another one, in this process only, and under a name.

A plant is a text and what stands there instead, so that it reads as a change of the source does. One whose text is not
there (exactly once) is an error: a plant that does nothing would be found by nobody.
"""

import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from types import CodeType, FunctionType

Instrument = Callable[[CodeType], CodeType]


@dataclass(frozen=True)
class Plant:
    """A fault. ``where`` is ``module:Class.function``; ``target`` the one that is to find it."""

    name: str
    target: str
    where: str
    old: str
    new: str
    what: str


def function_of(where: str) -> FunctionType:
    module, _colon, path = where.partition(":")
    found: object = import_module(module)
    for name in path.split("."):
        found = inspect.getattr_static(found, name)
    return _plain(found)


def _plain(found: object) -> FunctionType:
    """Without what decorates it."""
    if isinstance(found, classmethod | staticmethod):
        found = found.__func__
    if isinstance(found, property):
        found = found.fget
    assert isinstance(found, FunctionType), f"{found!r} is no function"
    return found


def code_of(plant: Plant) -> CodeType:
    """The function's code with the fault in it."""
    function = function_of(plant.where)
    source = textwrap.dedent(inspect.getsource(function))
    count = source.count(plant.old)
    if count != 1:
        raise ValueError(f"plant {plant.name}: {plant.old!r} is {count} times in {plant.where}, expected once")
    made: dict[str, object] = {}
    changed = compile(source.replace(plant.old, plant.new), f"<{plant.name}>", "exec")
    exec(changed, function.__globals__, made)
    return _plain(made[function.__name__]).__code__


@contextmanager
def planted(plant: Plant, instrument: Instrument = lambda code: code) -> Iterator[None]:
    """The fault is there within."""
    uproot = plant_it(plant, instrument)
    try:
        yield
    finally:
        uproot()


def plant_it(plant: Plant, instrument: Instrument = lambda code: code) -> Callable[[], None]:
    """Returns what takes it away again."""
    function = function_of(plant.where)
    uproot = partial(setattr, function, "__code__", function.__code__)
    function.__code__ = instrument(code_of(plant))
    return uproot
