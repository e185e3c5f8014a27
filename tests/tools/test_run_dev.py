"""`mdev-user run`: /dev is the machine's, with the nodes of our mdevs in it."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mdev_user.testing.daemon import RunningDaemon
from mdev_user.vfio.device_numbers import CDEV_MAJOR, GROUP_MAJOR
from tools.running import command, printed, script

pytestmark = [pytest.mark.fuse, pytest.mark.skipif(os.geteuid() != 0, reason="root's half")]

TERMINAL = (
    "import os, pty; each, other = pty.openpty(); os.write(each, b'x\\n'); print(os.isatty(other), os.read(other, 9))"
)


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon("mtty") as daemon:
        yield daemon


def test_all_of_the_machines_is_there_and_works(daemon: RunningDaemon) -> None:
    listing = "stat -c '%n %F %t:%T %a %u:%g' /dev/* | sort"
    inside, outside = (set(text.splitlines()) for text in (script(daemon, listing), printed(["bash", "-c", listing])))
    assert {each.split()[0] for each in outside - inside} <= {"/dev/ptmx"}, "it is a link to one that finds its pts"
    assert {each.split()[0] for each in inside - outside} <= {"/dev/vfio", "/dev/iommu", "/dev/ptmx"}
    text = f"""
        echo x > /dev/null; head -c 4 /dev/urandom | wc -c; echo x | cat /dev/stdin; python3 -c "{TERMINAL}"
        f=/dev/shm/$$; echo shared > $f; cat /proc/self/root$f; rm $f; test -d /dev/pts
    """
    assert script(daemon, text).splitlines() == ["4", "x", r"True b'x\n'", "shared"]


def test_a_node_has_the_number_that_sysfs_tells(daemon: RunningDaemon) -> None:
    uuid = daemon.create("mtty-1")
    device = f"/sys/bus/mdev/devices/{uuid}"
    text = f"""
        group=$(basename $(readlink {device}/iommu_group)); cdev=$(ls {device}/vfio-dev)
        for each in vfio/$group vfio/devices/$cdev vfio/vfio iommu; do
            test -c /dev/$each; stat -c '%a' /dev/$each
            echo $((0x$(stat -c %t /dev/$each))):$((0x$(stat -c %T /dev/$each)))
        done; test -r /dev/iommu -a -w /dev/iommu
        cat /sys/class/vfio/$group/dev {device}/vfio-dev/$cdev/dev /sys/class/misc/{{vfio,iommu}}/dev
        echo $group ${{cdev#vfio}}
    """
    *lines, numbers = script(daemon, text).splitlines()
    group, cdev = numbers.split()
    assert lines[:8:2] == ["600", "600", "666", "666"]
    assert lines[1:8:2] == lines[8:] == [f"{GROUP_MAJOR}:{group}", f"{CDEV_MAJOR}:{cdev}", "10:196", "10:197"]
    daemon.control.remove(uuid, wait=0, force=True)
    assert script(daemon, "ls /dev/vfio").split() == ["vfio"]


def test_to_give_a_node_away_is_to_give_the_mdev(daemon: RunningDaemon) -> None:
    uuid = daemon.create("mtty-1")
    owners = f"stat -c %u:%g /dev/vfio/[0-9]* /dev/vfio/devices/* /sys/bus/mdev/devices/{uuid}/"
    given = script(
        daemon, f"chown 1000:1001 /dev/vfio/[0-9]*; {owners}; chown 7:8 /sys/bus/mdev/devices/{uuid}/; {owners}"
    )
    assert given.split() == ["1000:1001"] * 3 + ["7:8"] * 3
    assert daemon.run_dir.socket(uuid).stat().st_uid == 7
    daemon.control.remove(uuid, wait=0, force=True)


NEEDED = "import mdev_user.sysfs.dev_folder as d; d._devtmpfs_is_needed = lambda: {}"
MOUNTED = "awk '$5 == \"/dev\" {print $3}' /proc/self/mountinfo | tail -1"
OPENED = """
import os
for name in ("vfio/vfio", "vfio/GROUP", "vfio/devices/vfioGROUP", "iommu"):
    os.close(os.open(f"/dev/{name}", os.O_RDWR))
"""


def test_where_libudev_needs_the_machines_own_the_nodes_are_opened_by_name(daemon: RunningDaemon) -> None:
    uuid = daemon.create("mtty-1")
    group = (daemon.sys / f"bus/mdev/devices/{uuid}/iommu_group").readlink().name
    text = f"{MOUNTED}; python3 -c '{OPENED.replace('GROUP', group)}'"
    outside = printed(["bash", "-c", MOUNTED])

    def mounted(events: str, needed: bool) -> str:
        words = command(daemon, f"--events={events}", "--", "bash", "-euc", text, preamble=NEEDED.format(needed))
        return printed(words)

    assert mounted("private", needed=True) == outside
    if not (Path("/dev/vfio").is_dir() and Path("/dev/iommu").exists()):  # else it is never made anew
        assert mounted("private", needed=False) != outside
        assert mounted("none", needed=True) != outside
    daemon.control.remove(uuid, wait=0, force=True)


TOO_MANY = """
import errno, os
found = []
try:
    while len(found) < 1000:
        found.append(os.open("/dev/vfio/vfio", os.O_RDWR))
except OSError as error:
    print(found[:64] == list(range(192, 256)), 128 < len(found) < 256, errno.errorcode[error.errno])
for fd in found[-8:]:
    os.close(fd)
os.close(os.open("/dev/vfio/vfio", os.O_RDWR))
"""


def test_too_many_open_files_are_emfile_and_a_quarter_of_all_numbers_is_for_ours(daemon: RunningDaemon) -> None:
    limited = ["bash", "-c", 'ulimit -n 256; exec "$@"', "-"]
    words = [*limited, *command(daemon, "--", sys.executable, "-c", TOO_MANY)]
    assert printed(words) == "True True EMFILE\n"


def test_nothing_is_made_in_the_machines_own(daemon: RunningDaemon) -> None:
    before = {each.name for each in Path("/dev").iterdir()}
    script(daemon, "true")
    assert {each.name for each in Path("/dev").iterdir()} == before
