"""Which nodes are there at each moment of a create and a remove."""

import gc
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from posixpath import dirname, join, normpath

import pytest

from mdev_user.daemon.events import EventLog
from mdev_user.errors import MdevUserError, NoSpace
from mdev_user.mdev.bus import Bus
from mdev_user.mdev.device import Mdev
from mdev_user.mdev.events import Event, EventKind
from mdev_user.sysfs.layout import Layout
from mdev_user.sysfs.tree import Directory, Tree
from unit.mdev.scene import LAST
from unit.sysfs.scene import MTTY, PATIENCE, UUID1, UUID2, Mtty, Scene, until, uuid_of

DEVICE = f"devices/virtual/mtty/mtty/{UUID1}"
BUS_LINK = f"bus/mdev/devices/{UUID1}"
DRIVER_LINK = f"bus/mdev/drivers/mtty/{UUID1}"
GROUP = "kernel/iommu_groups/0"

IDENTITY = {DEVICE, f"{DEVICE}/uevent", f"{DEVICE}/subsystem", BUS_LINK}
TYPE_LINKS = {f"{DEVICE}/remove", f"{DEVICE}/mdev_type", f"{MTTY}/devices/{UUID1}"}
IN_GROUP = {
    f"{DEVICE}/iommu_group", "class/vfio/0",
    "devices/virtual/vfio", "devices/virtual/vfio/0",
    "devices/virtual/vfio/0/uevent", "devices/virtual/vfio/0/subsystem",
    "devices/virtual/vfio/0/dev", "dev/char/242:0",
    GROUP, f"{GROUP}/devices", f"{GROUP}/devices/{UUID1}",
    f"{GROUP}/name", f"{GROUP}/reserved_regions", f"{GROUP}/type",
}  # fmt: skip
VFIO = {
    f"{DEVICE}/vfio-dev", f"{DEVICE}/vfio-dev/vfio0", f"{DEVICE}/vfio-dev/vfio0/device",
    f"{DEVICE}/vfio-dev/vfio0/subsystem", f"{DEVICE}/vfio-dev/vfio0/uevent", "class/vfio-dev/vfio0",
    f"{DEVICE}/vfio-dev/vfio0/dev", "dev/char/243:0",
}  # fmt: skip
BOUND = {
    f"{DEVICE}/driver", DRIVER_LINK, f"{DEVICE}/secret",
    f"{DEVICE}/vendor", f"{DEVICE}/vendor/sample_mdev_dev", f"{DEVICE}/vendor/speed",
}  # fmt: skip

CREATE = [
    ("MDEV_ADDED", IDENTITY | {f"{DEVICE}/remove"}),
    ("GROUP_ADDED", IN_GROUP),
    ("VFIO_ADDED", VFIO),
    ("MDEV_BOUND", BOUND),
    ("MDEV_LINKED", TYPE_LINKS - {f"{DEVICE}/remove"}),
]
"""What each event adds."""
REMOVE = [
    ("MDEV_UNLINKED", TYPE_LINKS),
    ("MDEV_HIDDEN", (IDENTITY - {DEVICE}) | VFIO | BOUND),
    ("VFIO_REMOVED", set[str]()),
    ("GROUP_REMOVED", IN_GROUP),
    ("MDEV_UNBOUND", set[str]()),
    ("MDEV_REMOVED", {DEVICE}),
]
"""What each event takes away."""
UNBIND = [("VFIO_REMOVED", VFIO), ("GROUP_REMOVED", IN_GROUP), ("MDEV_UNBOUND", BOUND)]

SKELETON = {
    "bus", "bus/mdev", "bus/mdev/devices", "bus/mdev/drivers", "bus/mdev/drivers_autoprobe", "bus/mdev/drivers_probe",
    "bus/mdev/uevent",
    "class", "class/mdev_bus", "class/vfio", "class/vfio-dev", "devices", "devices/virtual",
    "class/misc", "class/misc/iommu", "class/misc/vfio", "dev", "dev/char", "dev/char/10:196", "dev/char/10:197",
    "devices/virtual/misc", "devices/virtual/misc/iommu", "devices/virtual/misc/iommu/dev",
    "devices/virtual/misc/iommu/subsystem", "devices/virtual/misc/iommu/uevent", "devices/virtual/misc/vfio",
    "devices/virtual/misc/vfio/dev", "devices/virtual/misc/vfio/subsystem", "devices/virtual/misc/vfio/uevent",
    "kernel", "kernel/iommu_groups", "module", "module/mdev", "module/mdev/uevent",
}  # fmt: skip


