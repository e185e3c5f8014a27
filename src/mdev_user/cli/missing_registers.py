"""What guests accessed and nobody declared, as a declaration to paste into the bar's class."""

from collections.abc import Iterator

from mdev_user.cli.output import Output, print_json, print_line
from mdev_user.vfio.inspection import MissingRegisters, Suggestion, Unmodelled

_ACCESS = {(True, True): "", (False, True): "WO", (True, False): "UNIMPL"}
"""By whether it was read, and written. A register of kind UNIMPL reads as its reset value and goes on being counted."""


def print_missing(found: Unmodelled, output: Output) -> None:
    """In the form that was asked for; a table is Python."""
    if output is Output.JSON:
        print_json(found)
        return
    for line in _names(found) if output is Output.NAME else declaration(found):
        print_line(line)


def declaration(found: Unmodelled) -> Iterator[str]:
    """Lines of a class body, and comments."""
    if not found.accesses:
        yield "# Nothing is missing: every access was to something that is declared."
    for bar in found.bars:
        yield from _bar(bar)
    if found.forgotten:
        yield "# There were more different accesses than are remembered; declare these, and look again."


def _names(found: Unmodelled) -> Iterator[str]:
    return (register.name for bar in found.bars for register in bar.registers)


def _bar(bar: MissingRegisters) -> Iterator[str]:
    if not bar.registers:
        yield f"# class {bar.bar}: only what is declared as UNIMPL was accessed."
        return
    kinds = {f"U{8 * each.size}" for each in bar.registers} | {_access(each) for each in bar.registers}
    yield f"# class {bar.bar}; from mdev_user.driver import {', '.join(sorted(kinds - {''}))}"
    for each in bar.registers:
        arguments = ", ".join(filter(None, (f"{each.offset:#x}", _access(each))))
        yield f"    {each.name} = U{8 * each.size}({arguments})  # {_counts(each)}"
    if bar.left_out:
        yield f"    # and more: {len(bar.registers)} are told at a time"


def _access(register: Suggestion) -> str:
    return _ACCESS[register.reads > 0, register.writes > 0]


def _counts(register: Suggestion) -> str:
    counts = (("read", register.reads), ("written", register.writes))
    return ", ".join(f"{word} {_times(count)}" for word, count in counts if count)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"
