"""What the files show and take, without a file system: texts, and the errno of each refusal."""

import errno
from concurrent.futures import ThreadPoolExecutor

import pytest

from mdev_user.errors import errno_of
from mdev_user.mdev.device import State
from mdev_user.sysfs.paths import device_path
from mdev_user.sysfs.tree import Attribute
from mdev_user.sysfs.uevent_file import asked_for
from mdev_user.sysfs.uevents import Uevent, cdev_properties, group_properties
from unit.sysfs.scene import MDPY, MTTY, MTTY_TYPES, PATIENCE, UUID1, UUID2, Scene, until, uuid_of

DEVICE = f"devices/virtual/mtty/mtty/{UUID1}"
DRIVER = "bus/mdev/drivers/mtty"


@pytest.fixture
def scene() -> Scene:
    return Scene()


def attribute(scene: Scene, path: str) -> Attribute[object]:
    node = scene.tree.lookup(path)
    assert isinstance(node, Attribute), path
    return node


def show(scene: Scene, path: str) -> str:
    return attribute(scene, path).show().decode()


def store(scene: Scene, path: str, data: bytes) -> int:
    """How many bytes were taken, or the errno made negative."""
    return stored(attribute(scene, path), data)


def stored(node: Attribute[object], data: bytes) -> int:
    try:
        return node.store(data)
    except Exception as error:  # noqa: BLE001 - what it becomes is what is tested
        return -errno_of(error)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (f"{MTTY}/name", "Single port serial\n"),
        (f"{MTTY}/device_api", "vfio-pci\n"),
        (f"{MTTY}/available_instances", "24\n"),
        (f"{MTTY_TYPES}/mtty-2/available_instances", "12\n"),
        (f"{MDPY}/name", "vga\n"),
        (f"{MDPY}/description", "virtual display, 640x480 framebuffer\n"),
        (f"{MDPY}/available_instances", "4\n"),
        ("bus/mdev/drivers_autoprobe", "1\n"),
        ("devices/virtual/mtty/mtty/uevent", ""),
    ],
)
def test_a_fresh_tree_shows(scene: Scene, path: str, text: str) -> None:
    assert show(scene, path) == text


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (f"{MTTY}/available_instances", "23\n"),
        (f"{MTTY_TYPES}/mtty-2/available_instances", "11\n"),
        (f"{DEVICE}/uevent", "DRIVER=mtty\n"),
        (f"{DEVICE}/vendor/sample_mdev_dev", f"This is MDEV {UUID1}\n"),
        (f"{DEVICE}/vendor/speed", "115200\n"),
        (f"{DEVICE}/vfio-dev/vfio0/uevent", "MAJOR=243\nMINOR=0\nDEVNAME=vfio/devices/vfio0\n"),
        (f"{DEVICE}/vfio-dev/vfio0/dev", "243:0\n"),
        ("devices/virtual/vfio/0/uevent", "MAJOR=242\nMINOR=0\nDEVNAME=vfio/0\n"),
        ("devices/virtual/vfio/0/dev", "242:0\n"),
        ("devices/virtual/misc/vfio/dev", "10:196\n"),
        ("kernel/iommu_groups/0/name", "vfio-noiommu\n"),
        ("kernel/iommu_groups/0/reserved_regions", ""),
        ("kernel/iommu_groups/0/type", "unknown\n"),
    ],
)
def test_with_an_mdev_the_tree_shows(scene: Scene, path: str, text: str) -> None:
    scene.create()
    assert show(scene, path) == text


