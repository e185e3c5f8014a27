"""What the README tells to type, typed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mdev_user.testing.daemon import RunningDaemon

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def by_hand() -> list[str]:
    """The commands below the heading "By hand"."""
    block = re.search(r"## By hand\n+```sh\n(.*?)```", README, re.DOTALL)
    assert block is not None
    return block[1].splitlines()


@pytest.mark.fuse
def test_the_commands_by_hand_do_what_the_readme_says() -> None:
    serve, *commands = by_hand()
    assert serve.startswith("mdev-user serve mtty &")
    with RunningDaemon("mtty") as daemon:
        # The run directory and the command's place are the machine's; everything else is as it stands.
        run_dir = str(daemon.run_dir.path)
        command = f'mdev-user() {{ c=$1; shift; "{sys.executable}" -m mdev_user "$c" --run-dir "{run_dir}" "$@"; }}'
        script = "\n".join([command, *commands]).replace("/run/mdev-user/", f"{run_dir}/")
        done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert lines[:3] == ["Single port serial", "24", "23"]
        assert any("vfio-user-pci" in line for line in lines)
        assert daemon.control.mdevs() == []


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for command in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{command}:", makefile, re.MULTILINE), command
