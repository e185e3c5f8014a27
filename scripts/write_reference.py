#!/usr/bin/env python3
"""Writes docs/reference/driver.md and testing.md: what authors import, from signatures and docstrings of the source."""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from errno import errorcode
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TypeAlias, TypeGuard

from mdev_user import driver, testing
from mdev_user.errors import MdevUserError

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

FOLDER = Path(__file__).parents[1] / "docs/reference"
COMMAND = ".venv/bin/python scripts/write_reference.py"


@dataclass(frozen=True)
class Reference:
    """One page, of one module."""

    module: ModuleType
    head: str
    groups: Mapping[str, str]
    """Every name once, below its title; names with a comma between them are told together."""

    @property
    def target(self) -> Path:
        return FOLDER / f"{self.module.__name__.rpartition('.')[2]}.md"

    @property
    def names(self) -> list[str]:
        """The names that the page tells."""
        return [name for entries in self.groups.values() for name in re.split(r"[ ,]", entries)]

    def page(self) -> str:
        """The whole page."""
        parts = [self.head.format(command=COMMAND)]
        for title, entries in self.groups.items():
            parts.append(f"## {title}\n")
            parts += [entry(names.split(",")) for names in entries.split()]
        return "\n".join(parts)


DRIVER = Reference(
    driver,
    """# The authoring API

All names of `mdev_user.driver`, by what they are for. Written from the source by `{command}`; do not edit.

How they go together: [the tutorial](../tutorial/your-first-parent-driver.md) and [the how-to pages](../README.md).
What an access means: [access](access.md).
""",
    {
        "Declaring registers": "Bar U8,U16,U32,U64 Register Flag Field RegisterFile Each "
        "Access,RW,RO,WO,RW1C,RW1S,RC,RSVD,UNIMPL Ref",
        "Functions and parts": "Function PciId Part Parts Memory DeviceRegion Alias RegionType,GFX_EDID "
        "on_write on_read on_write_each on_read_each ResetKind",
        "Screens": "Picture Pointer Rect Plane,PlaneType XR24,AR24,XB24,AB24,RX24,RA24,BX24,BA24 edid_of",
        "Virtio": "VirtioFunction Virtqueue Chain KeptChain KeptChains VirtioConfig",
        "Interrupts": "Interrupt pending Message INTX MSI MSIX",
        "Jobs": "job worker Dma ScatterList sleep offload",
        "Processes": "Process Calls Timed Program Pending MappedMemory Piece",
        "State": "Saved Table Session Attribute AttributeGroup attribute Snapshot SavedJob",
        "Parents": "Parent Profile Pool Instances",
        "Engines": "Engine Share Claim Turn Policy",
        "PCI capabilities": "PowerManagement PciExpress VendorSpecific",
        "Errors": "DriverError GuestError InvalidValue DmaFault StateError NoSpace NotSupported OutOfRange "
        "ProcessEnded UnknownRequest",
        "Sizes": "PAGE,KiB,MiB,GiB",
        "The low-level contract": "MdevParentOps Mdev MdevType MdevAttribute DeviceOps VfioDevice Device PciFunction "
        "BarRegion MemoryBar IoBar ConfigSpace Interrupts Msi Msix Sleep Area Region RegionFlags RegionInfo Irq "
        "IrqInfo DeviceInfo Request,GetInfo,GetRegionInfo,GetIrqInfo,SetIrqs,Reset Reply declarations",
    },
)
TESTING = Reference(
    testing,
    """# Testing

All names of `mdev_user.testing`. Written from the source by `{command}`; do not edit.

In use: [test a driver](../how-to/test-a-driver.md), [test your mdev code](../how-to/test-your-mdev-code.md). In pytest
the fixture `mdev_host` is a `MdevHost` without parents, and `make_mdev_host(*parents)` makes more.
""",
    {
        "A guest in memory": "Guest Screenshot Damage NoEnd",
        "What must hold of every driver": "check CheckFailed Report both_ways",
        "A host of one's own": "MdevHost HostParent Faults UeventLine HostFailed",
        "Faults as values": "CreateFails CreateTakes RemoveTakes AttributeFails LoseEvent",
    },
)
REFERENCES = (DRIVER, TESTING)
TOLD = {name: getattr(each.module, name) for each in REFERENCES for name in each.module.__all__}

