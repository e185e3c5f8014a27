# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""The schema of a driver's state as a value for JSON: what a test compares with the one that was recorded.

A saved state has no types of its own: they follow from the declarations. A declaration that changes gives older states
another meaning, so that it needs a new ``state_version`` and an upgrade; one that is added does not, since what a
state does not have is as after a reset.
"""

from collections.abc import Iterator
from typing import Any, TypeAlias
from zlib import crc32

import msgspec

from mdev_user.driver.function import Function
from mdev_user.driver.parts import Parts
from mdev_user.driver.plan import Plan
from mdev_user.driver.saving.kinds import decoded, described
from mdev_user.driver.saving.snapshot import FORMAT
from mdev_user.driver.saving.state import bars_of, own_attributes, reserved_bits
from mdev_user.driver.state import Saved, Table

Schema: TypeAlias = dict[str, Any]  # Any: what JSON can say, for which mypy has no type


def schema_of(function: type[Function[Any, Any]]) -> Schema:  # Any: of whatever profile
    """All that a saved state of this class depends on."""
    plan = function._plan
    found: Schema = {
        "driver": function.__name__,
        "state_version": function.state_version,
        "format": FORMAT,
        "identity": repr(function.identity),
        "vectors": repr(function.vectors),
        "capabilities": [_capability(each) for each in function.capabilities],
        "interrupts": [each._name for each in plan.interrupts],
    }
    for name, value in _unit(plan):
        found[name] = value
    for parts in plan.of_kind(Parts):
        found[f"{parts._name}[]"] = f"{parts._kind.__name__} from bar {parts._bar}"
        found[f"{parts._name}[].interrupts"] = [each._name for each in parts._kind._plan.interrupts]
        for name, value in _unit(parts._kind._plan):
            found[f"{parts._name}[].{name}"] = value
    result: Schema = msgspec.to_builtins(found)
    return result


def differences(recorded: Schema, now: Schema) -> tuple[list[str], list[str]]:
    """What an older state means no more as it did, and what is new, in words."""
    changed = [
        f"{name}: {'gone' if name not in now else f'now {now[name]}'}, recorded {value}"
        for name, value in recorded.items()
        if now.get(name) != value and name != "state_version"
    ]
    return changed, [f"{name}: {value}" for name, value in now.items() if name not in recorded]


def _capability(each: object) -> str:
    """One of a profile has no text here: a config space takes over none but its own."""
    return f"by type: {getattr(each, '__name__', '')}" if callable(each) else repr(each)


def _unit(plan: Plan) -> Iterator[tuple[str, object]]:
    yield from _registers(plan)
    for each in plan.of_kind(Saved):
        yield each._name, {"type": each._kind.described, "initial": _shown(each._reset)}
    for table in plan.of_kind(Table):
        types = [table._key.described, table._value.described]
        yield table._name, {"table": types, "limit": table._limit}
    for attribute in own_attributes(plan):
        yield attribute._name, {"attribute": attribute._kind.described, "initial": _shown(attribute._reset)}
    for name, job in plan.jobs.items():
        parameters = {name: kind.described for name, kind in job._parameters.kinds.items()}
        yield f"{name}()", {"parameters": parameters, "limit": job._limit}
    for memory in plan.memories:
        yield memory._name, {"memory": memory._index, "offset": memory._offset}


def _registers(plan: Plan) -> Iterator[tuple[str, object]]:
    for name, bar in bars_of(plan):
        size = {"bar": bar._number, "size": bar._size, "io": bar._io, "wide": bar._wide}
        yield name, size
        counts: dict[str, int] = {}
        for slot in bar._layout.slots:
            counts[slot.path] = counts.get(slot.path, 0) + 1
        for slot in bar._layout.slots:
            path = f"{name}.{slot.path}"
            if not slot.element:
                yield path, {"bytes": slot.size, "reset": slot.reset, "count": counts[slot.path]}
                yield from _fields(path, slot.fields, reserved_bits(slot))


def _fields(path: str, fields: tuple[Any, ...], reserved: int) -> Iterator[tuple[str, object]]:  # Any: of all types
    for bits in fields:
        if bits.name and not reserved >> bits.lsb & 1:
            kind = bits.codec.decode
            yield f"{path}.{bits.name}", {"lsb": bits.lsb, "width": bits.width, "type": described(path, kind)}


def _shown(data: bytes) -> object:
    """An initial value as JSON can say it."""
    value = decoded(data)
    return f"{len(value)} bytes, CRC-32 {crc32(value):#x}" if isinstance(value, bytes) else msgspec.to_builtins(value)