def test_a_type_without_description_has_no_such_file(scene: Scene) -> None:
    assert scene.tree.lookup(f"{MTTY}/description") is None


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        (f"{MTTY}/create", 0o200),
        (f"{MTTY}/name", 0o444),
        (f"{DEVICE}/remove", 0o200),
        (f"{DEVICE}/uevent", 0o644),
        (f"{DEVICE}/vendor/sample_mdev_dev", 0o444),
        (f"{DEVICE}/vendor/speed", 0o644),
        (f"{DEVICE}/secret", 0o200),
        ("devices/virtual/mtty/mtty/mtty_dev/sample_mtty_dev", 0o444),
        ("devices/virtual/mtty/mtty/clock", 0o644),
        (f"{DRIVER}/bind", 0o200),
        (f"{DRIVER}/unbind", 0o200),
        (f"{DRIVER}/uevent", 0o200),
        ("bus/mdev/drivers_autoprobe", 0o644),
        ("bus/mdev/drivers_probe", 0o200),
        ("bus/mdev/uevent", 0o200),
        ("kernel/iommu_groups/0/type", 0o644),
    ],
)
def test_modes_are_the_kernels(scene: Scene, path: str, mode: int) -> None:
    scene.create()
    assert attribute(scene, path).mode == mode


def test_create_makes_an_mdev_of_the_type_of_its_directory(scene: Scene) -> None:
    assert store(scene, f"{MTTY_TYPES}/mtty-2/create", str(UUID1).upper().encode() + b"\n") == 37
    mdev = scene.bus.mdev(UUID1)
    assert (mdev.parent, mdev.type_id, mdev.state) == (scene.parent, "mtty-2", State.ACTIVE)


def test_a_store_that_is_cut_is_judged_by_what_is_left(scene: Scene) -> None:
    assert store(scene, f"{MTTY}/create", b"a" * 70_000) == -errno.EINVAL
    scene.create()
    assert store(scene, f"{DEVICE}/vendor/speed", b"9" * 70_000) == 4096
    assert scene.mtty.stored == [b"9" * 4096]


@pytest.mark.parametrize("text", [b"0", b"0\n", b"0x0", b"+0", b"00"])
def test_removing_zero_times_does_nothing(scene: Scene, text: bytes) -> None:
    scene.create()
    assert store(scene, f"{DEVICE}/remove", text) == len(text)
    assert scene.bus.mdev(UUID1).state is State.ACTIVE


def test_a_stale_remove_does_not_take_the_next_mdev_of_the_uuid(scene: Scene) -> None:
    scene.create()
    stale = attribute(scene, f"{DEVICE}/remove")
    scene.bus.remove(UUID1)
    scene.create()
    assert stored(stale, b"1") == -errno.ENODEV
    stale.dead = False  # as for a store that began just before the node went
    assert stored(stale, b"1") == -errno.ENODEV
    assert scene.bus.mdev(UUID1).state is State.ACTIVE


def test_the_second_of_two_removes_gets_enodev(scene: Scene) -> None:
    scene.create()
    scene.driver.hold(UUID1)
    remove = attribute(scene, f"{DEVICE}/remove")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(remove.store, b"1")
        until(lambda: UUID1 in scene.driver.waiting)
        remove.dead = False  # as for a store that began before the file was gone
        assert stored(remove, b"1") == -errno.ENODEV
        scene.driver.release(UUID1)
        assert first.result(PATIENCE) == 1


def test_remove_while_the_create_runs_gets_eagain(scene: Scene) -> None:
    found: list[int] = []
    scene.driver.on_probe = lambda _mdev: found.append(store(scene, f"{DEVICE}/remove", b"1"))
    scene.create()
    assert found == [-errno.EAGAIN]


@pytest.mark.parametrize("text", [str(UUID1).encode(), str(UUID1).encode() + b"\n"])
def test_unbind_and_bind_take_a_name_with_or_without_newline(scene: Scene, text: bytes) -> None:
    mdev = scene.create()
    assert store(scene, f"{DRIVER}/unbind", text) == len(text)
    assert mdev.binding is None
    assert show(scene, f"{DEVICE}/uevent") == ""
    assert store(scene, f"{DRIVER}/bind", text) == len(text)
    assert mdev.binding is not None


