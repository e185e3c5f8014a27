"""What the machine's own sysfs has is not taken: PCI addresses and the numbers of iommu groups."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from mdev_user.daemon import parents
from mdev_user.daemon.config import Restart
from mdev_user.daemon.front import numbered
from mdev_user.daemon.specification import parse_parent
from mdev_user.errors import AlreadyExists
from mdev_user.mdev.bus import Bus


def test_the_machines_groups_are_the_numbers_among_the_names(tmp_path: Path) -> None:
    for name in ("0", "12", "x", "7a", "-1"):
        (tmp_path / name).mkdir()
    assert sorted(numbered(tmp_path)) == [0, 12]
    assert numbered(tmp_path / "absent") == []


def test_of_a_sysfs_whose_daemon_is_dead_no_group_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `serve` finds in the shell of a `run`."""

    def iterdir(_folder: Path) -> Iterator[Path]:
        raise OSError(errno.ENOTCONN, "the daemon is dead")

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert numbered(tmp_path) == []


def test_a_name_that_the_machines_pci_bus_has_is_eexist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parents, "_PCI_DEVICES", tmp_path)
    (tmp_path / "0000:00:01.0").symlink_to("../../../devices/pci0000:00/0000:00:01.0")
    registered = parents.Parents(Bus(), tmp_path, Restart.NEVER)
    with pytest.raises(AlreadyExists, match="this machine has a PCI function 0000") as caught:
        registered.register(parse_parent("mtty,name=0000:00:01.0"))
    assert caught.value.errno == errno.EEXIST
    assert registered.views() == []
