# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""Register maps: what a parent driver declares, as a plain value from which tools make documents and headers.

Everything here is read from the declarations and from the layout that serves a guest's accesses, so a map cannot tell
of a register what the device does not do.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from inspect import cleandoc

from msgspec import Struct

from mdev_user.driver import assembly
from mdev_user.driver.assembly import AnyFunction, Place, places, with_vectors
from mdev_user.driver.inspection.banks import bank_of, condition
from mdev_user.driver.interrupts import Pending
from mdev_user.driver.memory import Memory
from mdev_user.driver.parent import Parent
from mdev_user.driver.pools import Profile
from mdev_user.driver.regions import DeviceRegion
from mdev_user.errors import DriverError
from mdev_user.pci.bars import BAR_SLOTS
from mdev_user.pci.capabilities import Capability, Msix
from mdev_user.pci.identity import PciId
from mdev_user.regs.arrays import Each
from mdev_user.regs.bar import Bar
from mdev_user.regs.entries import Entry, Map
from mdev_user.regs.refs import Ref
from mdev_user.regs.registers import Placed
from mdev_user.regs.slots import Bits, Slot
from mdev_user.vfio.pci_function import BarRegion
from mdev_user.vfio_mdev.ops import MdevParentOps


class FieldInfo(Struct, frozen=True, kw_only=True):
    """Some bits of a register, under a name."""

    name: str
    lsb: int
    width: int
    access: str
    """The name of one of `Access`."""
    type: str
    """``int``, ``bool`` or the name of an enumeration."""
    values: dict[str, int]
    """The enumeration's members, as they stand in the field's bits (at bit 0)."""

    @property
    def mask(self) -> int:
        """At the place of the bits."""
        return ((1 << self.width) - 1) << self.lsb


class ArrayInfo(Struct, frozen=True, kw_only=True):
    """What a repeated register is an element of, or a register of an element of."""

    name: str
    count: int
    stride: int
    """In bytes."""


class RegisterInfo(Struct, frozen=True, kw_only=True):
    """A register; one of an array is told once, at its first element."""

    name: str
    """``status``; in an array ``queue.tail``."""
    offset: int
    """In bytes from the start of the bar."""
    size: int
    """In bytes."""
    access: list[str]
    """The names of `Access` that its bits have, in the order in which they are declared."""
    reset: int
    sticky: bool
    """Whether it survives a reset that the guest asks for."""
    bank: str | None
    """When it is seen at its place: ``lcr.dlab``, ``page == 0x2``. None: always."""
    array: ArrayInfo | None
    fields: list[FieldInfo]
    """None for a register that is one number."""
    about: str
    """The first paragraph of the docstring of its class."""


class MemoryInfo(Struct, frozen=True, kw_only=True):
    """Memory of the device that a guest maps."""

    name: str
    offset: int
    """In bytes from the start of the bar."""
    sizes: dict[str, int]
    """In bytes, by the name of the mdev's type."""


class BarInfo(Struct, frozen=True, kw_only=True):
    """A window of the function; ascending registers, then memory."""

    index: int
    name: str
    """As the function class calls it."""
    sizes: dict[str, int]
    """In bytes, by the name of the mdev's type."""
    io: bool
    """Whether it is of I/O ports."""
    wide: bool
    """Whether its address has 64 bits."""
    prefetchable: bool
    same_as: str | None
    """The name of the bar that has the same registers, which are told there: that of the first of several parts."""
    registers: list[RegisterInfo]
    memories: list[MemoryInfo]
    vectors: bool
    """Whether it holds the MSI-X table."""
    about: str

    @property
    def is_bar(self) -> bool:
        """Whether a guest sees it; a device-specific region only the device's user has."""
        return self.index < BAR_SLOTS


class InterruptInfo(Struct, frozen=True, kw_only=True):
    """A level, and what makes it rise."""

    name: str
    vector: int
    pending: str
    """``regs.status.done``, a condition such as ``regs.mode == 0x2``, or the name of the method that computes it."""
    enable: str | None


