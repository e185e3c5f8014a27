"""When /dev is made anew for places that the machine's own lacks, and when it is not."""

from pathlib import Path

import pytest

from mdev_user.sysfs import dev_folder, mountpoint
from mdev_user.sysfs.dev_folder import place_device_nodes


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What was done to a /dev that has none of our places, in a machine without udevd, and nothing is mounted."""
    done: list[str] = []
    dev = tmp_path / "dev"
    dev.mkdir()

    def rebuild() -> None:
        done.append("rebuilt")
        (dev / "vfio").mkdir(exist_ok=True)
        (dev / "iommu").touch()

    monkeypatch.setattr(dev_folder, "_DEV", dev)
    monkeypatch.setattr(dev_folder, "_UDEVD", tmp_path / "control")
    monkeypatch.setattr(dev_folder, "_rebuild", rebuild)
    monkeypatch.setattr(dev_folder, "bind", lambda _source, target: done.append(Path(target[1]).name))
    monkeypatch.setattr(mountpoint, "mounted", lambda _place: ["devtmpfs"])
    return done


ANEW = ["rebuilt", "vfio", "iommu"]


def test_it_is_made_anew_where_a_place_is_missing(placed: list[str], tmp_path: Path) -> None:
    place_device_nodes(tmp_path, listens=False)
    assert placed == ANEW
    placed.clear()
    place_device_nodes(tmp_path, listens=False)
    assert placed == ANEW[1:]


def test_it_stays_a_devtmpfs_where_libudev_asks_for_one(placed: list[str], tmp_path: Path) -> None:
    (tmp_path / "dev/vfio").mkdir()
    place_device_nodes(tmp_path, listens=True)
    assert placed == ["vfio"]


def test_with_udevd_libudev_does_not_ask(placed: list[str], tmp_path: Path) -> None:
    (tmp_path / "control").touch()
    place_device_nodes(tmp_path, listens=True)
    assert placed == ANEW


def test_what_is_no_devtmpfs_helps_nobody(placed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mountpoint, "mounted", lambda _place: ["tmpfs"])
    place_device_nodes(tmp_path, listens=True)
    assert placed == ANEW
