"""What a guest, its machine and the operator can do to a device, as values: what `check` makes up and prints."""

from typing import TypeAlias

import msgspec

TICKS = 1 << 16
"""A second. Sums of binary fractions are exact, so that two devices with one clock cannot drift apart."""


class Read(msgspec.Struct, frozen=True, tag=True):
    """One read access."""

    region: int
    offset: int
    count: int


class Write(msgspec.Struct, frozen=True, tag=True):
    """One write access."""

    region: int
    offset: int
    data: bytes


class Step(msgspec.Struct, frozen=True, tag=True):
    """Jobs run from one await to the next, ``count`` times."""

    count: int


class Run(msgspec.Struct, frozen=True, tag=True):
    """Jobs run until each has ended or sleeps."""


class Advance(msgspec.Struct, frozen=True, tag=True):
    """Time passes."""

    ticks: int


class Reset(msgspec.Struct, frozen=True, tag=True):
    """VFIO_DEVICE_RESET."""


class Reopen(msgspec.Struct, frozen=True, tag=True):
    """The user goes, and comes again."""


class Store(msgspec.Struct, frozen=True, tag=True):
    """The operator writes an attribute."""

    name: str
    text: str


class Show(msgspec.Struct, frozen=True, tag=True):
    """The operator reads an attribute."""

    name: str


class Poke(msgspec.Struct, frozen=True, tag=True):
    """The guest writes its own memory."""

    address: int
    data: bytes


class Listen(msgspec.Struct, frozen=True, tag=True):
    """The guest uses this kind of interrupt from now on: 0 INTx, 1 MSI, 2 MSI-X."""

    kind: int


class MappedWrite(msgspec.Struct, frozen=True, tag=True):
    """The guest writes a `Memory` that it has mapped."""

    region: int
    offset: int
    data: bytes


class Copy(msgspec.Struct, frozen=True, tag=True):
    """The device's machine copies some of its state while it runs; the first time, it begins to."""

    most: int
    """Bytes."""


Operation: TypeAlias = (
    Read | Write | Step | Run | Advance | Reset | Reopen | Store | Show | Poke | Listen | MappedWrite | Copy
)


class Setting(msgspec.Struct, frozen=True):
    """Of which type a device is, and with which options its parent was made."""

    type_name: str
    options: dict[str, str] = {}
    """As text."""


class Seen(msgspec.Struct, frozen=True):
    """What an operation showed, and how the device looks from outside after it."""

    answer: bytes = b""
    refused: str = ""
    """The kind of error that its doer got."""
    pin: bool = False
    messages: tuple[int, ...] = ()
    errors: int = 0
    """Of the guest, counted in this step."""
    memory: int = 0
    """A checksum of the guest's."""


class Finding(msgspec.Struct, frozen=True, tag=True):
    """Something that must not be."""

    text: str
    before: tuple[Operation, ...] = ()
    """What led to it, the last being where it was seen; of a difference, what came before the device was saved."""
    after: tuple[Operation, ...] | None = None
    """Of a difference between a device that went on and one that was saved and loaded: what came then."""


class Report(msgspec.Struct, frozen=True):
    """What was tried of a driver."""

    driver: str
    checks: tuple[str, ...]
    """A line for each."""


class CheckFailed(AssertionError):
    """A driver does what none may do. The message has what that is, and a script that shows it."""
