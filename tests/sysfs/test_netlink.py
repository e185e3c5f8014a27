"""Uevents as the system's own libudev takes them, filters and all, in a network namespace that nobody else is in."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from core import core_skip
from mdev_user.sysfs.uevents import all_properties
from sysfs.netlink_scene import MANY, SECONDS, SUBSYSTEMS, UEVENTS, WRONG
from sysfs.udev_listener import load

TESTS = Path(__file__).parents[1]
CARD = 4
"""The number of the uevent with a DEVTYPE and a tag."""


def alone(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A module of the tests as a program in a network namespace of its own, by root or as one in a user namespace."""
    namespaces = ["--net"] if os.geteuid() == 0 else ["--net", "--user", "--map-root-user"]
    return subprocess.run(
        ["unshare", *namespaces, sys.executable, "-m", *arguments],
        capture_output=True, text=True, timeout=SECONDS, check=False, env={**os.environ, "PYTHONPATH": str(TESTS)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def found() -> Mapping[str, object]:
    try:
        load()
    except OSError:
        core_skip("libudev is absent: apt install libudev1")
    wanted = ["udevadm"] if shutil.which("udevadm") else []
    done = alone("sysfs.netlink_scene", *wanted)
    if "unshare failed" in done.stderr:
        core_skip(f"no network namespaces here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture
def heard(found: Mapping[str, object]) -> dict[str, list[dict[str, str]]]:
    """What each of libudev's listeners heard."""
    heard = found["libudev"]
    assert isinstance(heard, dict)
    return heard


def numbers(lines: Sequence[Mapping[str, str]]) -> list[int]:
    return [int(each["SEQNUM"]) for each in lines]


def test_a_listener_hears_every_property_in_order(heard: dict[str, list[dict[str, str]]]) -> None:
    expected = [dict(all_properties(uevent, number)) for number, uevent in enumerate(UEVENTS, 1)]
    expected[1]["DEVNAME"] = "/dev/vfio/0"  # libudev's way of saying vfio/0
    assert heard["all"][: len(UEVENTS)] == expected


def test_a_filter_lets_its_subsystem_through(heard: dict[str, list[dict[str, str]]]) -> None:
    for subsystem in SUBSYSTEMS:  # of 4 to 8 letters: each way in which the hash can end
        expected = [number for number, uevent in enumerate(UEVENTS, 1) if uevent.subsystem == subsystem]
        assert numbers(heard[subsystem]) == expected


def test_a_wrong_hash_is_not_delivered_to_who_filters(heard: dict[str, list[dict[str, str]]]) -> None:
    assert WRONG in numbers(heard["all"])
    assert WRONG not in numbers(heard["mdev"])


def test_filters_for_a_devtype_and_a_tag_let_theirs_through(heard: dict[str, list[dict[str, str]]]) -> None:
    assert numbers(heard["devtype card"]) == numbers(heard["tag here"]) == [CARD]
    assert numbers(heard["devtype other"]) == numbers(heard["tag there"]) == []


def test_a_listener_that_does_not_read_loses_and_holds_nobody_up(found: Mapping[str, object]) -> None:
    flood = found["flood"]
    assert isinstance(flood, dict)
    assert flood["diligent"] == MANY
    assert 0 < flood["lazy"] < MANY / 10


def test_udevadm_monitor_prints_them(found: Mapping[str, object]) -> None:
    if "udevadm" not in found:
        core_skip("udevadm is absent: apt install udev")
    printed = str(found["udevadm"])
    assert [line for line in printed.splitlines() if line.startswith("SEQNUM=")] == ["SEQNUM=1", "SEQNUM=4"]
    assert "SUBSYSTEM=mdev\nDRIVER=mtty\nDEVTYPE=card\nSEQNUM=4\nTAGS=:here:\n" in printed


@pytest.mark.skipif(os.geteuid() != 0, reason="there is no other user in a user namespace")
def test_an_ordinary_user_is_told_what_sending_takes(found: Mapping[str, object]) -> None:
    assert found["refused"] is True
