"""A parent that is a PCI function by its name, as lspci and the paths of cloud software find it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from uuid import uuid4

import pytest

from core import core_skip
from daemon.support import PARENTS, SECONDS, output
from mdev_user.daemon.client import Refused
from mdev_user.testing.daemon import RunningDaemon

pytestmark = pytest.mark.fuse

NAME = "4d44:00:01.0"
BUS = f"bus/pci/devices/{NAME}"
TYPE = f"{BUS}/mdev_supported_types/mtty-1"


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon(f"mtty,name={NAME}") as daemon:
        yield daemon


def names(daemon: RunningDaemon, path: str) -> list[str]:
    return sorted(each.name for each in (daemon.sys / path).iterdir())


def lspci(daemon: RunningDaemon, *options: str) -> str:
    if shutil.which("lspci") is None:
        core_skip("lspci is absent: apt install pciutils")
    command = ["lspci", "-A", "linux-sysfs", "-O", f"sysfs.path={daemon.sys}/bus/pci", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True).stdout


def test_lspci_lists_it_with_its_ids(daemon: RunningDaemon) -> None:
    (line,) = lspci(daemon, "-nnn", "-D").splitlines()
    assert line.startswith(f"{NAME} Serial controller [0700]: ")
    assert line.endswith("[4348:3253] (rev 10)")


def test_lspci_reads_all_of_it(daemon: RunningDaemon) -> None:
    shown = lspci(daemon, "-vv", "-D")
    assert "(prog-if 02 [16550])" in shown
    assert "Status: Cap- " in shown
    assert "Kernel driver in use: mtty" in shown
    assert "Region" not in shown
    assert lspci(daemon, "-xxx").splitlines()[1] == "00: 48 43 53 32 00 00 00 00 10 02 00 07 00 00 00 00"


def test_cyborg_finds_types_and_creates_and_removes(daemon: RunningDaemon) -> None:
    assert not (daemon.sys / BUS / "physfn").exists()
    assert names(daemon, f"{BUS}/mdev_supported_types") == ["mtty-1", "mtty-2"]
    assert output(daemon, f"cat {TYPE}/name").split(" ")[1] == "port"
    uuid = uuid4()
    output(daemon, f"echo {uuid} > class/mdev_bus/{NAME}/mdev_supported_types/mtty-1/create")
    assert names(daemon, f"{TYPE}/devices") == [str(uuid)]
    assert int(output(daemon, f"cat {TYPE}/available_instances")) == 23
    output(daemon, f"echo 1 > {TYPE}/devices/{uuid}/remove")
    assert names(daemon, f"{TYPE}/devices") == []


def test_kubevirt_finds_the_parent_of_each_mdev(daemon: RunningDaemon) -> None:
    uuid = daemon.create("mtty-1")
    with os.scandir(daemon.sys / "bus/mdev/devices") as entries:
        (found,) = [(each.name, each.is_symlink()) for each in entries]
    assert found == (str(uuid), True)
    steps = (daemon.sys / f"bus/mdev/devices/{uuid}").readlink().parts
    assert len(steps) >= 5
    assert steps[-2] == NAME
    assert output(daemon, f"cat bus/mdev/devices/{uuid}/mdev_type/name") == "Single port serial\n"
    assert (daemon.sys / f"bus/mdev/devices/{uuid}/iommu_group").readlink().name.isdecimal()
    assert output(daemon, f"cat bus/pci/devices/{steps[-2]}/numa_node") == "-1\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_an_ordinary_user_reads_the_header_of_its_config_space(daemon: RunningDaemon) -> None:
    path = f"{daemon.sys}/{BUS}/config"
    assert len((daemon.sys / BUS / "config").read_bytes()) == 256
    daemon.run_dir.path.chmod(0o711)
    read = ["sh", "-c", 'cat "$0" | wc -c', path]
    done = subprocess.run(read, user=65534, group=65534, extra_groups=[], capture_output=True, check=True)
    assert done.stdout.strip() == b"64"


def test_a_driver_without_an_identity_is_refused_such_a_name(daemon: RunningDaemon) -> None:
    with pytest.raises(Refused, match="has no identity"):
        daemon.control.register_parent(f"{PARENTS}/engine.py:Card,name=4d44:00:02.0")
    assert [each.name for each in daemon.control.status().parents] == [NAME]
    with pytest.raises(Refused, match="function up to 7"):
        daemon.control.register_parent("mtty,name=4d44:00:01.8")