MADE_BY_US = {
    "Function",
    "Part",
    "Device",
    "VfioDevice",
    "Dma",
    "Ref",
    "Mdev",
    "Faults",
    "VirtioFunction",
    "Chain",
    "KeptChain",
    "KeptChains",
    "Damage",
}
"""Classes of which no author makes an object."""


def entry(told: list[str]) -> str:
    """Names that belong together: all in the heading, and each by what is said of it."""
    lines = [f"### {', '.join(told)}\n"]
    for name, after in zip(told, [*told[1:], ""], strict=True):
        each = TOLD[name]
        if _is_alike(each, TOLD.get(after)):
            lines.append(f"`{name}`: {_text(each.__doc__)}")
        elif isinstance(each, FunctionType):
            lines += _function(each)
        elif isinstance(each, type):
            lines += _error(each) if issubclass(each, MdevUserError) else _class(each)
        elif not isinstance(each, Enum):  # the members of an enumeration are told with it
            lines.append(f"`{name} = {each}`\n".replace("mdev_user.vfio.requests.", "").replace("builtins.", ""))
    return "\n".join(lines)


def _is_alike(one: object, other: object) -> bool:
    """Whether two classes are one and the same but for a number: then it is enough to tell the second."""
    bases = [each.__base__ for each in (one, other) if isinstance(each, type)]
    return (
        len(bases) == 2 and bases[0] is bases[1] and str(getattr(bases[0], "__module__", "")).startswith("mdev_user.")
    )


def _function(function: FunctionType) -> Iterator[str]:
    module = ast.parse(inspect.getsource(sys.modules[function.__module__]))
    defined = [each for each in module.body if _is_function(each) and each.name == function.__name__]
    yield from _signatures(defined)
    yield _text(function.__doc__)


def _error(kind: type[MdevUserError]) -> Iterator[str]:
    bases = [each.__name__ for each in kind.__mro__[1:] if TOLD.get(each.__name__) is each]
    of_kind = f"A `{bases[0]}`; its" if bases else "Its"
    yield _text(kind.__doc__)
    yield f"{of_kind} `errno` is {errorcode[kind.errno]}.\n"


def _class(kind: type) -> Iterator[str]:
    """A class, with what it has of bases that are not told."""
    sources = _sources(kind)
    functions = [each for source in sources for each in source.body if _is_function(each)]
    if kind.__name__ in MADE_BY_US:
        functions = [each for each in functions if each.name != "__init__"]
    yield from _made(kind, functions)
    yield _text(kind.__doc__)
    if kind.__doc__ and len(sources) > 1 and not vars(kind).keys() & {"__init__", "__init_subclass__"}:
        yield _text(ast.get_docstring(sources[1]))
    rows = [*_attributes(kind, sources), *_methods(functions)]
    if rows:
        yield "\n".join(rows) + "\n"


def _made(kind: type, functions: list[Function]) -> Iterator[str]:
    """How an object of the class is made, or a subclass."""
    if issubclass(kind, Enum | BaseException):
        return
    for each in functions:
        if each.name == "__init_subclass__" and each.args.kwonlyargs:
            yield f"`class ...({kind.__name__}, {_arguments(each.args, drop_first=True).removeprefix('*, ')})`\n"
    makers = [each for each in functions if each.name == "__init__"]
    for maker in [each for each in makers if _has(each, "overload")] or makers[:1]:
        yield f"`{kind.__name__}({_arguments(maker.args, drop_first=True)})`\n"
    if makers and (documented := ast.get_docstring(makers[-1])):
        yield _text(documented)


def _sources(kind: type) -> list[ast.ClassDef]:
    """The class, and behind it those of its bases that have no entry of their own."""
    found = []
    for each in kind.__mro__:
        ours = each.__module__.startswith("mdev_user.")
        if each is kind or (ours and TOLD.get(each.__name__) is not each):
            found.append(_source(each))
    return found


def _source(kind: type) -> ast.ClassDef:
    node = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(node, ast.ClassDef)  # noqa: S101 - it is the source of a class
    return node


# --- the members of a class -------------------------------------------------------------------------------------


def _attributes(kind: type, sources: list[ast.ClassDef]) -> Iterator[str]:
    """What the class declares: members of an enumeration, fields, and attributes that are documented."""
    if issubclass(kind, Enum):
        yield from (f"* `{each.name}`: {_inline(str(each.value))}" for each in kind)
        return
    for source in sources:
        for node, after in [*_followed(source.body), *_made_with(source)]:
            name = _assigned(node)
            if name and not name.startswith("_"):
                yield _attribute(name, node, after)


