# ruff: noqa: SLF001 - declarations know each other's underscored names
"""A finding as a Python script that shows it, in the names of the driver."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

from mdev_user.driver.parent import Parent
from mdev_user.regs.bar import Bar
from mdev_user.regs.slots import Slot
from mdev_user.testing.conformance.operations import (
    TICKS,
    Advance,
    Copy,
    Finding,
    Listen,
    MappedWrite,
    Operation,
    Poke,
    Read,
    Reopen,
    Reset,
    Run,
    Setting,
    Show,
    Step,
    Store,
    Write,
)
from mdev_user.testing.conformance.options import values_of
from mdev_user.testing.conformance.player import Player
from mdev_user.testing.conformance.zygote import source_of
from mdev_user.vfio.requests import Region

_AnyParent: TypeAlias = type[Parent[Any, Any]]  # Any: of whatever profile

_LISTEN = ("guest.enable_intx()", "guest.enable_msi()", "guest.enable_msix()")
_OURS = "mdev_user_parent_"
"""How the module of a file begins that was loaded by its path."""


class Names:
    """What the registers of a driver are called."""

    def __init__(self, parent: _AnyParent, setting: Setting) -> None:
        self.parent, self.setting = parent, setting
        self.imports = {parent.__module__: {parent.__qualname__}}
        self._bars = {place.bar + bar._number: (place, type(bar)) for place, bar in Player(parent, setting).bars()}

    def register(self, region: int, offset: int, size: int, *, read: bool) -> tuple[str, str, str]:
        """Who is asked (``guest``), the register's name, and what follows for an element; empty without a name."""
        place, bar = self._bars.get(region, (None, None))
        if place is None or bar is None or not self._import(bar):
            return "guest", "", ""
        for slot in bar._layout.slots:
            concerned = slot.masks.reads if read else slot.masks.writes
            if (slot.offset, slot.size) == (offset, size) and slot.bank is None and concerned:
                return _asked(place.name), f"{bar.__name__}.{slot.path}", _element(slot)
        return "guest", "", ""

    def _import(self, bar: type[Bar]) -> bool:
        """Whether the class can be imported by its name."""
        if getattr(sys.modules.get(bar.__module__), bar.__name__, None) is not bar:
            return False
        known = {name for module, names in self.imports.items() if module != bar.__module__ for name in names}
        if bar.__name__ in known:
            return False
        self.imports.setdefault(bar.__module__, set()).add(bar.__name__)
        return True


def script(parent: _AnyParent, setting: Setting, finding: Finding) -> str:
    """Run it to see what was found."""
    names = Names(parent, setting)
    made = f'{parent.__qualname__}, "{setting.type_name}"'
    if finding.after is None:
        body = [f"with Guest({made}{_options(names)}) as guest:", *_indented(lines(names, finding.before))]
        ours = "from mdev_user.testing import Guest"
    else:
        before, after = (
            lines(names, finding.before),
            [f"yield {line}" for line in lines(names, finding.after, each=True)],
        )
        body = [
            "def before(guest: Guest) -> None:", *_indented(before), "", "",
            "def after(guest: Guest) -> Iterator[object]:", *_indented([*after, "yield None"]), "", "",
            f"both_ways({made}, before, after{f', {setting.options}' if setting.options else ''})",
        ]  # fmt: skip
        ours = "from collections.abc import Iterator\n\nfrom mdev_user.testing import Guest, both_ways"
    return "\n".join([ours, *_imports(names), "", *([""] if finding.after is not None else []), *body])


def lines(names: Names, operations: Iterable[Operation], *, each: bool = False) -> list[str]:
    """A statement for each operation; ``each``: that is an expression too."""
    return [line for operation in operations for line in _LINES[type(operation)](names, operation, each)]


def _read(names: Names, read: Read, _each: bool) -> list[str]:  # noqa: FBT001 - a table's column
    if read.region == Region.CONFIG:
        return [f"guest.read_config({read.offset:#04x}, {read.count})"]
    who, name, element = names.register(read.region, read.offset, read.count, read=True)
    if name:
        return [f"{who}.read({name}{element})"]
    return [f"guest.read_bytes({read.region}, {read.offset:#x}, {read.count})"]


def _write(names: Names, write: Write, _each: bool) -> list[str]:  # noqa: FBT001 - as above
    if write.region == Region.CONFIG:
        return [f"guest.write_config({write.offset:#04x}, {write.data!r})"]
    who, name, element = names.register(write.region, write.offset, len(write.data), read=False)
    if name:
        value = int.from_bytes(write.data, "little")
        return [f"{who}.write({name}, {value if value < 10 else hex(value)}{element})"]
    return [f"guest.write_bytes({write.region}, {write.offset:#x}, {write.data!r})"]


def _poke(_names: Names, poke: Poke, each: bool) -> list[str]:  # noqa: FBT001 - as above
    if each:
        return [f"guest.memory.write({poke.address:#x}, {poke.data!r})"]
    return [f"guest.memory[{poke.address:#x} : {poke.address + len(poke.data):#x}] = {poke.data!r}"]


def _reopen(_names: Names, _reopen: Reopen, each: bool) -> list[str]:  # noqa: FBT001 - as above
    return ["(guest.close(), guest.open())"] if each else ["guest.close()", "guest.open()"]


_LINES: dict[type, Callable[[Names, Any, bool], list[str]]] = {  # Any: the kind that stands before it
    Read: _read,
    Write: _write,
    Step: lambda _names, step, _each: ["guest.step()"] * step.count,
    Run: lambda _names, _run, _each: ["guest.run()"],
    Advance: lambda _names, advance, _each: [f"guest.advance({advance.ticks / TICKS!r})"],
    Reset: lambda _names, _reset, _each: ["guest.reset()"],
    Reopen: _reopen,
    Store: lambda _names, store, _each: [f'guest.store("{store.name}", {store.text!r})'],
    Show: lambda _names, show, _each: [f'guest.show("{show.name}")'],
    Poke: _poke,
    Listen: lambda _names, listen, _each: [_LISTEN[listen.kind]],
    MappedWrite: lambda _names, write, _each: [
        f"guest.write_mapped({write.region}, {write.offset:#x}, {write.data!r})"
    ],
    Copy: lambda _names, copy, _each: [f"guest.copy({copy.most})"],
}


def _asked(place: str) -> str:
    family, _bracket, index = place.removesuffix("]").partition("[")
    return f'guest.part("{family}", {index})' if place else "guest"


def _element(slot: Slot) -> str:
    return "" if slot.element is None else f", element={slot.element}"


def _imports(names: Names) -> list[str]:
    found: list[str] = []
    for module, wanted in sorted(names.imports.items()):
        name, file = module, source_of(module)
        if file and (module.startswith(_OURS) or module == "__main__"):
            found[:0] = ["import sys", "", f"sys.path.insert(0, {str(Path(file).resolve().parent)!r})"]
            name = Path(file).stem
        found.append(f"from {name} import {', '.join(sorted(wanted))}")
    return found


def _options(names: Names) -> str:
    """The parent's, as a guest takes them: values."""
    values = values_of(names.parent, names.setting.options)
    return "".join(f", {name}={_value(names, value)}" for name, value in values.items())


def _value(names: Names, value: object) -> str:
    if not isinstance(value, Path):
        return repr(value)
    names.imports.setdefault("pathlib", set()).add("Path")
    return f"Path({str(value)!r})"


def _indented(statements: list[str]) -> list[str]:
    return [f"    {each}" for each in statements or ["pass"]]
