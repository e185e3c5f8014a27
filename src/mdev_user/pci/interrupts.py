"""The interrupt logic of a function: which interrupt is signalled, held back or shown as pending.

A device has *levels* (conditions that stay until they are served) and *messages* (events). With INTx the levels
together drive the pin. With MSI or MSI-X a rising level sends its vector's message, as an event does. What cannot
be sent now is *pending* and is sent as soon as it can: the vector or the function is masked, the function is not bus
master (messages are memory writes), or nobody listens yet.

How an interrupt reaches the guest is injected. In the VFIO world a client arms vectors with eventfds, and what Linux
then does with the hardware `arm` does with ours: it enables the kind of interrupt and unmasks the vectors. So a client
that never touches the config space or the MSI-X table (QEMU keeps the table to itself) gets its interrupts too.

Sources: PCI 3.0 sections 2.2.6, 6.2.2 to 6.2.4 and 6.8; Linux ``drivers/vfio/pci/vfio_pci_intrs.c``.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import TypeAlias

from mdev_user.errors import DriverError, GuestError, OutOfRange
from mdev_user.pci.config import ConfigChange, ConfigSpace
from mdev_user.pci.masked import Bytes
from mdev_user.pci.msix import MsixTable


class InterruptKind(IntEnum):
    """The ways to interrupt; the values are VFIO's irq indexes."""

    INTX = 0
    MSI = 1
    MSIX = 2


_INTX, _MSI, _MSIX = InterruptKind.INTX, InterruptKind.MSI, InterruptKind.MSIX
"""A class' attribute takes as long to look up as the rest of a test."""

DrivePin: TypeAlias = Callable[[bool], None]
"""Called with the new level each time the INTx pin changes."""

SendMessage: TypeAlias = Callable[[InterruptKind, int], bool]
"""Send the message of a vector; False when nobody listens, and then the vector stays pending."""

