"""`mdev-user run`: what a program sees in /sys, and that all of the machine's own is as it was."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self
from uuid import UUID

import pytest

from guest.compiler import compile_static
from mdev_user.testing.daemon import RunningDaemon
from tools.running import command, finished, printed, script

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="root's half; tests/tools/test_run_unprivileged.py has the other"),
]

UUID_1 = UUID("11111111-1111-4111-8111-111111111111")
TYPE = "class/mdev_bus/mtty/mdev_supported_types/mtty-1"
LISTED = ("", "bus", "bus/pci", "bus/pci/devices", "class", "devices", "devices/virtual", "kernel", "module")


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon("mtty") as daemon:
        yield daemon


@pytest.fixture
def daemon(shared_daemon: RunningDaemon) -> Iterator[RunningDaemon]:
    yield shared_daemon
    for each in shared_daemon.control.mdevs():
        shared_daemon.control.remove(UUID(each.uuid), wait=0, force=True)


def ls(path: str) -> set[str]:
    return {each.name for each in Path("/sys", path).iterdir()}


def test_everything_of_the_machine_is_there_and_ours_beside_it(daemon: RunningDaemon) -> None:
    inside = script(daemon, f"cd /sys; for each in {' '.join(f'./{each}' for each in LISTED)}; do ls $each; echo; done")
    for path, text in zip(LISTED, inside.split("\n\n"), strict=False):
        ours = {"mdev_bus", "mtty", "vfio", "vfio-dev", "mdev", "iommu_groups", "drivers", *ls(path)}
        assert ls(path) <= set(text.split()) <= ours, path


def test_links_lead_to_the_same_places_as_outside(daemon: RunningDaemon) -> None:
    links = "bus/pci/devices/* class/{net,tty,mem,m[dt]*}/* bus/pci/devices/*/driver bus/pci/drivers/*/module"
    each = "echo $each $(readlink $each) $(realpath -e $each)"
    text = f"cd /sys; shopt -s nullglob; for each in {links}; do {each}; done"
    inside = set(script(daemon, text).splitlines())
    outside = set(printed(["bash", "-euc", text]).splitlines())
    assert outside
    assert outside <= inside
    assert inside - outside == {
        f"class/{name}/mtty ../../devices/virtual/mtty/mtty /sys/devices/virtual/mtty/mtty"
        for name in ("mdev_bus", "mtty")
    }


def test_the_machines_sysfs_stays_writable(daemon: RunningDaemon) -> None:
    mtu = Path("/sys/class/net/lo/mtu")
    value = mtu.read_text()
    done = finished(
        command(daemon, "--", "bash", "-c", f"echo {value.strip()} > {mtu} && echo written && echo x > {mtu}")
    )
    assert done.stdout == "written\n"
    assert "write error: Invalid argument" in done.stderr, "it is the kernel that answers"
    assert mtu.read_text() == value


def test_what_is_mounted_in_sys_is_still_there(daemon: RunningDaemon) -> None:
    pattern = re.compile(r"^\S+ \S+ \S+ \S+ (/sys/\S+)", re.MULTILINE)
    below = pattern.findall(Path("/proc/self/mountinfo").read_text())
    inside = pattern.findall(script(daemon, "cat /proc/self/mountinfo"))
    assert set(below) <= set(inside)


def test_mdevs_come_and_go(daemon: RunningDaemon) -> None:
    text = f"""
        cd /sys; echo {UUID_1} > {TYPE}/create; cat bus/mdev/devices/{UUID_1}/mdev_type/name
        realpath -e bus/mdev/devices/{UUID_1}; realpath -e class/mdev_bus/mtty/{UUID_1}/iommu_group
        test "$(ls class/vfio)" = "$(basename $(realpath class/mdev_bus/mtty/{UUID_1}/iommu_group))"; echo
        echo {UUID_1} > {TYPE}/create
        echo 1 > bus/mdev/devices/{UUID_1}/remove; ls bus/mdev/devices class/vfio
    """
    done = finished(command(daemon, "--", "bash", "-uc", text))
    name, device, group, *rest = done.stdout.splitlines()
    assert (name, device) == ("Single port serial", f"/sys/devices/virtual/mtty/mtty/{UUID_1}")
    assert Path(group).parent == Path("/sys/kernel/iommu_groups")
    assert rest == ["", "bus/mdev/devices:", "", "class/vfio:"]
    assert done.stderr.endswith("write error: File exists\n")


class Shell:
    """A shell in `run` that goes on while the test does something outside."""

    def __init__(self, daemon: RunningDaemon) -> None:
        words = command(daemon, "--", "bash")
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        assert self.says("true") == 0
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.communicate()

    def says(self, text: str) -> int:
        """The exit status of a command."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"({text}) >/dev/null 2>&1; echo $?\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def test_parents_and_drivers_that_come_later_are_seen(daemon: RunningDaemon) -> None:
    crc = "/sys/class/mdev_bus/crc"
    with Shell(daemon) as shell:
        assert shell.says(f"ls {crc}/") != 0
        daemon.control.register_parent("mtty,name=later")
        daemon.control.register_parent("crc")
        try:
            assert shell.says("cat /sys/class/mdev_bus/later/mdev_supported_types/mtty-1/name") == 0
            assert shell.says(f"test $(realpath -e {crc}) = /sys/devices/virtual/crc/crc") == 0
            assert shell.says("cd /sys; ls -d class/crc module/crc bus/mdev/drivers/crc/module/") == 0
            assert shell.says(f"echo {UUID_1} > {crc}/mdev_supported_types/crc-small/create") == 0
            assert [each.parent for each in daemon.control.mdevs()] == ["crc"]
        finally:
            daemon.control.unregister_parent("crc")
            daemon.control.unregister_parent("later")
        assert shell.says(f"ls {crc}/") != 0
        assert shell.says("ls /sys/devices/virtual/crc") != 0