@pytest.mark.parametrize("file", [f"{DRIVER}/bind", f"{DRIVER}/unbind", "bus/mdev/drivers_probe"])
@pytest.mark.parametrize(
    "text",
    [b"nonexistent", b"", b"\xff\xfe", str(UUID2).encode(), str(UUID1).upper().encode(), str(UUID1).encode() + b"\n\n"],
)
def test_an_unknown_name_is_enodev(scene: Scene, file: str, text: bytes) -> None:
    scene.create()
    assert store(scene, file, text) == -errno.ENODEV


def test_unbind_of_an_unbound_and_bind_of_a_bound_mdev_are_enodev(scene: Scene) -> None:
    mdev, name = scene.create(), str(UUID1).encode()
    assert store(scene, f"{DRIVER}/bind", name) == -errno.ENODEV
    scene.bus.unbind(mdev, "mtty")
    assert store(scene, f"{DRIVER}/unbind", name) == -errno.ENODEV


def test_drivers_probe_knows_every_mdev_and_binds_none(scene: Scene) -> None:
    mdev, name = scene.create(), str(UUID1).encode()
    bound = mdev.binding
    assert store(scene, "bus/mdev/drivers_probe", name) == 36
    assert mdev.binding is bound
    scene.bus.unbind(mdev, "mtty")
    assert store(scene, "bus/mdev/drivers_probe", name) == 36
    assert mdev.binding is None


def test_an_mdev_that_is_going_has_no_name_on_the_bus(scene: Scene) -> None:
    scene.create()
    scene.driver.hold(UUID1)
    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(scene.bus.remove, UUID1)
        until(lambda: UUID1 in scene.driver.waiting)
        assert store(scene, f"{DRIVER}/unbind", str(UUID1).encode()) == -errno.ENODEV
        scene.driver.release(UUID1)
        going.result(PATIENCE)


def test_autoprobe_remembers_and_does_not_stop_a_create(scene: Scene) -> None:
    assert store(scene, "bus/mdev/drivers_autoprobe", b"0\n") == 2
    assert show(scene, "bus/mdev/drivers_autoprobe") == "0\n"
    assert scene.create().binding is not None
    store(scene, "bus/mdev/drivers_autoprobe", b"1")
    assert show(scene, "bus/mdev/drivers_autoprobe") == "1\n"


@pytest.mark.parametrize(
    ("text", "action", "properties"),
    [
        (b"add", "add", {"SYNTH_UUID": "0"}),
        (b"change\n", "change", {"SYNTH_UUID": "0"}),
        (b"remove\0", "remove", {"SYNTH_UUID": "0"}),
        (f"bind {UUID1}".encode(), "bind", {"SYNTH_UUID": str(UUID1)}),
        (
            f"move {UUID1} A=1 B2=x".encode(),
            "move",
            {"SYNTH_UUID": str(UUID1), "SYNTH_ARG_A": "1", "SYNTH_ARG_B2": "x"},
        ),
    ],
)
def test_uevent_takes_an_action(text: bytes, action: str, properties: dict[str, str]) -> None:
    assert asked_for(text) == (action, properties)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("bus/mdev", Uevent("add", "/bus/mdev", "bus", {"SYNTH_UUID": "0"})),
        (DRIVER, Uevent("add", f"/{DRIVER}", "drivers", {"SYNTH_UUID": "0"})),
        ("module/mtty", Uevent("add", "/module/mtty", "module", {"SYNTH_UUID": "0"})),
        (
            "devices/virtual/mtty/mtty",
            Uevent("add", "/devices/virtual/mtty/mtty", "mtty", {"SYNTH_UUID": "0"}),
        ),
        (DEVICE, Uevent("add", f"/{DEVICE}", "mdev", {"SYNTH_UUID": "0", "DRIVER": "mtty"})),
        (
            "devices/virtual/vfio/0",
            Uevent("add", "/devices/virtual/vfio/0", "vfio", {"SYNTH_UUID": "0", **group_properties(0)}),
        ),
        (
            f"{DEVICE}/vfio-dev/vfio0",
            Uevent("add", f"/{DEVICE}/vfio-dev/vfio0", "vfio-dev", {"SYNTH_UUID": "0", **cdev_properties(0)}),
        ),
    ],
)
def test_what_is_written_to_uevent_is_announced_of_its_device(scene: Scene, path: str, expected: Uevent) -> None:
    scene.create()
    assert store(scene, f"{path}/uevent", b"add\n") == 4
    assert scene.announced == [expected]
    assert list(scene.announced[0].properties) == list(expected.properties)


