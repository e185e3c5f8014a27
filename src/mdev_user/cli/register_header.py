"""A register map as a C header (C99): offsets, masks, shifts and values, for the author of a guest's driver.

Every name begins with the function's: ``CRC_REGS_STATUS`` is an offset in the bar ``regs``, and of a register of an
array a macro of the element's number. A name that is taken already ends in ``_``, so that the header always compiles.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from mdev_user.driver.inspection.register_map import BarInfo, FieldInfo, RegisterInfo, RegisterMap

_Line = tuple[str, str, str]
"""A name, what it stands for, and a comment; without a name only a comment."""


def header(found: RegisterMap) -> str:
    """The header, without a newline at its end."""
    function = _name(found.function)
    guard = f"{function}_REGISTERS_H"
    title = f"{found.function}: {found.about}" if found.about else found.function
    defines = _written(_lines(found, function), {guard})
    return "\n".join([_comment(title), f"#ifndef {guard}", f"#define {guard}", *defines, "", f"#endif /* {guard} */"])


def _lines(found: RegisterMap, function: str) -> Iterator[_Line]:
    yield "", "", "PCI ids"
    for name, digits, value in _ids(found):
        if value is not None:
            yield f"{function}_PCI_{name}", f"0x{value:0{digits}x}", ""
    for bar in found.bars:
        if bar.is_bar:  # a guest's driver has no other region
            yield from _bar(bar, function)
    if found.interrupts:
        yield "", "", f"{found.messages} vectors"
    for each in found.interrupts:
        yield f"{function}_VECTOR_{_name(each.name)}", str(each.vector), ""


def _ids(found: RegisterMap) -> Sequence[tuple[str, int, int | None]]:
    """Names, digits, and values; None for one that is another's by default."""
    ids = found.identity
    return (
        ("VENDOR_ID", 4, ids.vendor),
        ("DEVICE_ID", 4, ids.device),
        ("CLASS_CODE", 6, ids.class_code),
        ("REVISION_ID", 2, ids.revision),
        ("SUBSYSTEM_VENDOR_ID", 4, ids.subsystem_vendor),
        ("SUBSYSTEM_ID", 4, ids.subsystem),
    )


def _bar(bar: BarInfo, function: str) -> Iterator[_Line]:
    prefix = f"{function}_{_name(bar.name)}"
    about = bar.about or ("the MSI-X table" if bar.vectors else "I/O ports" if bar.io else "")
    yield "", "", f"BAR {bar.index}: {bar.name}" + (f": {about}" if about else "")
    yield f"{prefix}_BAR", str(bar.index), ""
    yield from _sizes(f"{prefix}_BAR_SIZE", bar.sizes)
    arrays = {each.array.name: each.array for each in bar.registers if each.array}
    for name, array in arrays.items():
        yield f"{prefix}_{_name(name)}_COUNT", str(array.count), ""
        yield f"{prefix}_{_name(name)}_STRIDE", f"{array.stride:#x}", ""
    for register in bar.registers:
        yield from _register(register, f"{prefix}_{_name(register.name)}")
    for memory in bar.memories:
        name = f"{prefix}_MEMORY_{_name(memory.name)}"
        yield name, _hex(memory.offset), "mapped memory"
        yield from _sizes(f"{name}_SIZE", memory.sizes)


def _sizes(name: str, sizes: Mapping[str, int]) -> Iterator[_Line]:
    """One, or one for each mdev type where they differ."""
    if len(set(sizes.values())) == 1:
        yield name, f"{next(iter(sizes.values())):#x}", ""
        return
    for type_name, size in sizes.items():
        yield f"{name}_{_name(type_name)}", f"{size:#x}", ""


def _register(register: RegisterInfo, name: str) -> Iterator[_Line]:
    bank = f"while {register.bank}" if register.bank else ""
    told = [f"{8 * register.size} bits", ", ".join(register.access), bank, register.about]
    comment = "; ".join(text for text in told if text)
    if register.array:
        yield f"{name}(n)", f"({_hex(register.offset)} + (n) * {register.array.stride:#x})", comment
    else:
        yield name, _hex(register.offset), comment
    if register.reset:
        yield f"{name}_RESET", _hex(register.reset), ""
    for field in register.fields:
        yield from _field(field, f"{name}_{_name(field.name)}")


def _field(field: FieldInfo, name: str) -> Iterator[_Line]:
    yield f"{name}_SHIFT", str(field.lsb), ""
    yield f"{name}_MASK", _hex(field.mask), field.access
    for member, value in field.values.items():
        yield f"{name}_{_name(member)}", f"{value:#x}", ""


# --- how it is written ------------------------------------------------------------------------------------------


def _written(lines: Iterator[_Line], taken: set[str]) -> Iterator[str]:
    for name, value, comment in lines:
        if not name:
            yield f"\n{_comment(comment)}"
            continue
        plain, bracket, argument = name.partition("(")
        while plain in taken:
            plain += "_"
        taken.add(plain)
        yield f"#define {plain}{bracket}{argument} {value}" + (f" {_comment(comment)}" if comment else "")


def _comment(text: str) -> str:
    """Text of an author's in a comment: nothing in it ends the comment, or begins another (which -Wall warns of)."""
    return f"/* {text.replace('*/', '* /').replace('/*', '/ *')} */"


def _hex(value: int) -> str:
    return f"0x{value:02x}"


def _name(name: str) -> str:
    """``QueueTail``, ``queue.tail`` and ``queue_tail`` are QUEUE_TAIL; what C does not know in a name is a ``_``."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[^A-Z0-9_]", "_", words.upper()).strip("_")