LOOK = f"""
#include <stdio.h>
int main(void) {{
    char text[9] = "";
    FILE *file = fopen("/sys/{TYPE}/device_api", "r");
    return !(file && fgets(text, sizeof text, file) && puts(text) >= 0);
}}
"""


def test_a_static_program_sees_it_too(daemon: RunningDaemon, tmp_path: Path) -> None:
    source = tmp_path / "look.c"
    source.write_text(LOOK)
    compile_static(source, tmp_path / "look")
    assert printed(command(daemon, "--", str(tmp_path / "look"))) == "vfio-pci\n"
    assert finished([str(tmp_path / "look")]).returncode == 1, "the negative control: outside there is nothing"


def test_commands_inside_find_their_daemon(daemon: RunningDaemon) -> None:
    daemon.create("mtty-1", UUID_1)
    words = command(daemon, "--", sys.executable, "-m", "mdev_user", "list", "-o", "name")
    assert printed(words) == f"{UUID_1}\n"


def test_a_run_in_a_run_shows_the_same(daemon: RunningDaemon) -> None:
    inner = command(daemon, "--", "readlink", "/proc/self/ns/mnt", "/sys/class/mdev_bus/mtty")
    outer = printed(command(daemon, "--", "sh", "-c", 'readlink /proc/self/ns/mnt; exec "$@"', "sh", *inner))
    first, second, link = outer.split()
    assert first == second, "nothing is composed twice"
    assert link == "../../devices/virtual/mtty/mtty"


def test_a_run_in_another_daemons_run_is_refused(daemon: RunningDaemon) -> None:
    with RunningDaemon() as other:
        done = finished(command(daemon, "--", *command(other, "--", "true")))
    assert done.returncode == 1
    assert "the tree of another daemon" in done.stderr


def test_a_folder_that_sys_is_read_in_is_the_new_one(daemon: RunningDaemon) -> None:
    done = finished(command(daemon, "--", "ls"), folder=Path("/sys/class"))
    assert "mdev_bus" in done.stdout.split()


def test_where_sys_is_read_only_that_part_stays_so(daemon: RunningDaemon) -> None:
    text = f"cat /sys/class/net/lo/mtu > /sys/class/net/lo/mtu; echo {UUID_1} > /sys/{TYPE}/create && echo created"
    prepare = 'mount -o remount,bind,ro /sys && exec "$@"'
    inside = command(daemon, "--", "bash", "-c", text)
    done = finished(["unshare", "--mount", "sh", "-c", prepare, "sh", *inside])
    assert "Read-only file system" in done.stderr
    assert done.stdout == "created\n"


GROUPS = """
mount -t tmpfs none /sys/kernel/iommu_groups
mkdir -p /sys/kernel/iommu_groups/{0,1,13}/devices
echo DMA-FQ > /sys/kernel/iommu_groups/13/type
exec "$@"
"""
LATER_GROUP = f"""
import subprocess
from uuid import UUID
from mdev_user.testing.daemon import RunningDaemon
from tools.running import script
with RunningDaemon("mtty") as daemon:
    print(script(daemon, '''
        cd /sys/kernel/iommu_groups; ls; echo {UUID_1} > /sys/{TYPE}/create; ls
        basename $(realpath -e /sys/bus/mdev/devices/{UUID_1}/iommu_group); ls 2/devices
        cat 13/type; echo identity > 13/type; cat 13/type
    ''').split())
"""


def test_a_group_that_comes_later_is_seen_beside_those_of_the_machine() -> None:
    """With the groups of a machine that has an IOMMU: the daemon takes other numbers, and neither hides the other."""
    words = [sys.executable, "-c", LATER_GROUP]
    done = finished(
        ["unshare", "--mount", "bash", "-euc", GROUPS, "bash", *words],
        environment={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    expected = ["0", "1", "13", "0", "1", "13", "2", "2", str(UUID_1), "DMA-FQ", "identity"]
    assert done.stdout.strip() == str(expected), done
