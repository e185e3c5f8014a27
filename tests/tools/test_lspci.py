"""lspci, unmodified, within ``run``: our PCI function is there, and the machine's are as they were."""

import re
import shutil
import subprocess

import pytest

from core import core_skip
from mdev_user.guests.management import ManagementRoot
from tools.conftest import PCI_NAME
from tools.inside import SECONDS, Inside

pytestmark = pytest.mark.fuse

# As Cyborg takes a line apart (cyborg/accelerator/common/utils.py), in our words.
LINE_OF_CYBORG = re.compile(
    r"([0-9a-fA-F]{4}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-9a-fA-F]) (.*?) \[([0-9a-fA-F]{4})\]: .*? "
    r"\[([0-9a-fA-F]{4}):([0-9a-fA-F]{4})\]"
)


@pytest.fixture(params=["the machine's", "Debian 13's"])
def lspci(request: pytest.FixtureRequest, management_root: ManagementRoot) -> tuple[str, ...]:
    """The beginning of an argv."""
    if request.param != "the machine's":
        names = management_root.path / "usr/share/misc/pci.ids"
        return (*management_root.command("lspci"), "-i", str(names))
    if shutil.which("lspci") is None:
        core_skip("no lspci: `scripts/install-system-packages` installs it")
    return ("lspci",)


def functions(text: str) -> dict[str, str]:
    """What lspci prints, by address."""
    blocks = re.split(r"\n(?=[0-9a-f])", text.strip())
    return {block.split(" ", 1)[0]: block.strip() for block in blocks if block}


def outside(*argv: str) -> dict[str, str]:
    return functions(subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS, check=True).stdout)


@pytest.mark.parametrize("options", [("-nnn", "-D"), ("-vv", "-D")], ids=" ".join)
def test_the_machines_functions_are_as_before_and_ours_is_beside_them(
    inside: Inside, lspci: tuple[str, ...], options: tuple[str, ...]
) -> None:
    there = functions(inside.run(*lspci, *options).out)
    assert there.pop(PCI_NAME)
    before = outside(*lspci, *options)
    assert there == before
    assert PCI_NAME not in before


def test_ours_is_told_in_numbers_and_names(inside: Inside, lspci: tuple[str, ...]) -> None:
    line = functions(inside.run(*lspci, "-nnn").out)[PCI_NAME]
    assert line.startswith(f"{PCI_NAME} 3D controller [0302]: NVIDIA Corporation ")
    assert line.endswith(" [10de:1eb8]")
    found = LINE_OF_CYBORG.match(functions(inside.run(*lspci, "-nnn", "-D").out)[PCI_NAME])
    assert found is not None
    assert found.groups() == (PCI_NAME, "3D controller", "0302", "10de", "1eb8")


def test_ours_is_told_at_length(inside: Inside, lspci: tuple[str, ...]) -> None:
    text = functions(inside.run(*lspci, "-vv").out)[PCI_NAME]
    assert "\n\tControl: I/O- Mem- BusMaster- " in text
    assert "\n\tStatus: Cap- " in text
    assert "\n\tKernel driver in use: nvidia" in text
