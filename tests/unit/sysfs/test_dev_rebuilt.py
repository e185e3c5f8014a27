"""What a /dev that is made anew shows of the machine's; a folder stands in for it, and a rename for the mount."""

import os
from pathlib import Path

import pytest

from mdev_user.sysfs import dev_folder, mountpoint

Place = tuple[int, str]


class Machine:
    """A /dev with one of each kind, and what was mounted in the one that takes its place."""

    def __init__(self, dev: Path) -> None:
        self.dev = dev
        self.old = dev.with_name("old")
        self.bound: list[str] = []
        self.writable = True
        for name in ("pts", "shm", "net", "vfio"):
            (dev / name).mkdir(parents=True)
        for name in ("null", "ptmx", "iommu", "net/tun", "shm/mine", "vfio/vfio", "pts/ptmx"):
            (dev / name).touch()
        (dev / "fd").symlink_to("/proc/self/fd")
        (dev / "net/by-name").symlink_to("tun")

    def mount(self, _source: str, target: str, *_how: object) -> None:
        assert Path(target) == self.dev
        self.dev.rename(self.old)
        self.dev.mkdir()

    def bind_if_there(self, source: Place, target: Place) -> None:
        assert (self.opened(source[0]), self.opened(target[0])) == (self.old, self.dev)
        assert source[1] == target[1]
        self.bound.append(target[1])

    def copy_mounts(self, source: Place) -> int:
        assert Path(source[1]) == self.dev
        assert not self.old.exists(), "before anything is mounted over it"
        return 12345

    def attach(self, copied: int, target: Place) -> None:
        assert (copied, self.opened(target[0]), (self.dev / target[1]).is_dir()) == (12345, self.dev, True)
        self.bound.append(target[1])

    def access(self, path: Path, _mode: int) -> bool:
        assert path in {self.dev, self.dev / "pts/ptmx"}
        return self.writable

    @staticmethod
    def opened(fd: int) -> Path:
        return Path(f"/proc/self/fd/{fd}").readlink()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path / "dev")
    monkeypatch.setattr(dev_folder, "_DEV", machine.dev)
    for name in ("mount", "bind_if_there", "copy_mounts", "attach"):
        monkeypatch.setattr(dev_folder, name, getattr(machine, name))
    monkeypatch.setattr(os, "access", machine.access)
    monkeypatch.setattr(mountpoint, "below", lambda _dev: [f"{machine.dev}/pts", f"{machine.dev}/shm"])
    return machine


def test_nodes_and_mounts_are_bound_and_the_rest_is_made(machine: Machine) -> None:
    dev_folder._rebuild()
    assert machine.bound == ["net/tun", "null", "pts", "shm"]
    assert (machine.dev / "fd").readlink() == Path("/proc/self/fd")
    assert (machine.dev / "net/by-name").readlink() == Path("tun")
    assert list((machine.dev / "shm").iterdir()) == [], "what is in a mount comes with it"


def test_ours_have_empty_places_whatever_the_machine_had_there(machine: Machine) -> None:
    dev_folder._rebuild()
    assert list((machine.dev / "vfio").iterdir()) == []
    assert (machine.dev / "iommu").is_file()
    assert {"vfio", "iommu"}.isdisjoint(machine.bound)


def test_nothing_is_changed_in_the_machines_own(machine: Machine) -> None:
    before = sorted(machine.dev.rglob("*"))
    dev_folder._rebuild()
    assert sorted(machine.dev / each.relative_to(machine.old) for each in machine.old.rglob("*")) == before


def test_ptmx_leads_to_one_that_finds_its_pts(machine: Machine) -> None:
    dev_folder._rebuild()
    assert (machine.dev / "ptmx").readlink() == Path("pts/ptmx")
    assert not (machine.dev / ".machine").exists()


def test_who_may_open_no_other_ptmx_finds_it_in_the_whole(machine: Machine) -> None:
    machine.writable = False
    dev_folder._rebuild()
    assert (machine.dev / "ptmx").readlink() == Path(".machine/ptmx")
    assert machine.bound[0] == ".machine"


def test_a_folder_that_is_closed_to_this_user_stays_empty(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def closed(path: Path) -> object:
        if path.name == "net":
            raise PermissionError
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    dev_folder._rebuild()
    assert machine.bound == ["null", "pts", "shm"]
    assert list((machine.dev / "net").iterdir()) == []
