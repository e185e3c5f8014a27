"""Which of the machine's entries are mounted over the merged tree: as many as needed, and no more."""

from collections.abc import Mapping

import pytest

from mdev_user.sysfs import merging
from mdev_user.sysfs.merging import Kind, Listing, binds

_KINDS = {"/": Kind.DIRECTORY, "@": Kind.LINK, "": Kind.FILE}


def listing(*paths: str) -> Listing:
    """Of a tree with these paths: ``/`` at the end is a directory, ``@`` a link."""
    found: dict[str, dict[str, Kind]] = {}
    for path in paths:
        mark = path[-1] if path[-1] in "/@" else ""
        above, _, name = path.removesuffix(mark).rpartition("/")
        found.setdefault(above, {})[name] = _KINDS[mark]

    def listed(path: str) -> Mapping[str, Kind]:
        return found.get(path, {})

    return listed


def test_what_is_the_machines_alone_is_bound_whole() -> None:
    machine = listing("block/", "block/sda@", "class/", "class/net/", "class/net/lo@", "kernel/", "kernel/profiling")
    ours = listing("class/", "class/mdev_bus/", "kernel/", "kernel/iommu_groups/")
    assert list(binds(machine, ours)) == ["block", "class/net", "kernel/profiling"]


def test_links_of_the_machine_are_no_mounts() -> None:
    machine = listing("class/", "class/net/", "class/old@")
    assert list(binds(machine, listing("class/"))) == ["class/net"]


def test_directories_of_both_are_merged_however_deep() -> None:
    machine = listing("bus/", "bus/pci/", "bus/pci/devices/", "bus/pci/devices/0000:00:00.0@", "bus/pci/rescan")
    ours = listing("bus/", "bus/pci/", "bus/pci/devices/", "bus/pci/devices/4d44:00:01.0@")
    assert list(binds(machine, ours)) == ["bus/pci/rescan"]


def test_ours_is_seen_where_both_have_a_name() -> None:
    machine = listing("class/", "class/mtty", "module/", "module/mtty/", "module/mtty/refcnt", "module/mtty/uevent")
    ours = listing("class/", "class/mtty/", "module/", "module/mtty/", "module/mtty/uevent")
    assert list(binds(machine, ours)) == ["module/mtty/refcnt"]


def test_where_something_of_ours_may_come_later_nothing_is_mounted_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = listing("devices/", "devices/virtual/", "devices/virtual/vfio/", "devices/virtual/vfio/7/")
    ours = listing("devices/", "devices/virtual/")
    assert list(binds(machine, ours)) == ["devices/virtual/vfio/7"]
    monkeypatch.setattr(merging, "ALWAYS", frozenset[str]())
    assert list(binds(machine, ours)) == ["devices/virtual/vfio"], "the negative control: a later group is hidden"


def test_a_machine_without_a_directory_of_ours_has_nothing_to_bind_there() -> None:
    assert list(binds(listing("fs/"), listing("bus/", "bus/mdev/"))) == ["fs"]
