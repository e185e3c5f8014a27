"""The config space of one function in use: what a guest reads and writes, and what its registers mean.

A guest's write answers with what it changed, so that the layer above does nothing for the writes that change
nothing, which are most of them (enumeration writes every BAR twice).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntFlag

from mdev_user.errors import DriverError, GuestError
from mdev_user.pci import layout
from mdev_user.pci.bars import BAR_REGISTERS, BAR_SLOTS, Bar
from mdev_user.pci.capabilities import (
    MSI_ENABLE,
    MSIX_ENABLE,
    MSIX_FUNCTION_MASK,
    POWER_STATE,
    Capability,
    Msi,
    Msix,
    PowerManagement,
)
from mdev_user.pci.identity import PciId
from mdev_user.pci.masked import Bytes, MaskedBytes


class ConfigChange(IntFlag):
    """Which registers a write really changed."""

    NONE = 0
    COMMAND = 1
    BARS = 2
    MSI = 4
    MSIX = 8
    POWER = 16


class StatusError(IntFlag):
    """Errors in the Status register that stay until the guest writes 1 (PCI 3.0 section 6.2.3)."""

    MASTER_DATA_PARITY = 1 << 8
    SIGNALED_TARGET_ABORT = 1 << 11
    RECEIVED_TARGET_ABORT = 1 << 12
    RECEIVED_MASTER_ABORT = 1 << 13
    SIGNALED_SYSTEM_ERROR = 1 << 14
    DETECTED_PARITY = 1 << 15


@dataclass(frozen=True, slots=True)
class MsiState:
    """The MSI registers at one moment."""

    enabled: bool
    address: int
    data: int
    vectors: int
    """How many messages the guest allocated: at most what the function declares."""
    mask: int
    pending: int


@dataclass(frozen=True, slots=True)
class MsixState:
    """The MSI-X message control at one moment; the vectors themselves are in the table."""

    enabled: bool
    function_mask: bool


@dataclass(frozen=True, slots=True)
class ConfigState:
    """All that a config space remembers, as a value to save."""

    values: bytes


class ConfigSpace(MaskedBytes):
    """256 bytes (4096 for PCI Express) compiled from declarations.

    ``bars`` maps a BAR's index to its kind; a wide one takes the next index too. ``interrupt_pin`` is 1 to 4 for
    INTA to INTD, 0 for none. ``reset_values`` adds read-only bytes of the device's own at offsets that no declared
    register has, and reset bits to Command and Status (0x04 to 0x07). Bad declarations are a DriverError.

    `read` takes any range; out of range it and `write` raise OutOfRange. Registers that the function does not have
    read as zero and ignore writes. `reset` is what power-on does; around VFIO_DEVICE_RESET Linux saves and restores
    the config space of a device, so that a program keeps what it set before (``pci_try_reset_function``).
    """

    __slots__ = ("_bars", "_msi", "_msi_offset", "_msix_offset", "_power_offset", "_watched", "msix_layout")

    def __init__(
        self,
        identity: PciId,
        bars: Mapping[int, Bar],
        capabilities: Sequence[Capability] = (),
        *,
        interrupt_pin: int = 1,
        size: int = 256,
        reset_values: Mapping[int, bytes] | None = None,
    ) -> None:
        compiled = layout.lay_out(
            identity,
            tuple(bars.items()),
            tuple(capabilities),
            interrupt_pin,
            size,
            tuple((reset_values or {}).items()),
        )
        super().__init__(compiled.image)
        self._bars = dict(bars)
        # Offset 0 stands for a capability that the function does not have: there the ids are.
        self._msi_offset = self._msix_offset = self._power_offset = 0
        self._msi = Msi()
        self.msix_layout: Msix | None = None
        watched = [
            (_bits(layout.COMMAND, 2), ConfigChange.COMMAND),
            (_bits(BAR_REGISTERS, 4 * BAR_SLOTS), ConfigChange.BARS),
        ]
        for offset, length, capability in compiled.capabilities:
            watched.append((_bits(offset, length), self._adopt(offset, capability)))
        self._watched = tuple((bits, int(change)) for bits, change in watched)

    def _adopt(self, offset: int, capability: Capability) -> ConfigChange:
        match capability:
            case Msi():
                self._msi_offset, self._msi = offset, capability
                return ConfigChange.MSI
            case Msix():
                self._msix_offset, self.msix_layout = offset, capability
                return ConfigChange.MSIX
            case PowerManagement():
                self._power_offset = offset
                return ConfigChange.POWER
            case _:
                return ConfigChange.NONE

    # --- the guest's side -----------------------------------------------------------------------------------

    def write(self, offset: int, data: Bytes) -> ConfigChange:
        """A guest's write of any size and alignment; says what it changed."""
        before = self.power_state
        changed = self.store(offset, data) << 8 * offset
        if self.power_state in (1, 2):
            changed ^= self._discard_power_state(before)
        change = 0
        for bits, kind in self._watched:
            if changed & bits:
                change |= kind
        return ConfigChange(change)

    def _discard_power_state(self, before: int) -> int:
        """D1 and D2 are not supported: such a write completes and changes nothing (PCI PM 1.2 section 3.2.4)."""
        control = self._power_offset + 4
        undone = self.power_state ^ before
        self._values[control] ^= undone
        return undone << 8 * control

    # --- the header -----------------------------------------------------------------------------------------

    @property
    def io_enabled(self) -> bool:
        return self._values[layout.COMMAND] & layout.COMMAND_IO != 0

    @property
    def memory_enabled(self) -> bool:
        return self._values[layout.COMMAND] & layout.COMMAND_MEMORY != 0

    @property
    def bus_master(self) -> bool:
        return self._values[layout.COMMAND] & layout.COMMAND_MASTER != 0

    @property
    def intx_disabled(self) -> bool:
        return self._get(layout.COMMAND, 2) & layout.COMMAND_INTX_DISABLE != 0

    @property
    def interrupt_pin(self) -> int:
        """1 to 4 for INTA to INTD, 0 for none."""
        return self._values[0x3D]

    @property
    def interrupt_status(self) -> bool:
        """Status bit 3: an INTx interrupt is pending in the function, whether or not the pin is disabled."""
        return self._values[layout.STATUS] & layout.STATUS_INTERRUPT != 0

    @interrupt_status.setter
    def interrupt_status(self, pending: bool) -> None:
        if pending and self.interrupt_pin:
            self._values[layout.STATUS] |= layout.STATUS_INTERRUPT
        else:
            self._values[layout.STATUS] &= ~layout.STATUS_INTERRUPT & 0xFF

    def latch(self, error: StatusError) -> None:
        """Set error bits in Status, e.g. RECEIVED_MASTER_ABORT after a DMA access that nobody answered."""
        self._put(layout.STATUS, 2, self._get(layout.STATUS, 2) | error)

    def bar_address(self, index: int) -> int:
        """Where the guest has put BAR ``index``; 0 after a reset."""
        bar = self._bars.get(index)
        if bar is None:
            message = f"bar_address({index}): the function has the BARs {sorted(self._bars)}"
            raise DriverError(message)
        return self._get(BAR_REGISTERS + 4 * index, 4 * bar.slots) & bar.address_mask

    # --- capabilities ---------------------------------------------------------------------------------------

    @property
    def power_state(self) -> int:
        """0 for D0 (also without the capability), 3 for D3hot."""
        return self._values[self._power_offset + 4] & POWER_STATE if self._power_offset else 0

    @property
    def msi(self) -> MsiState | None:
        """The MSI registers; None without the capability."""
        if not self._msi_offset:
            return None
        return MsiState(
            enabled=self.msi_enabled,
            address=self._get(self._msi_offset + 4, 8 if self._msi.wide else 4),
            data=self._get(self._msi_offset + self._msi.data_offset, 2),
            vectors=self.msi_vectors,
            mask=self.msi_mask,
            pending=self._get(self._msi_offset + self._msi.mask_offset + 4, 4) if self._msi.maskable else 0,
        )

    @property
    def msi_enabled(self) -> bool:
        return self._msi_offset != 0 and self._values[self._msi_offset + 2] & MSI_ENABLE != 0

    @property
    def msi_capacity(self) -> int:
        """How many MSI vectors the function declares; 0 without the capability."""
        return self._msi.vectors if self._msi_offset else 0

    @property
    def msi_vectors(self) -> int:
        """How many messages the guest allocated, 1 without the capability."""
        if not self._msi_offset:
            return 1
        # The field may hold more than the function asked for, or one of the two reserved values.
        allocated: int = 1 << (self._values[self._msi_offset + 2] >> 4 & 7)
        return min(allocated, self._msi.vectors)

    @property
    def msi_mask(self) -> int:
        """A bit for each masked MSI vector."""
        if not self._msi_offset or not self._msi.maskable:
            return 0
        return self._get(self._msi_offset + self._msi.mask_offset, 4)

    def show_msi_pending(self, pending: int) -> None:
        """Show the pending vectors in the MSI pending register, where there is one."""
        if self._msi_offset and self._msi.maskable:
            self._put(self._msi_offset + self._msi.mask_offset + 4, 4, pending)

    @property
    def msix(self) -> MsixState | None:
        """The MSI-X message control; None without the capability."""
        if not self._msix_offset:
            return None
        return MsixState(enabled=self.msix_enabled, function_mask=self.msix_function_mask)

    @property
    def msix_enabled(self) -> bool:
        return self._msix_offset != 0 and self._msix_control & MSIX_ENABLE != 0

    @property
    def msix_function_mask(self) -> bool:
        return self._msix_offset != 0 and self._msix_control & MSIX_FUNCTION_MASK != 0

    @property
    def _msix_control(self) -> int:
        return self._get(self._msix_offset + 2, 2)

    def enable_messages(self, *, msi: bool, msix: bool) -> None:
        """Set the Enable bits as the system software below a VFIO user does when that arms MSI or MSI-X."""
        for offset, bit, enabled in (
            (self._msi_offset, MSI_ENABLE, msi),
            (self._msix_offset, MSIX_ENABLE, msix),
        ):
            if offset:
                control = self._get(offset + 2, 2) & ~bit
                self._put(offset + 2, 2, control | bit if enabled else control)

    def allocate_messages(self, vectors: int) -> None:
        """Let the function use at least so many MSI messages (Multiple Message Enable), as that software does."""
        if self._msi_offset and vectors > self.msi_vectors:
            allocated = (vectors - 1).bit_length()
            self._put(self._msi_offset + 2, 2, self._get(self._msi_offset + 2, 2) & ~0x70 | allocated << 4)

    # --- state ----------------------------------------------------------------------------------------------

    def save(self) -> ConfigState:
        return ConfigState(bytes(self._values))

    def load(self, state: ConfigState) -> None:
        """Take over a saved state, or raise GuestError (EINVAL) and change nothing."""
        if self._power_offset and state.values[self._power_offset + 4 :][:1] in _UNSUPPORTED_POWER:
            raise GuestError("saved config space: expected power state D0 or D3hot")
        self.load_values(state.values)

    def _get(self, offset: int, size: int) -> int:
        return int.from_bytes(self._values[offset : offset + size], "little")

    def _put(self, offset: int, size: int, value: int) -> None:
        self._values[offset : offset + size] = value.to_bytes(size, "little")


_UNSUPPORTED_POWER = (b"\x09", b"\x0a")
"""PMCSR's low byte in D1 and D2: No_Soft_Reset and the state."""


def _bits(offset: int, size: int) -> int:
    """A mask of whole bytes in the space seen as one number."""
    return ((1 << 8 * size) - 1) << 8 * offset
