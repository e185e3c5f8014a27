"""Control groups of version 2, which the machine of a test rarely shares out: in a guest, whose kernel has them all."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from guest import python_inside
from guest.python_inside import PYTHON, files_of
from mdev_user.guests.rig import Rig
from mdev_user.guests.vm import Guest
from mdev_user.units import MiB

pytestmark = pytest.mark.guest

GROUPS = "/run/groups"


@pytest.fixture(scope="module")
def guest(rig: Rig) -> Iterator[Guest]:
    with Guest(rig, memory=384 * MiB, files=files_of("guest.grouped")) as guest:
        guest.run(f"chmod +x {PYTHON} /lib64/* ; mkdir {GROUPS} && mount -t cgroup2 groups {GROUPS}")
        yield guest


def told(guest: Guest, *calls: str, group: str = "") -> list[Any]:  # Any: as of `python_inside.told`
    """What these functions of ``grouped`` return, in a process that is in that group from the beginning."""
    return python_inside.told(guest, "guest.grouped", *calls, first=f"echo 0 > {GROUPS}/{group}/cgroup.procs")


def test_memory_and_threads_are_the_kernels_to_bound_and_nothing_is_left(guest: Guest) -> None:
    """64 MiB are promised, and 64 MiB beside them are for what else there is: 192 MiB of files in memory are too much.

    And the negative control: without a group nobody counts them. What is left of a host and a daemon that were killed
    goes when the next ones begin.
    """
    unlimited, limited, left = told(guest, "unlimited", "limited", "leftovers")
    assert unlimited == [64 * MiB, 64 * MiB, 64 * MiB]
    limits = {"memory.max": f"{128 * MiB}", "memory.swap.max": "0", "pids.max": "64", "cpu.weight.nice": "5"}
    assert limited["limits"] == limits
    assert limited["begun"] == 63
    assert limited["alone"] == 1
    assert limited["filled"][0] == 64 * MiB
    assert "it was killed by SIGKILL: it had no more memory" in str(limited["filled"][1:])
    assert re.fullmatch(r"0::/mdev-user\.daemon\.[0-9.]+\n", limited["own"])
    assert (limited["left"], limited["after"]) == ([], "0::/\n")
    assert limited["late"] == "None"  # a group that cannot be made is no reason to start nothing
    assert left == []
    assert "mdev-user" not in guest.run(f"ls {GROUPS}")


def test_only_what_is_ours_is_divided(guest: Guest) -> None:
    """A group that systemd has delegated to us, and nobody else is in."""
    service = f"{GROUPS}/service"
    guest.run(f"mkdir {service}; echo +memory +pids +cpu > {GROUPS}/cgroup.subtree_control")
    refused, _done, crowded, place = told(guest, "refusal", f"delegate:{service}", "crowded", "place", group="service")
    assert refused == f"{service} was not delegated to this daemon (systemd: Delegate=yes)"
    assert f"{service} has other processes: " in crowded
    assert place.startswith("0::/service/mdev-user.daemon.")