class RegisterMap(Struct, frozen=True, kw_only=True):
    """What a guest's driver needs to know of a function."""

    parent: str
    """The parent driver's name."""
    function: str
    """The name of the class."""
    about: str
    identity: PciId
    messages: str
    """MSI, MSI-X, or INTx where there are none; none without any interrupt."""
    vectors: int
    interrupts: list[InterruptInfo]
    bars: list[BarInfo]
    """And, from index 9 on, the regions that only the device's user has."""


_Regions = Mapping[str, Mapping[int, BarRegion]]
"""The BARs of each type of mdev, by the name of the type and the index of the BAR."""


def register_map(kind: type[MdevParentOps]) -> RegisterMap:
    """What a parent class declares. DriverError for one that declares nothing, being written by hand."""
    if not issubclass(kind, Parent):
        name = getattr(kind, "driver_name", kind.__name__)
        raise DriverError(
            f"{name} declares no registers: expected a Parent with a Function class, given {kind.__name__}, which "
            f"answers accesses by code of its own"
        )
    function = kind.function
    made = {name: with_vectors(function, each, assembly.regions(function, each)) for name, each in kind.types.items()}
    capabilities = next(iter(made.values()))[0]
    pin = assembly.interrupt_pin(function, next(iter(kind.types.values())))
    placed = _placed(function, kind.types.values())
    interrupts = [_interrupt(place, number) for place in placed for number in range(len(place.plan.interrupts))]
    return RegisterMap(
        parent=str(kind.driver_name),
        function=function.__name__,
        about=_about(function),
        identity=function.identity,
        messages=_messages(capabilities, pin),
        vectors=getattr(function.vectors, "vectors", max(int(bool(pin)), len(interrupts))),
        interrupts=interrupts,
        bars=[
            *_bars(placed, {name: each for name, (_capabilities, each) in made.items()}),
            *_device_regions(function, kind.types),
        ],
    )


def _messages(capabilities: Sequence[Capability], pin: int) -> str:
    if not capabilities:
        return "INTx" if pin else "none"
    return "MSI-X" if isinstance(capabilities[0], Msix) else "MSI"


def _placed(function: type[AnyFunction], profiles: Iterable[Profile]) -> list[Place]:
    """The units of all types of mdev together."""
    found = {place.name: place for profile in profiles for place in places(function, profile)}
    return sorted(found.values(), key=lambda place: place.vector)


def _bars(placed: Sequence[Place], regions: _Regions) -> Iterator[BarInfo]:
    for index in sorted({index for each in regions.values() for index in each}):
        owner = next((place for place in placed if index - place.bar in place.plan.bar_indexes), None)
        yield _bar(owner, index, regions)


def _bar(owner: Place | None, index: int, regions: _Regions) -> BarInfo:
    """``owner`` is the unit whose BAR it is; that of the MSI-X table is nobody's."""
    bar = owner.plan.bars.get(index - owner.bar) if owner else None
    memories = [each for each in owner.plan.memories if each._index == index - owner.bar] if owner else []
    shapes = {name: each[index].bar for name, each in regions.items() if index in each}
    shape = next(iter(shapes.values()))
    names = [each._name for each in (bar, *memories) if each is not None]
    first = owner is None or owner.index == 0
    return BarInfo(
        index=index,
        name=_dotted(owner.name if owner else "", names[0] if names else "vectors"),
        sizes={name: each.size for name, each in shapes.items()},
        io=bar is not None and bar._io,
        wide=shape.slots > 1,
        prefetchable=bool(getattr(shape, "prefetchable", False)),
        same_as=None if first or owner is None else _dotted(f"{owner.family}[0]", names[0]),
        registers=_registers(type(bar)) if bar is not None and first else [],
        memories=[_memory(each, index, regions) for each in memories],
        vectors=not names,
        about=_about(type(bar)) if bar is not None else "",
    )


