"""A driver that is reloaded a hundred times, every other time with a broken file, while a guest uses its device."""

from pathlib import Path

import pytest

from guest.scene import Tenant, eventually, talking
from mdev_user.drivers import mtty
from mdev_user.guests.rig import Rig
from mdev_user.guests.vm import Guest
from mdev_user.testing.daemon import RunningDaemon

pytestmark = pytest.mark.guest

SOURCE = Path(mtty.__file__).read_text()
TIMES = 100
MOST_GROWTH = 32 * 1024
"""KiB that the host may have grown by: what a second copy of everything would need many times over."""


def broken(number: int) -> str:
    """Wrong in turn: as text, as a module, as a declaration, and another device than the guest has."""
    kinds = (
        SOURCE + "\nthis is no Python",
        SOURCE + "\nraise RuntimeError('not today')",
        SOURCE.replace("lcr, mcr = Lcr.at(3)", "lcr, mcr = Lcr.at(1)"),
        SOURCE.replace("size=8, io=True", "size=16, io=True"),
    )
    return kinds[number % len(kinds)]


def state_of(daemon: RunningDaemon) -> tuple[int, str]:
    (parent,) = daemon.control.status().parents
    return parent.reloads, parent.reason


def resources(daemon: RunningDaemon) -> tuple[int, int, int]:
    """The host's threads, file descriptors and resident memory in KiB."""
    process = Path(f"/proc/{daemon.host_pids()['mtty']}")
    status = dict(line.split(":\t") for line in (process / "status").read_text().splitlines() if ":\t" in line)
    return int(status["Threads"]), len(list((process / "fd").iterdir())), int(status["VmRSS"].split()[0])


def reload(daemon: RunningDaemon, file: Path, number: int) -> None:
    """Write a version of the file and wait until it is known whether it runs."""
    reloads, _reason = state_of(daemon)
    if number % 2:
        file.write_text(broken(number // 2) + f"\n# {number}\n")
        eventually(lambda: f"# {number}" in file.read_text() and "old driver goes on" in state_of(daemon)[1], 20)
    else:
        file.write_text(f"{SOURCE}\n# {number}\n")
        eventually(lambda: state_of(daemon) == (reloads + 1, ""), 20)


def test_a_guest_goes_on_through_a_hundred_reloads(rig: Rig, tmp_path: Path) -> None:
    file = tmp_path / "mtty.py"
    file.write_text(SOURCE)
    with RunningDaemon(f"{file}:Mtty,name=mtty", "--reload") as daemon:
        uuid = daemon.create("mtty-1")
        with Guest(rig, [daemon.run_dir.socket(uuid)]) as guest:
            tenant = Tenant.booted(daemon, guest, {"mtty": uuid})
            assert tenant.exchange(b"before", 1000).identical
            with talking(tenant) as talks:
                for number in range(10):
                    reload(daemon, file, number)
                before = resources(daemon)
                for number in range(10, TIMES):
                    reload(daemon, file, number)
                after = resources(daemon)
            assert all(each.identical for each in talks)
            assert tenant.exchange(b"after", 1000).identical
            assert state_of(daemon)[0] == TIMES // 2
            assert after[:2] == before[:2]
            assert after[2] - before[2] < MOST_GROWTH
