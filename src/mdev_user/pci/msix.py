"""The MSI-X vector table: 16 bytes per vector in a BAR (PCI 3.0 section 6.8.2).

An entry is message address (64 bits, a multiple of 4), data (32 bits) and vector control (bit 0: masked, which it
is after a reset). QEMU traps a guest's accesses to the table, so that they reach us only from clients that do not.
"""

from collections.abc import Iterable

from mdev_user.pci.capabilities import Msix
from mdev_user.pci.masked import Bytes, ImageBuilder, MaskedBytes

ENTRY = 16
_CONTROL = 12


class MsixTable(MaskedBytes):
    """The table's bytes, with the masked vectors kept as one number."""

    __slots__ = ("masked",)

    def __init__(self, declaration: Msix) -> None:
        builder = ImageBuilder(ENTRY)
        builder.field(0, 8, 0, writable=0xFFFF_FFFF_FFFF_FFFC)
        builder.field(8, 4, 0, writable=0xFFFF_FFFF)
        builder.field(_CONTROL, 4, 1, writable=1)
        super().__init__(builder.image().repeated(declaration.vectors))
        self.masked = self._masked_vectors()

    def write(self, offset: int, data: Bytes) -> None:
        """A client's write of any size. Raises OutOfRange (EFAULT) beyond the end."""
        if self.store(offset, data):
            self.masked = self._masked_vectors()

    def unmask(self, vectors: Iterable[int]) -> None:
        for vector in vectors:
            self._values[ENTRY * vector + _CONTROL] = 0
        self.masked = self._masked_vectors()

    def mask_all(self) -> None:
        """As after a reset: nothing programmed, everything masked."""
        self.reset()
        self.masked = self._masked_vectors()

    def load(self, values: bytes) -> None:
        """Take over saved bytes, or raise GuestError (EINVAL)."""
        self.load_values(values)
        self.masked = self._masked_vectors()

    def _masked_vectors(self) -> int:
        """Bit n for a masked vector n: the control bytes are 0 or 1, the digits of a binary number."""
        controls = self._values[_CONTROL::ENTRY]
        controls.reverse()
        return int(controls.translate(_DIGITS), 2)


_DIGITS = bytes.maketrans(b"\0\1", b"01")
