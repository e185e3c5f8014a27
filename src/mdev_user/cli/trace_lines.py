"""A line of a trace, for people: one line whatever a guest or a driver put into it."""

from collections.abc import Callable, Iterator
from datetime import datetime

from mdev_user.cli.register_values import region_name, shown_field
from mdev_user.vfio.inspection import Change, Decoded, TouchedRegister, TraceLine

_WIDEST = 8
"""Bytes that are read as one number."""


def shown(line: TraceLine) -> str:
    """``12:00:01.123456 w regs.enable = 0x00000001 (done=1 fault=0)``."""
    when = datetime.fromtimestamp(line.time).astimezone().strftime("%H:%M:%S.%f")
    text = _TEXTS[line.kind](line) if line.kind in _TEXTS else line.kind
    return f"{when} {text}".replace("\n", "\\n")


def _access(line: TraceLine) -> str:
    decoded = line.decoded or Decoded()
    parts = [", ".join(map(_register, decoded.registers)) or _undecoded(line), *_remarks(line, decoded)]
    effects = (("; ", decoded.changes), ("; before it ", decoded.meanwhile))
    told = "".join(word + ", ".join(map(_change, changes)) for word, changes in effects if changes)
    return f"{line.kind[0]} {' '.join(parts)}{told}"


def _remarks(line: TraceLine, decoded: Decoded) -> Iterator[str]:
    if decoded.unmodelled:
        yield "[unmodelled]"
    if decoded.left_out:
        yield f"[of {line.size} bytes]"
    if line.interrupts:
        yield f"[{_counted(line.interrupts, 'interrupt')}]"
    if line.text:
        yield f"[refused: {line.text}]"


def _register(register: TouchedRegister) -> str:
    name = register.name + (f"+{register.skipped}" if register.skipped else "")
    fields = " ".join(map(shown_field, register.fields))
    return f"{name} = 0x{register.value:0{2 * register.size}x}" + (f" ({fields})" if fields else "")


def _undecoded(line: TraceLine) -> str:
    place = f"{region_name(line.region)}+{line.offset:#05x}"
    data = bytes.fromhex(line.data)
    if not data:
        return f"{place}, {_counted(line.size, 'byte')}"
    if line.size <= _WIDEST:
        return f"{place} = 0x{int.from_bytes(data, 'little'):0{2 * line.size}x}"
    more = "" if line.size == len(data) else f"... ({line.size} bytes)"
    return f"{place} = {data.hex(' ')}{more}"


def _change(change: Change) -> str:
    return f"{change.name} {change.old} -> {change.new}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


_TEXTS: dict[str, Callable[[TraceLine], str]] = {
    "read": _access,
    "write": _access,
    "job": lambda line: f"job {line.text} is started",
    "interrupt": lambda line: _counted(line.count, "interrupt"),
    "opened": lambda line: f"opened by {line.text}",
    "closed": lambda line: f"closed by {line.text}",
    "lost": lambda line: f"{_counted(line.count, 'line')} lost: they were read too slowly",
}
