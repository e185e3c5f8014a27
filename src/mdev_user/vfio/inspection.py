"""What a device tells of itself without being touched, and of an access while it is watched: plain values.

They are the same in a driver's `inspect`, between the front and a host, on the control socket and in ``-o json``.
"""

from typing import Protocol

from msgspec import Struct


class FieldValue(Struct, frozen=True, omit_defaults=True):
    """Some bits of a register."""

    name: str
    value: int | None
    """At bit 0. None: the driver computes it when the guest reads it."""
    member: str = ""
    """The enumeration's name for the value."""


class NamedValue(Struct, frozen=True, omit_defaults=True):
    """A register, or whatever else a driver has a name for: ``NamedValue("uart.divisor", 12)``."""

    name: str
    """``regs.queue[3].tail``."""
    value: int | str | None
    """As stored. None: the driver computes all of it when the guest reads it."""
    size: int = 0
    """In bytes; 0 for what is no register."""
    region: int | None = None
    offset: int = 0
    """In bytes from the start of the region."""
    bank: str = ""
    """When the register is seen at its place; empty: always."""
    hidden: bool = False
    """Whether the guest sees another one at its place now."""
    computed: int = 0
    """The bits that the driver computes when the guest reads them; zero in ``value``."""
    fields: tuple[FieldValue, ...] = ()


class Suggestion(Struct, frozen=True):
    """A register that could be declared. ``reads`` and ``writes`` count the accesses that touched it."""

    name: str
    offset: int
    size: int
    reads: int
    writes: int


class MissingRegisters(Struct, frozen=True):
    """What a bar class lacks."""

    bar: str
    """The name of the class."""
    registers: list[Suggestion]
    left_out: bool
    """Whether there would be more than are told."""


class Unmodelled(Struct, frozen=True):
    """Accesses of one mdev, since it was created, to what nobody declared."""

    bars: list[MissingRegisters]
    accesses: int
    """How many there were."""
    forgotten: bool
    """Whether there were so many different ones that some are not counted."""


class TouchedRegister(Struct, frozen=True, omit_defaults=True):
    """A register that an access touched, and the bytes of it that it touched."""

    name: str
    value: int
    """What was read or written of it."""
    size: int
    """How many of its bytes."""
    skipped: int = 0
    """How many of its lowest bytes were not touched."""
    fields: tuple[FieldValue, ...] = ()
    """Those of which every byte was touched, as read or written."""


class Change(Struct, frozen=True):
    """A register, or a field of one, that had another value after the access."""

    name: str
    old: str
    new: str


class Decoded(Struct, frozen=True, omit_defaults=True):
    """What an access means."""

    registers: tuple[TouchedRegister, ...] = ()
    changes: tuple[Change, ...] = ()
    meanwhile: tuple[Change, ...] = ()
    """Since the last access, by a job or another step."""
    unmodelled: bool = False
    """Whether it touched bytes that nobody declared."""
    left_out: bool = False
    """Whether it touched or changed more than is told."""


class TraceLine(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that happened to a watched device."""

    kind: str
    """``read``, ``write``, ``reset``, ``job`` (one was started), ``interrupt``, ``opened``, ``closed``, ``reloaded``
    (there is another version of the driver), ``lost`` or, last in a trace on the control socket, ``ended``."""
    time: float
    """Seconds since 1970."""
    region: int = -1
    offset: int = 0
    size: int = 0
    """Bytes that were read or written."""
    data: str = ""
    """The first of them, in hexadecimal digits and their order in the region."""
    decoded: Decoded | None = None
    """None where the driver is written by hand, and in config space."""
    count: int = 0
    """How many interrupts; or how many lines were lost, since they were read too slowly."""
    interrupts: int = 0
    """Sent during the access."""
    text: str = ""
    """The name of a job, who opened the device, or why an access was refused."""


class Sighting(Protocol):
    """An access that is being watched."""

    def end(self) -> None:
        """The access was performed. A part of its step."""
        ...

    def tell(self, data: bytes) -> Decoded:
        """What it meant; ``data`` is what was read or written. Called by any thread, any time later."""
        ...


class Decoder(Protocol):
    """What knows a device's registers by name."""

    def look(self, region: int, offset: int, count: int, *, written: bool) -> Sighting:
        """An access is about to be performed. A part of its step."""
        ...