class Watch:
    """What each event added to and took from the tree."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._before = set(scene.listing())
        self.added: list[tuple[str, set[str]]] = []
        self.gone: list[tuple[str, set[str]]] = []
        scene.bus.subscribe(self.on_event)

    def on_event(self, event: Event) -> None:
        now = set(self._scene.listing())
        self.added.append((event.kind.name, now - self._before))
        self.gone.append((event.kind.name, self._before - now))
        self._before = now


def test_the_tree_is_there_before_the_first_parent() -> None:
    assert set(Scene().empty) == SKELETON


def test_a_create_adds_its_nodes_event_by_event() -> None:
    scene = Scene()
    watch = Watch(scene)
    scene.create()
    assert watch.added == CREATE
    assert {name for _, names in watch.gone for name in names} == set()


def test_a_remove_takes_its_nodes_away_event_by_event() -> None:
    scene = Scene()
    before = scene.listing()
    scene.create()
    watch = Watch(scene)
    scene.bus.remove(UUID1)
    assert watch.gone == REMOVE
    assert scene.listing() == before


def test_the_tables_above_are_the_whole_of_an_mdev() -> None:
    assert {name for _, names in CREATE for name in names} == {name for _, names in REMOVE for name in names}


def test_link_texts_are_the_kernels() -> None:
    scene = Scene()
    scene.create()
    links = {path: text for path, text in scene.listing().items() if text}
    up = "../../../../.."
    assert links == {
        "class/mdev_bus/mtty": "../../devices/virtual/mtty/mtty",
        "class/mdev_bus/mdpy": "../../devices/virtual/mdpy/mdpy",
        "class/mtty/mtty": "../../devices/virtual/mtty/mtty",
        "class/mdpy/mdpy": "../../devices/virtual/mdpy/mdpy",
        "bus/mdev/drivers/mtty/module": "../../../../module/mtty",
        "bus/mdev/drivers/mdpy/module": "../../../../module/mdpy",
        "class/vfio/0": "../../devices/virtual/vfio/0",
        "class/misc/iommu": "../../devices/virtual/misc/iommu",
        "class/misc/vfio": "../../devices/virtual/misc/vfio",
        "dev/char/10:196": "../../devices/virtual/misc/vfio",
        "dev/char/10:197": "../../devices/virtual/misc/iommu",
        "dev/char/242:0": "../../devices/virtual/vfio/0",
        "dev/char/243:0": f"../../{DEVICE}/vfio-dev/vfio0",
        "devices/virtual/misc/iommu/subsystem": "../../../../class/misc",
        "devices/virtual/misc/vfio/subsystem": "../../../../class/misc",
        "class/vfio-dev/vfio0": f"../../{DEVICE}/vfio-dev/vfio0",
        "devices/virtual/mtty/mtty/subsystem": "../../../../class/mtty",
        "devices/virtual/mdpy/mdpy/subsystem": "../../../../class/mdpy",
        "devices/virtual/vfio/0/subsystem": "../../../../class/vfio",
        f"{MTTY}/devices/{UUID1}": f"../../../{UUID1}",
        f"{DEVICE}/driver": f"{up}/bus/mdev/drivers/mtty",
        f"{DEVICE}/iommu_group": f"{up}/kernel/iommu_groups/0",
        f"{DEVICE}/mdev_type": "../mdev_supported_types/mtty-1",
        f"{DEVICE}/subsystem": f"{up}/bus/mdev",
        f"{DEVICE}/vfio-dev/vfio0/device": f"../../../{UUID1}",
        f"{DEVICE}/vfio-dev/vfio0/subsystem": "../../../../../../../class/vfio-dev",
        BUS_LINK: f"../../../{DEVICE}",
        DRIVER_LINK: f"../../../../{DEVICE}",
        f"{GROUP}/devices/{UUID1}": f"../../../../{DEVICE}",
    }


def test_every_link_leads_somewhere() -> None:
    scene = Scene()
    scene.create()
    scene.create(UUID2)
    for path, text in scene.listing().items():
        if text:
            assert isinstance(scene.tree.lookup(normpath(join(dirname(path), text))), Directory), path


def test_numbers_are_the_lowest_free_and_reused() -> None:
    scene = Scene()
    scene.create()
    scene.create(UUID2)
    scene.bus.remove(UUID1)
    assert scene.names("class/vfio") == {"1"}
    scene.create(uuid_of(3))
    assert scene.names("class/vfio") == scene.names("kernel/iommu_groups") == {"0", "1"}
    assert scene.names("class/vfio-dev") == {"vfio0", "vfio1"}


def test_a_blocked_remove_leaves_only_the_group() -> None:
    scene = Scene()
    mdev = scene.create()
    scene.driver.hold(UUID1)
    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(scene.bus.remove, UUID1)
        until(lambda: UUID1 in scene.driver.waiting)
        assert scene.device(mdev) == {"iommu_group"}
        assert scene.names("bus/mdev/devices") == scene.names("class/vfio-dev") == set()
        assert scene.names(f"{MTTY}/devices") == set()
        assert scene.names("class/vfio") == scene.names("kernel/iommu_groups") == {"0"}
        assert scene.names(f"{GROUP}/devices") == {str(UUID1)}
        scene.driver.release(UUID1)
        going.result(PATIENCE)
    assert scene.tree.lookup(DEVICE) is None
    assert scene.names("class/vfio") == scene.names("kernel/iommu_groups") == set()


def test_unbind_takes_the_drivers_part_and_bind_brings_it_back() -> None:
    scene = Scene()
    mdev = scene.create()
    whole = scene.listing()
    watch = Watch(scene)
    scene.bus.unbind(mdev, "mtty")
    assert watch.gone == UNBIND
    assert scene.device(mdev) == {"mdev_type", "remove", "subsystem", "uevent"}
    scene.bus.bind(mdev, "mtty")
    assert scene.listing() == whole


def test_an_unbound_mdev_is_removed_whole() -> None:
    scene = Scene()
    before = scene.listing()
    scene.bus.unbind(scene.create(), "mtty")
    scene.bus.remove(UUID1)
    assert scene.listing() == before


def no_space() -> None:
    raise NoSpace("full")


def refuse_probe(_mdev: Mdev) -> None:
    raise MdevUserError("no")


def refuse_create(scene: Scene) -> None:
    scene.mtty.on_create = no_space


def refuse_binding(scene: Scene) -> None:
    scene.driver.on_probe = refuse_probe


@pytest.mark.parametrize("refuse", [refuse_create, refuse_binding])
def test_a_failed_create_leaves_nothing(refuse: Callable[[Scene], None]) -> None:
    scene = Scene()
    refuse(scene)
    before = scene.listing()
    watch = Watch(scene)
    with pytest.raises(MdevUserError):
        scene.create()
    assert [kind for kind, _ in watch.added] == ["MDEV_ADDED", "MDEV_REMOVED"]
    assert scene.listing() == before


def test_a_parent_that_goes_takes_all_of_its_own_and_nothing_else() -> None:
    scene = Scene()
    scene.create()
    mdpy = {path: text for path, text in scene.listing().items() if "mdpy" in path}
    watch = Watch(scene)
    scene.bus.unregister_parent(scene.parent)
    kinds = [kind for kind, _ in watch.gone]
    assert kinds == ["PARENT_UNREGISTERING", *(kind for kind, _ in REMOVE), *LAST]
    assert watch.gone[0] == ("PARENT_UNREGISTERING", {"class/mdev_bus/mtty"})
    assert set(scene.listing()) == SKELETON | set(mdpy) | {"devices/virtual"}
    scene.bus.register_parent("mtty", Mtty())
    assert scene.tree.lookup(f"{MTTY}/create")


def test_two_parents_of_one_driver_share_its_class() -> None:
    scene = Scene()
    second = scene.bus.register_parent("mtty2", Mtty())
    assert scene.names("class/mtty") == {"mtty", "mtty2"}
    scene.bus.unregister_parent(second)
    assert scene.names("class/mtty") == scene.names("devices/virtual/mtty") == {"mtty"}


@pytest.mark.parametrize("cyclic", [False, True])
def test_removed_mdevs_leave_nothing_that_only_a_search_for_garbage_would_find(cyclic: bool) -> None:
    """The daemon does not search what is old: see `daemon.front._COLLECTIONS`."""
    scene = Scene(on_chown=lambda *_: None)
    scene.bus.subscribe(EventLog().on_event)
    scene.mtty.free = 1
    gc.collect()
    gc.disable()
    try:
        mdev = scene.create()
        with suppress(NoSpace):
            scene.create(UUID2)
        scene.bus.unbind(mdev, "mtty")
        scene.bus.bind(mdev, "mtty")
        scene.bus.remove(UUID1)
        if cyclic:
            mdev.drvdata = mdev
        del mdev
        assert bool(_unreachable()) == cyclic
    finally:
        gc.enable()


def _unreachable() -> list[object]:
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        return list(gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


def test_the_owner_of_an_mdevs_directory_is_told() -> None:
    told: list[object] = []
    scene = Scene(on_chown=lambda uuid, uid, gid: told.append((uuid, uid, gid)))
    scene.create()
    device = scene.tree.lookup(DEVICE)
    assert device is not None
    device.chown(1000, -1)
    assert told == [(UUID1, 1000, -1)]


def test_a_vfio_device_that_comes_after_the_chown_is_the_owners_too() -> None:
    told: list[object] = []
    scene = Scene(on_chown=lambda uuid, uid, gid: told.append((uuid, uid, gid)))
    mdev = scene.create()
    scene.bus.unbind(mdev, "mtty")
    scene.bus.bind(mdev, "mtty")
    assert told == []
    device = scene.tree.lookup(DEVICE)
    assert device is not None
    device.chown(1000, 1001)
    told.clear()
    scene.bus.unbind(mdev, "mtty")
    scene.bus.bind(mdev, "mtty")
    assert told == [(UUID1, 1000, 1001)]


def test_what_a_removed_mdev_had_open_is_dead() -> None:
    scene = Scene()
    scene.create()
    nodes = [node for path, node in scene.tree.walk() if str(UUID1) in path or "vfio0" in path]
    scene.bus.remove(UUID1)
    assert len(nodes) > 20
    assert [node for node in nodes if not node.dead] == []


def test_every_kind_of_event_is_known_to_the_layout() -> None:
    layout = Layout(Bus(), Tree())
    assert set(layout._changes) == set(EventKind)


def test_an_mdev_costs_less_than_20_kib() -> None:
    """Tree and layout alone; of 100 as of 500 it is the same."""
    scene = Scene()
    scene.mtty.free = 1000
    tracemalloc.start()
    try:
        for number in range(100):
            scene.create(uuid_of(number))
        gc.collect()
        ours = tracemalloc.Filter(inclusive=True, filename_pattern="*/mdev_user/sysfs/*")
        used = tracemalloc.take_snapshot().filter_traces([ours]).statistics("filename")
    finally:
        tracemalloc.stop()
    assert 1024 < sum(each.size for each in used) / 100 < 20 * 1024


def test_events_reach_the_layout_without_errors(caplog: pytest.LogCaptureFixture) -> None:
    """A listener that fails is only logged by the bus: this is where it would be seen."""
    scene = Scene()
    scene.bus.unbind(scene.create(), "mtty")
    scene.bus.bind(scene.bus.mdev(UUID1), "mtty")
    scene.bus.remove(UUID1)
    scene.bus.unregister_parent(scene.parent)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