@pytest.mark.parametrize("arguments", [" A=" + "1" * 2000, "".join(f" A{number}=1" for number in range(60))])
def test_a_uevent_that_is_too_large_is_enomem(scene: Scene, arguments: str) -> None:
    assert store(scene, "bus/mdev/uevent", f"add {UUID1}{arguments}".encode()) == -errno.ENOMEM
    assert scene.announced == []
    less = arguments[:-100] if len(arguments) > 1000 else arguments.rpartition(" ")[0]
    assert store(scene, "bus/mdev/uevent", f"add {UUID1}{less}".encode()) == 40 + len(less)


def test_an_unbound_mdev_is_announced_without_a_driver(scene: Scene) -> None:
    scene.bus.unbind(scene.create(), "mtty")
    assert store(scene, f"{DEVICE}/uevent", f"change {UUID2} A=1".encode()) == 47
    expected = {"SYNTH_UUID": str(UUID2), "SYNTH_ARG_A": "1"}
    assert scene.announced == [Uevent("change", f"/{DEVICE}", "mdev", expected)]


@pytest.mark.parametrize(
    "text",
    [
        b"", b"\n", b"frobnicate", b"ad", b"adds", b" add", b"add\n\n", b"add x", b"add ",
        b"add 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001 A", b"add 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001 A=", b"add A=1",
        b"add 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001 A=-",
    ],
)  # fmt: skip
@pytest.mark.parametrize("file", ["bus/mdev/uevent", f"{DEVICE}/uevent", f"{DRIVER}/uevent"])
def test_uevent_refuses_what_is_no_action(scene: Scene, file: str, text: bytes) -> None:
    scene.create()
    assert store(scene, file, text) == -errno.EINVAL
    assert scene.announced == []


def test_the_groups_type_cannot_be_changed(scene: Scene) -> None:
    scene.create()
    assert store(scene, "kernel/iommu_groups/0/type", b"identity") == -errno.EINVAL


def test_a_drivers_attribute_error_is_its_own(scene: Scene) -> None:
    mdev = scene.create()

    def fail() -> str:
        raise OSError(errno.ENOTSUP, "not now")

    scene.mtty.on_show = fail
    with pytest.raises(OSError, match="not now"):
        show(scene, f"{device_path(mdev)}/vendor/speed")


def test_exhausted_parents_answer_as_they_count(scene: Scene) -> None:
    for number in range(4):
        assert store(scene, f"{MDPY}/create", str(uuid_of(number)).encode()) == 36
    assert show(scene, f"{MDPY}/available_instances") == "0\n"
    assert store(scene, f"{MDPY}/create", str(uuid_of(9)).encode()) == -errno.EUSERS
    scene.mtty.free = 1
    assert store(scene, f"{MTTY_TYPES}/mtty-2/create", str(uuid_of(9)).encode()) == -errno.ENOSPC
    assert store(scene, f"{MTTY}/create", str(uuid_of(0)).encode()) == -errno.EEXIST


def test_files_of_a_parent_are_the_drivers(scene: Scene) -> None:
    folder = "devices/virtual/mtty/mtty"
    assert show(scene, f"{folder}/mtty_dev/sample_mtty_dev") == "This is phy device\n"
    assert show(scene, f"{folder}/clock") == "100\n"
    assert store(scene, f"{folder}/clock", b"200\n") == 4
    assert scene.mtty.stored == [b"200\n"]