_CONCERNED = ConfigChange.COMMAND | ConfigChange.MSI | ConfigChange.MSIX
_ALL = -1


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a BAR that the function answers for itself. Offsets given to read and write count from its start."""

    bar: int
    offset: int
    size: int
    read: Callable[[int, int], bytes]
    write: Callable[[int, Bytes], None]


@dataclass(frozen=True, slots=True)
class InterruptState:
    """All that the interrupt logic remembers, as a value to save; it belongs to a saved config space."""

    levels: int
    pending: int
    table: bytes
    events: int = 0
    """Of what is pending, the messages that something sent: they go out whatever becomes of the levels."""


class Interrupts:
    """The interrupt logic of one function.

    Vectors are numbered from 0: up to the size of the MSI-X table, or to 31 without one; with fewer MSI messages
    allocated than that, vectors share them (modulo). A vector beyond is a DriverError.
    """

    __slots__ = (
        "_config", "_drive_pin", "_events", "_held", "_kind", "_levels", "_messages", "_msi_blocked", "_pending",
        "_pin", "_send_message", "_table", "vectors",
    )  # fmt: skip

    def __init__(self, config: ConfigSpace, drive_pin: DrivePin, send_message: SendMessage) -> None:
        self._config = config
        self._drive_pin = drive_pin
        self._send_message = send_message
        self._table = MsixTable(config.msix_layout) if config.msix_layout else None
        self.vectors = config.msix_layout.vectors if config.msix_layout else 32
        self._levels = self._pending = self._events = self._held = 0
        self._pin = False
        self._kind = self._enabled_kind()
        self._follow_msi()

    # --- the device's side ----------------------------------------------------------------------------------

    def raise_level(self, vector: int) -> None:
        """The condition behind ``vector`` holds from now on. Does nothing when it held already."""
        bit = 1 << self._checked(vector)
        if self._levels & bit:
            return
        self._levels |= bit
        if self._kind is InterruptKind.INTX:
            self._settle_pin()
        else:
            self._send(vector)

    def lower_level(self, vector: int) -> None:
        """The condition behind ``vector`` was served. A message of it that was held back is not sent any more."""
        bit = 1 << self._checked(vector)
        if not self._levels & bit:
            return
        self._levels &= ~bit
        if self._kind is InterruptKind.INTX:
            self._settle_pin()
        elif self._pending:
            wanted = self._messages_of_levels() | self._events
            self._set_pending(self._pending & (wanted | ~(1 << self._message(vector))))

    def repeat_level(self, vector: int) -> None:
        """The condition behind ``vector``, which holds, has one more cause: its message once more. None with INTx."""
        self._checked(vector)
        if self._kind is not InterruptKind.INTX:
            self._send(vector)

    def fire(self, vector: int) -> None:
        """Something happened: send the vector's message. With INTx nothing is sent; a pin needs a level."""
        if not 0 <= vector < self.vectors:
            self._checked(vector)
        if self._kind is _INTX:
            return
        self._send(vector)
        if self._pending:
            self._events |= self._pending & 1 << self._message(vector)

    def hold_pin(self) -> None:
        """One more condition holds that INTx alone tells: its device sends messages of its own where it can."""
        self._held += 1
        self._settle_pin()

    def release_pin(self) -> None:
        """A condition of `hold_pin` was served."""
        self._held -= 1
        self._settle_pin()

    # --- what the guest and the client do -------------------------------------------------------------------

    def config_written(self, change: ConfigChange) -> None:
        """To be called with what every config write answered."""
        if change & _CONCERNED:
            self._settle()

    def arm(self, kind: InterruptKind, vectors: Iterable[int]) -> None:
        """A VFIO client armed vectors with eventfds: make ``kind`` the enabled one and unmask them.

        Raises GuestError (EINVAL) for a kind or a vector that the function does not have.
        """
        vectors = tuple(vectors)
        count = self.counts[kind]
        if any(not 0 <= vector < count for vector in vectors):
            message = f"{kind.name} vectors {vectors}: the function has {count}"
            raise GuestError(message)
        self._config.enable_messages(msi=kind is InterruptKind.MSI, msix=kind is InterruptKind.MSIX)
        if kind is InterruptKind.MSIX and self._table:
            self._table.unmask(vectors)
        if kind is InterruptKind.MSI:
            self._config.allocate_messages(1 + max(vectors, default=0))
        self._settle()

    def reset(self) -> None:
        """As after power-on: no level, nothing pending, the table masked. Reset the config space first."""
        self._levels = self._pending = self._events = self._held = 0
        if self._table:
            self._table.mask_all()
        self._settle()

    # --- what can be seen -----------------------------------------------------------------------------------

    @property
    def kind(self) -> InterruptKind:
        """The kind of interrupt that is enabled."""
        return self._kind

    @property
    def pin(self) -> bool:
        """Whether the INTx pin is asserted."""
        return self._pin

    @property
    def pending(self) -> int:
        """Bit n for a message n that is held back."""
        return self._pending

    @property
    def counts(self) -> Sequence[int]:
        """How many vectors the function has of each kind, by InterruptKind."""
        table = len(self._table) // 16 if self._table else 0
        return int(self._config.interrupt_pin != 0), self._config.msi_capacity, table

    def windows(self) -> tuple[Window, ...]:
        """The parts of BARs that hold the MSI-X table and its pending bits; none without MSI-X."""
        layout, table = self._config.msix_layout, self._table
        if layout is None or table is None:
            return ()

        def write_table(offset: int, data: Bytes) -> None:
            table.write(offset, data)
            self._settle()

        return (
            Window(*layout.table, read=table.read, write=write_table),
            Window(*layout.pba, read=partial(self._read_pba, layout.pba[2]), write=self._ignore_write),
        )

    # --- state ----------------------------------------------------------------------------------------------

    def save(self) -> InterruptState:
        return InterruptState(
            self._levels, self._pending, self._table.read(0, len(self._table)) if self._table else b"", self._events
        )

    def load(self, state: InterruptState) -> None:
        """Take over a saved state, after the config space's; or raise GuestError (EINVAL) and change nothing.

        Pending messages are sent when the client arms their vectors, or by `resume`.
        """
        kind = self._enabled_kind()
        messages = (0, self._config.msi_vectors, self.vectors)[kind]
        for name, value, width in (("levels", state.levels, self.vectors), ("pending", state.pending, messages)):
            if not 0 <= value < 1 << width:
                message = f"saved {name}: expected a number of {width} bits, given {value:#x}"
                raise GuestError(message)
        if self._table:
            self._table.load(state.table)
        elif state.table:
            raise GuestError("saved MSI-X table: the function has none")
        self._kind = kind
        self._follow_msi()
        self._levels = state.levels
        self._events = state.events
        self._set_pending(state.pending)
        self._settle_pin()

    def resume(self) -> None:
        """After `load`, where vectors are armed already: send the messages that nobody took in the older place."""
        self._settle()

    # --- inside ---------------------------------------------------------------------------------------------

    def _checked(self, vector: int) -> int:
        if not 0 <= vector < self.vectors:
            message = f"interrupt vector: expected 0 to {self.vectors - 1}, given {vector}"
            raise DriverError(message)
        return vector

    def _enabled_kind(self) -> InterruptKind:
        if self._config.msix_enabled:
            return InterruptKind.MSIX
        return InterruptKind.MSI if self._config.msi_enabled else InterruptKind.INTX

    def _settle(self) -> None:
        """Follow the registers: the enabled kind, the pin, and messages that can go now."""
        self._follow_msi()
        kind = self._enabled_kind()
        if kind is not self._kind:
            self._kind = kind
            # What was held back belonged to the other kind. A condition that still holds is told again in the new
            # one: a message too many costs the guest a look, one too few may hang it.
            self._pending = 0 if kind is InterruptKind.INTX else self._messages_of_levels()
            self._events = 0
        if kind is InterruptKind.MSI:
            self._pending &= (1 << self._config.msi_vectors) - 1
        self._settle_pin()
        self._flush()

    def _follow_msi(self) -> None:
        """Keep what every message by MSI needs of the config space, of which all changes come by here."""
        self._messages = self._config.msi_vectors
        self._msi_blocked = self._config.msi_mask if self._config.bus_master else _ALL

    def _settle_pin(self) -> None:
        wanted = self._levels != 0 or self._held != 0
        asserted = wanted and self._kind is InterruptKind.INTX and self._config.interrupt_pin != 0
        self._config.interrupt_status = asserted
        pin = asserted and not self._config.intx_disabled
        if pin is not self._pin:
            self._pin = pin
            self._drive_pin(pin)

    def _send(self, vector: int) -> None:
        kind = self._kind
        message = vector if kind is _MSIX else vector % self._messages
        bit = 1 << message
        blocked = self._msi_blocked if kind is _MSI else self._blocked()
        if blocked & bit or not self._send_message(kind, message):
            self._set_pending(self._pending | bit)
        elif self._pending & bit:
            self._set_pending(self._pending & ~bit)

    def _flush(self) -> None:
        """Send every pending message that is not blocked."""
        ready = self._pending & ~self._blocked()
        while ready:
            bit = ready & -ready
            ready ^= bit
            if self._send_message(self._kind, bit.bit_length() - 1):
                self._pending &= ~bit
        self._set_pending(self._pending)

    def _blocked(self) -> int:
        if self._kind is InterruptKind.MSI:
            return self._msi_blocked
        if not self._config.bus_master:
            return _ALL
        if self._table is None or self._config.msix_function_mask:
            return _ALL
        return self._table.masked

    def _message(self, vector: int) -> int:
        """The message that ``vector`` sends."""
        return vector if self._kind is InterruptKind.MSIX else vector % self._messages

    def _messages_of_levels(self) -> int:
        """Bit n for a message n whose condition holds."""
        messages, levels = 0, self._levels
        while levels:
            bit = levels & -levels
            levels ^= bit
            messages |= 1 << self._message(bit.bit_length() - 1)
        return messages

    def _set_pending(self, pending: int) -> None:
        self._pending = pending
        self._events &= pending
        self._config.show_msi_pending(pending if self._kind is InterruptKind.MSI else 0)

    def _read_pba(self, size: int, offset: int, count: int) -> bytes:
        if offset < 0 or count < 0 or offset + count > size:
            message = f"access of {count} bytes at {offset:#x}: the pending bit array has {size:#x} bytes"
            raise OutOfRange(message)
        pending = self._pending if self._kind is InterruptKind.MSIX else 0
        return pending.to_bytes(size, "little")[offset : offset + count]

    def _ignore_write(self, offset: int, data: Bytes) -> None:
        """Pending bits are read-only; what software writes to them is dropped (PCI 3.0 section 6.8.2.10)."""
