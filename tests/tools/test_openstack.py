"""OpenStack's own code, unmodified: Cyborg's MdevBusManager finds our parents and types."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core import core_skip
from mdev_user.testing.daemon import RunningDaemon
from tools.conftest import PCI_NAME
from tools.inside import SECONDS, Inside
from tools.openstack import find_openstack

pytestmark = pytest.mark.fuse

ASK = """
import dataclasses, json, sys
from cyborg.accelerator.bus_managers.mdev import MdevBusManager
manager = MdevBusManager(*sys.argv[1:])
print(json.dumps({
    parent.address: [dataclasses.asdict(each) for each in manager.get_mdev_types(parent.address, ["*"])]
    for parent in manager.discover_parent_devices(["*"])
}))
"""
Found = dict[str, list[dict[str, Any]]]  # Any: JSON


@pytest.fixture(scope="module")
def cyborg() -> Path:
    """The Python that has Cyborg."""
    python = find_openstack()
    if python is None:
        core_skip("no Cyborg: `python tests/tools/openstack.py` installs it")
    return python


@pytest.fixture
def one_mdev(both_parents: RunningDaemon) -> Iterator[RunningDaemon]:
    uuid = both_parents.create("nvidia-223", parent=PCI_NAME)
    yield both_parents
    both_parents.control.remove(uuid, wait=0, force=True)


def as_cyborg_says(daemon: RunningDaemon) -> Found:
    """What the daemon itself knows, in Cyborg's words."""
    found: Found = {}
    for each in sorted(daemon.control.types(), key=lambda each: (each.parent, each.type)):
        used = sum((mdev.parent, mdev.type) == (each.parent, each.type) for mdev in daemon.control.mdevs())
        found.setdefault(each.parent, []).append(
            {
                "type_name": each.type,
                "name": each.name,
                "available_instances": each.available_instances,
                "created_instances": used,
                "device_api": each.device_api,
                "description": each.description or "",
            }
        )
    return found


def test_cyborg_finds_our_parents_and_types_in_sys(one_mdev: RunningDaemon, inside: Inside, cyborg: Path) -> None:
    found: Found = json.loads(inside.text(cyborg, "-c", ASK))
    assert found == as_cyborg_says(one_mdev)
    assert found[PCI_NAME][0] == {
        "type_name": "nvidia-223", "name": "GRID T4-2B", "available_instances": 3, "created_instances": 1,
        "device_api": "vfio-pci", "description": "num_heads=4, framebuffer=2048M",
    }  # fmt: skip
    assert [each["type_name"] for each in found["mtty"]] == ["mtty-1", "mtty-2"]


def test_cyborg_finds_them_by_its_path_option_without_run(one_mdev: RunningDaemon, cyborg: Path) -> None:
    path = one_mdev.sys / "class/mdev_bus"
    done = subprocess.run([cyborg, "-c", ASK, path], capture_output=True, text=True, timeout=SECONDS, check=True)
    assert json.loads(done.stdout) == as_cyborg_says(one_mdev)


def test_cyborg_finds_nothing_outside_of_run(one_mdev: RunningDaemon, cyborg: Path) -> None:
    done = subprocess.run([cyborg, "-c", ASK], capture_output=True, text=True, timeout=SECONDS, check=True)
    assert PCI_NAME not in json.loads(done.stdout)
