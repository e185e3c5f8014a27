"""scripts/install-system-packages, run on a machine played by a folder of stubs."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts/install-system-packages"
APT_GET = """#!/bin/sh
echo "$@" >>"$CALLS"
case "$*" in
*install*) [ -e "$LISTS" ] || { echo 'E: Unable to locate package fuse3'; exit 100; } ;;
*update*) {update} ;;
esac
"""


class Machine:
    """Programs by name, each with the text of a shell script; nothing else is on its PATH."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._programs = folder / "bin"
        self._programs.mkdir()
        for tool in ("sh", "mktemp", "grep", "rm"):
            found = shutil.which(tool)
            assert found is not None
            (self._programs / tool).symlink_to(found)

    def has(self, **programs: str) -> None:
        for name, text in programs.items():
            path = self._programs / name.replace("_", "-")
            path.write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}\n")
            path.chmod(0o755)

    def run(self, *arguments: str) -> tuple[str, str]:
        """What the script prints, both streams together, and the calls of apt-get."""
        calls = self._folder / "calls"
        environment = {
            "PATH": str(self._programs),
            "CALLS": str(calls),
            "LISTS": str(self._folder / "lists"),
            "TMPDIR": str(self._folder),
        }
        done = subprocess.run(
            [str(self._programs / "sh"), str(SCRIPT), *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=30,
            check=True,
        )
        assert sorted(path.name for path in self._folder.iterdir() if path.name.startswith("tmp")) == []
        return done.stdout, calls.read_text() if calls.exists() else ""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A Debian as root with everything but fuse3."""
    played = Machine(tmp_path)
    played.has(id="echo 0", python3="exit 0", lspci="exit 0", apt_get=APT_GET.replace("{update}", ': >"$LISTS"'))
    if not os.access("/usr/share/keyrings/debian-archive-keyring.gpg", os.R_OK):
        pytest.skip("the script looks for the keyring of a real Debian")
    return played


def test_a_complete_machine_is_left_alone(machine: Machine) -> None:
    machine.has(fusermount3="exit 0")
    assert machine.run() == ("", "")


def test_what_is_missing_is_installed_after_an_update_of_old_lists(machine: Machine) -> None:
    output, calls = machine.run()
    assert output == "system packages: installing fuse3\n"
    install = "-qq -y -o DPkg::Lock::Timeout=120 install --no-install-recommends fuse3\n"
    assert calls == f"{install}-qq update\n{install}"


def test_a_python_without_venv_asks_for_debians(machine: Machine) -> None:
    machine.has(python3="exit 1")
    assert machine.run()[0] == "system packages: installing python3-venv fuse3\n"


def test_a_failed_installation_is_told_in_one_line_and_the_caller_goes_on(machine: Machine) -> None:
    machine.has(apt_get=APT_GET.replace("{update}", "exit 100"))
    assert machine.run()[0].splitlines()[1:] == [
        "system packages: apt-get could not install fuse3: E: Unable to locate package fuse3"
    ]


@pytest.mark.parametrize("absent", ["root", "apt-get"])
def test_without_root_or_apt_get_it_says_what_is_missing(machine: Machine, tmp_path: Path, absent: str) -> None:
    if absent == "root":
        machine.has(id="echo 1000")
    else:
        (tmp_path / "bin/apt-get").unlink()
    output, calls = machine.run()
    assert output == "system packages: missing fuse3; as root on Debian: apt-get install fuse3\n"
    assert calls == ""


def test_only_the_benchmark_needs_a_compiler(machine: Machine) -> None:
    machine.has(fusermount3="exit 0")
    assert machine.run()[0] == ""
    assert machine.run("bench")[0].startswith("system packages: installing gcc")


def test_only_the_tests_need_mdevctl_udevadm_and_a_compiler_for_guests(machine: Machine) -> None:
    machine.has(fusermount3="exit 0")
    assert machine.run()[0] == ""
    assert machine.run("test")[0].startswith("system packages: installing mdevctl udev tcc")
