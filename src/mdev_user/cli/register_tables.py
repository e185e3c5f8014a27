"""A register map as Markdown: what a function is, a table for each BAR, and its interrupts."""

from collections.abc import Iterator, Mapping, Sequence

from mdev_user.driver.inspection.register_map import (
    BarInfo,
    FieldInfo,
    InterruptInfo,
    MemoryInfo,
    RegisterInfo,
    RegisterMap,
)
from mdev_user.driver.pools import shown

_COLUMNS = ("Offset", "Size", "Name", "Access", "Reset", "Fields", "What it is for")


def tables(found: RegisterMap) -> str:
    """The document, without a newline at its end."""
    parts = [f"# {found.function}", *_paragraph(found.about), _identity(found)]
    for bar in found.bars:
        parts += _bar(bar)
    if found.interrupts:
        parts += ["## Interrupts", _interrupts(found.interrupts)]
    return "\n\n".join(parts)


def _identity(found: RegisterMap) -> str:
    ids = found.identity
    subsystem = ""
    if ids.subsystem is not None or ids.subsystem_vendor is not None:
        # either defaults to the function's own id
        vendor = ids.vendor if ids.subsystem_vendor is None else ids.subsystem_vendor
        device = ids.device if ids.subsystem is None else ids.subsystem
        subsystem = f", subsystem {vendor:04x}:{device:04x}"
    function = f"PCI {ids.vendor:04x}:{ids.device:04x}, class {ids.class_code:06x}, revision {ids.revision:02x}"
    vectors = f"{_counted(found.vectors, 'vector')} by {found.messages}" if found.vectors else "no interrupts"
    return f"{function}{subsystem}; {vectors}."


# --- a BAR ------------------------------------------------------------------------------------------------------


def _bar(bar: BarInfo) -> Iterator[str]:
    yield f"## {'BAR' if bar.is_bar else 'Region'} {bar.index}: {bar.name}"
    yield from _paragraph(bar.about)
    yield f"{_sizes(bar.sizes)} of {_kind(bar)}."
    if bar.vectors:
        yield "The MSI-X table and its pending bits."
    if bar.same_as:
        yield f"The registers are those of `{bar.same_as}`."
    rows = [*(_register(each, bar) for each in bar.registers), *(_memory(each, bar) for each in bar.memories)]
    if rows:
        wide = 7 if any(row[6] for row in rows) else 6  # an author who wrote no docstring gets no empty column
        yield _table(_COLUMNS[:wide], [row[:wide] for row in rows])


def _kind(bar: BarInfo) -> str:
    if not bar.is_bar:
        return "memory that the device's user has, and no guest"
    if bar.io:
        return "I/O ports"
    return f"{'64-bit ' if bar.wide else ''}{'prefetchable ' if bar.prefetchable else ''}memory"


def _register(register: RegisterInfo, bar: BarInfo) -> Sequence[str]:
    name, offset = f"`{register.name}`", _offset(register.offset, bar)
    if register.array:
        array, dot, rest = register.name.partition(".")
        name = f"`{array}[n]{dot}{rest}`, n < {register.array.count}"
        offset = f"{offset} + {register.array.stride:#x} * n"
    return (
        offset,
        str(register.size),
        name + (f", while `{register.bank}`" if register.bank else ""),
        ", ".join(register.access),
        f"0x{register.reset:0{2 * register.size}x}" + (", sticky" if register.sticky else ""),
        "<br>".join(map(_field, register.fields)),
        register.about,
    )


def _memory(memory: MemoryInfo, bar: BarInfo) -> Sequence[str]:
    return _offset(memory.offset, bar), _sizes(memory.sizes), f"`{memory.name}`", "mapped", "zero", "", ""


def _offset(offset: int, bar: BarInfo) -> str:
    digits = len(f"{max(bar.sizes.values()) - 1:x}")
    return f"0x{offset:0{digits}x}"


def _field(field: FieldInfo) -> str:
    bits = str(field.lsb) if field.width == 1 else f"{field.lsb + field.width - 1}:{field.lsb}"
    values = ", ".join(f"{value:#x} {name}" for name, value in field.values.items())
    return f"`{field.name}` [{bits}] {field.access}" + (f": {values}" if values else "")


def _sizes(sizes: Mapping[str, int]) -> str:
    """One size, or the size of each type where they differ."""
    if len(set(sizes.values())) == 1:
        return _bytes(next(iter(sizes.values())))
    return ", ".join(f"{_bytes(size)} ({name})" for name, size in sizes.items())


def _bytes(size: int) -> str:
    return shown(size) if size >= 1024 else _counted(size, "byte")


# --- the rest ---------------------------------------------------------------------------------------------------


def _interrupts(interrupts: Sequence[InterruptInfo]) -> str:
    rows = [(str(each.vector), f"`{each.name}`", _code(each.pending), _code(each.enable)) for each in interrupts]
    return _table(("Vector", "Name", "Pending", "Enabled by"), rows)


def _code(text: str | None) -> str:
    return f"`{text}`" if text else ""


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *([each.replace("|", "\\|") for each in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _paragraph(text: str) -> list[str]:
    return [text] if text else []


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