def _made_with(source: ast.ClassDef) -> Iterator[tuple[ast.stmt, ast.stmt | None]]:
    """What is set, and told, when an object is made."""
    for each in source.body:
        if _is_function(each) and each.name == "__init__":
            yield from (pair for pair in _followed(each.body) if _documented(pair[1]))


def _followed(body: list[ast.stmt]) -> Iterator[tuple[ast.stmt, ast.stmt | None]]:
    """Each declaration of a body, with what comes behind it: its documentation, perhaps."""
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) or _documented(after):
            yield node, after


def _attribute(name: str, node: ast.stmt, after: ast.stmt | None) -> str:
    annotation = f": {_annotation(node.annotation)}" if isinstance(node, ast.AnnAssign) else ""
    value = node.value if isinstance(node, ast.AnnAssign) else None
    initial = f" = {ast.unparse(value)}" if value is not None else ""
    told = _documented(after)
    return f"* `{name}{annotation}{initial}`" + (f": {_inline(told)}" if told else "")


def _methods(functions: list[Function]) -> Iterator[str]:
    """The public methods that say something, each as often as it can be called differently."""
    seen: set[str] = set()
    for each in functions:
        documented = ast.get_docstring(each)
        if each.name.startswith("_") or each.name in seen or not documented:
            continue
        seen.add(each.name)
        form = each.name if _has(each, "property") else _call(each, drop_first=not _has(each, "staticmethod"))
        yield f"* `{form}`: {_inline(documented)}"


def _signatures(found: list[Function]) -> Iterator[str]:
    """How a function is called: every overload, or what there is."""
    for each in [each for each in found if _has(each, "overload")] or found:
        yield f"`{_call(each)}`\n"


def _call(node: Function, *, drop_first: bool = False) -> str:
    returns = "" if node.returns is None else f" -> {_annotation(node.returns)}"
    is_async = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    return f"{is_async}{node.name}({_arguments(node.args, drop_first=drop_first)}){returns}"


def _arguments(given: ast.arguments, *, drop_first: bool) -> str:
    """As between the parentheses; without ``self``."""
    places = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(places) - len(given.defaults)) + list(given.defaults)
    told = [_argument(*each) for each in zip(places, defaults, strict=True)]
    if given.posonlyargs:
        told.insert(len(given.posonlyargs), "/")
    if given.vararg:
        told.append(f"*{_argument(given.vararg, None)}")
    elif given.kwonlyargs:
        told.append("*")
    told += [_argument(*each) for each in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    if given.kwarg:
        told.append(f"**{_argument(given.kwarg, None)}")
    return ", ".join(told[1:] if drop_first else told)


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    annotation = f": {_annotation(argument.annotation)}" if argument.annotation else ""
    return f"{argument.arg}{annotation}" + (f" = {ast.unparse(default)}" if default else "")


def _annotation(node: ast.expr) -> str:
    """As it is written, without the quotes that Python needs for a name that comes later."""
    return re.sub(r"'([^']*)'", r"\1", ast.unparse(node)) if "Literal" not in ast.unparse(node) else ast.unparse(node)


def _has(node: Function, decorator: str) -> bool:
    return any(isinstance(each, ast.Name) and each.id == decorator for each in node.decorator_list)


def _is_function(node: ast.AST) -> TypeGuard[Function]:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def _assigned(node: ast.stmt) -> str:
    """The name that a statement of a class body declares; empty where it declares none."""
    targets: list[ast.expr] = []
    if isinstance(node, ast.AnnAssign):
        targets = [node.target]
    elif isinstance(node, ast.Assign):
        targets = node.targets
    return re.sub(r"^self\.", "", ast.unparse(targets[0])) if len(targets) == 1 else ""


def _documented(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return str(node.value.value)
    return ""


# --- text -------------------------------------------------------------------------------------------------------


def _text(docstring: str | None) -> str:
    """A docstring as Markdown."""
    return re.sub(r"``(.+?)``", r"`\1`", inspect.cleandoc(docstring or "")) + "\n"


def _inline(docstring: str) -> str:
    """The same, as a part of a list."""
    return textwrap.indent(_text(docstring).strip(), "  ").strip()


if __name__ == "__main__":
    for each in REFERENCES:
        each.target.write_text(each.page())