def _device_regions(function: type[AnyFunction], types: Mapping[str, Profile]) -> Iterator[BarInfo]:
    plan = function._plan
    sizes: dict[int, dict[str, int]] = {}
    for type_name, profile in types.items():
        for index, info in plan.device_regions(profile).items():
            sizes.setdefault(index, {})[type_name] = info.size
    for name, index, shown in plan.device_region_members:
        window = shown if isinstance(shown, DeviceRegion) else None
        memory = shown if isinstance(shown, Memory) else None
        yield BarInfo(
            index=index,
            name=name,
            sizes=sizes[index],
            io=False,
            wide=False,
            prefetchable=False,
            same_as=None,
            registers=_registers(type(window)) if window else [],
            memories=[MemoryInfo(name=memory._name, offset=0, sizes=sizes[index])] if memory else [],
            vectors=False,
            about=_about(type(window)) if window else "",
        )


def _memory(memory: Memory, index: int, regions: _Regions) -> MemoryInfo:
    sizes = {
        name: area.size
        for name, each in regions.items()
        for area in (each[index].areas if index in each else ())
        if area.offset == memory._offset
    }
    return MemoryInfo(name=memory._name, offset=memory._offset, sizes=sizes)


def _interrupt(place: Place, number: int) -> InterruptInfo:
    interrupt = place.plan.interrupts[number]
    pending, enable = interrupt._pending, interrupt._enable
    return InterruptInfo(
        name=_dotted(place.name, interrupt._name),
        vector=place.vector + number,
        pending=_dotted(place.name, pending._name) if isinstance(pending, Pending) else _reference(place, pending),
        enable=None if enable is None else _reference(place, enable),
    )


def _reference(place: Place, ref: Ref[bool]) -> str:
    """A condition on a register, by its name from the bar on: ``regs.status.done``."""
    bar = next(each._name for each in place.plan.bars.values() if type(each) is ref.place.bar)
    return condition(_dotted(place.name, bar, ref.place.path, ref.field), ref)


def _dotted(*names: str) -> str:
    return ".".join(name for name in names if name)


# --- the registers of a bar -----------------------------------------------------------------------------------


def _registers(bar: type[Bar]) -> list[RegisterInfo]:
    firsts = [slot for slot in bar._layout.slots if not slot.element]
    return [_register(bar, slot) for slot in sorted(firsts, key=lambda slot: (slot.offset, slot.index))]


def _register(bar: type[Bar], slot: Slot) -> RegisterInfo:
    return RegisterInfo(
        name=slot.path,
        offset=slot.offset,
        size=slot.size,
        access=list(dict.fromkeys(each.access.name for each in slot.fields)) or ["RSVD"],
        reset=slot.reset,
        sticky=slot.sticky,
        bank=bank_of(bar, slot),
        array=_array(bar, slot),
        fields=[_field(each) for each in slot.fields if each.name],
        about=_about_register(bar, slot.path),
    )


def _field(bits: Bits) -> FieldInfo:
    kind = bits.codec.decode
    return FieldInfo(
        name=bits.name,
        lsb=bits.lsb,
        width=bits.width,
        access=bits.access.name,
        type=kind.__name__,
        values=_members(kind),
    )


def _members(kind: object) -> dict[str, int]:
    """Of an enumeration; an alias is a name too."""
    if not (isinstance(kind, type) and issubclass(kind, Enum)):
        return {}
    return {name: int(each.value) for name, each in kind.__members__.items()}


def _array(bar: type[Bar], slot: Slot) -> ArrayInfo | None:
    name = slot.path.partition(".")[0]
    each = bar._entries[name]
    if not isinstance(each, Each):
        return None
    return ArrayInfo(name=name, count=each._length, stride=each._stride)


def _about_register(bar: type[Bar], path: str) -> str:
    """What the innermost class on the way to the register says of itself."""
    return next((text for text in reversed([_about(each) for each in _classes(bar, path)]) if text), "")


def _classes(bar: type[Bar], path: str) -> Iterator[type]:
    """The classes that an author wrote for the register: of a file of registers, of its fields."""
    entries: Mapping[str, Entry] = bar._entries
    for name in path.split("."):
        entry = entries[name]
        if isinstance(entry, Placed | Each):
            kind: type = entry._kind
            yield kind
            entries = kind._entries if issubclass(kind, Map) else {}


def _about(kind: type) -> str:
    """The first paragraph of the docstring, in one line; nothing when the class has none of its own."""
    return " ".join(cleandoc(kind.__doc__ or "").partition("\n\n")[0].split())
