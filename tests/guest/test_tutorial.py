"""The tutorial, from its empty file to the interrupt in a real guest, which has the machine's own lspci and setpci."""

import lzma
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from core import core_skip
from docs.page import ROOT, Reader
from mdev_user.guests.rig import Rig
from mdev_user.guests.vm import Guest

pytestmark = [pytest.mark.guest, pytest.mark.fuse]

PAGE = ROOT / "docs/tutorial/your-first-parent-driver.md"
TOOLS = ("lspci", "setpci")
MODULES = {"uio": "drivers/uio/uio", "uio_pci_generic": "drivers/uio/uio_pci_generic"}
DEPENDENCIES = b"uio_pci_generic.ko: uio.ko\nuio.ko:\n"


@pytest.fixture(scope="module")
def files(rig: Rig) -> Mapping[str, bytes]:
    """What any Linux has, and the rig's guest lacks: pciutils, and two modules for modprobe."""
    folder = f"/lib/modules/{rig.kernel_release}"
    found = {f"{folder}/modules.dep": DEPENDENCIES}
    for tool in TOOLS:
        found |= {path: Path(path).read_bytes() for path in libraries(tool)}
        found[f"/bin/{tool}"] = Path(shutil.which(tool) or "").read_bytes()
    for name, module in MODULES.items():
        packed = rig.modules / "kernel" / f"{module}.ko.xz"
        found[f"{folder}/{name}.ko"] = lzma.decompress(packed.read_bytes())
    return found


def libraries(tool: str) -> list[str]:
    """The files of the libraries that a program is linked with, its interpreter among them."""
    path = shutil.which(tool)
    if path is None:
        core_skip(f"no {tool} here: it is in the package pciutils")
    listed = subprocess.run(["ldd", path], capture_output=True, text=True, timeout=30, check=True).stdout
    return re.findall(r"(/\S+) \(0x", listed)


def test_the_tutorial_is_true_to_its_last_line(rig: Rig, files: Mapping[str, bytes], tmp_path: Path) -> None:
    with ExitStack() as guests:

        def boot(sockets: Sequence[Path]) -> Guest:
            guest = guests.enter_context(Guest(rig, sockets, files=files))
            guest.run(f"chmod +x {' '.join(files)}")
            return guest

        with Reader(tmp_path, boot) as reader:
            reader.read(PAGE)
        assert reader.done.count("guest") == 3
