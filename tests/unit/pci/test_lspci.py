"""What lspci says of a rendered config space: a second opinion on every layout, by those who wrote the decoder."""

import shutil
import subprocess
from pathlib import Path

import pytest

from mdev_user.pci.bars import IoBar, MemoryBar
from mdev_user.pci.capabilities import Msi, Msix, PciExpress, PowerManagement, VendorSpecific
from mdev_user.pci.config import ConfigSpace
from mdev_user.pci.identity import PciId

LSPCI = shutil.which("lspci")
pytestmark = pytest.mark.skipif(LSPCI is None, reason="lspci is not installed (package pciutils)")


def hexdump(values: bytes) -> str:
    """The format that ``lspci -xxx`` prints and ``lspci -F`` reads."""
    rows = [f"{offset:02x}: {values[offset : offset + 16].hex(' ')}" for offset in range(0, len(values), 16)]
    return "\n".join(["00:01.0 device", *rows, "", ""])


def lspci(space: ConfigSpace, folder: Path) -> str:
    dump = folder / "dump"
    dump.write_text(hexdump(space.read(0, len(space))))
    assert LSPCI is not None
    found = subprocess.run(
        [LSPCI, "-n", "-F", str(dump), "-vvv"], capture_output=True, text=True, check=True, timeout=20
    )
    return found.stdout


def squeezed(text: str) -> str:
    return " ".join(text.split())


def mtty() -> ConfigSpace:
    return ConfigSpace(PciId(0x4348, 0x3253, 0x070002, 0x10), {0: IoBar(8)}, [Msi(1)])


def test_lspci_reads_an_mtty(tmp_path: Path) -> None:
    space = mtty()
    space.write(0x10, (0xC040).to_bytes(4, "little"))
    space.write(0x04, b"\x05\x04")
    space.write(0x3C, b"\x0b")
    space.interrupt_status = True
    text = squeezed(lspci(space, tmp_path))
    assert "00:01.0 0700: 4348:3253 (rev 10) (prog-if 02 [16550])" in text
    assert "Control: I/O+ Mem- BusMaster+" in text
    assert "DisINTx+ Status: Cap+" in text
    assert "INTx+" in text
    assert "Interrupt: pin A routed to IRQ 11" in text
    assert "Region 0: I/O ports at c040" in text
    assert "Capabilities: [40] MSI: Enable- Count=1/1 Maskable+ 64bit+" in text


def test_lspci_reads_every_capability(tmp_path: Path) -> None:
    bars = {0: MemoryBar(1 << 16), 2: MemoryBar(1 << 20, prefetchable=True, wide=True)}
    chain = (PowerManagement(), Msi(8, wide=False), Msix(33, 0, 0x8000), VendorSpecific(b"\0hi"), PciExpress())
    space = ConfigSpace(PciId(0x1DE5, 0x0C3C, 0x120000, 3, 0x1AF4, 0x1100), bars, chain, size=4096)
    space.write(0x10, (0xFEB00000).to_bytes(4, "little"))
    space.write(0x18, (0x38_0000_0000).to_bytes(8, "little"))
    space.write(0x04, b"\x06\0")
    space.write(0x44, b"\x03")  # D3hot
    space.write(0x4A, b"\x31")  # MSI enabled, all eight messages
    space.write(0x4C, (0xFEE00000).to_bytes(4, "little"))
    space.write(0x5F, b"\xc0")  # MSI-X enabled and masked
    text = squeezed(lspci(space, tmp_path))
    assert "Subsystem: 1af4:1100" in text
    assert "Region 0: Memory at feb00000 (32-bit, non-prefetchable)" in text
    assert "Region 2: Memory at 3800000000 (64-bit, prefetchable)" in text
    assert "Capabilities: [40] Power Management version 3" in text
    assert "Status: D3 NoSoftRst+ PME-Enable-" in text
    assert "Capabilities: [48] MSI: Enable+ Count=8/8 Maskable+ 64bit- Address: fee00000" in text
    assert "MSI-X: Enable+ Count=33 Masked+ Vector table: BAR=0 offset=00008000" in text
    assert "PBA: BAR=0 offset=00008210" in text
    assert "Vendor Specific Information: Len=06" in text
    assert "Express (v2) Endpoint, MSI 00" in text
    assert "MaxPayload 128 bytes, MaxReadReq 512 bytes" in text
    assert "LnkSta: Speed 2.5GT/s, Width x1" in text
    assert "!!!" not in text
    assert "broken" not in text.lower()


def test_lspci_notices_a_broken_chain(tmp_path: Path) -> None:
    """Negative control: a chain that runs in a circle is not read as a good one."""
    space = mtty()
    space._values[0x41] = 0x40
    assert "<chain looped>" in lspci(space, tmp_path)
