"""The rows of the kernel's create and remove tables, on the mounted tree."""

import errno
import os
import subprocess

import pytest

from sysfs.access import opened, read, write
from sysfs.mounted import Mounted
from unit.sysfs.scene import MDPY, MTTY, MTTY_TYPES, PATIENCE, UUID1, UUID2, uuid_of

pytestmark = pytest.mark.fuse

TEXT = str(UUID1).encode()
CREATE = "class/mdev_bus/mtty/mdev_supported_types/mtty-1/create"
DRIVER = "bus/mdev/drivers/mtty"
DEVICE = f"bus/mdev/devices/{UUID1}"
ALL_ONES = "ffffffff-ffff-ffff-ffff-ffffffffffff"


def remove_of(uuid: object) -> str:
    return f"bus/mdev/devices/{uuid}/remove"


@pytest.mark.parametrize("after", [b"", b"\n", b" ", b"\0", b"z"])
@pytest.mark.parametrize("uuid", [str(UUID1), str(UUID1).upper(), str(uuid_of(0)), ALL_ONES])
def test_36_characters_and_any_one_more_create(mounted: Mounted, uuid: str, after: bytes) -> None:
    assert write(mounted / CREATE, uuid.encode() + after) == 36 + len(after)
    assert mounted.names("bus/mdev/devices") == [uuid.lower()]
    assert write(mounted / remove_of(uuid.lower()), b"1") == 1
    assert mounted.names("bus/mdev/devices") == []


@pytest.mark.parametrize(
    "text",
    [
        b"\n", TEXT[:35], TEXT[:35] + b"\n", TEXT + b"\r\n", TEXT + b"\n\n", b" " + TEXT, b" " + TEXT[:35],
        b"{" + TEXT + b"}", b"urn:uuid:" + TEXT, TEXT.replace(b"-", b""), TEXT.replace(b"-", b"") + b"0000",
        TEXT[:35] + b"g", b"83b8f4f25-09f-382f-3c1e-e6bfe0fa1001", b"-" * 36, TEXT[:32] + b"\0" + TEXT[33:],
        b"garbage", b"a" * 4095, b"a" * 4096, b"a" * 4097, b"a" * 65536,
    ],
)  # fmt: skip
def test_anything_else_is_einval(mounted: Mounted, text: bytes) -> None:
    assert write(mounted / CREATE, text) == -errno.EINVAL
    assert mounted.names("bus/mdev/devices") == []


@pytest.mark.parametrize("flags", [0, os.O_CREAT | os.O_TRUNC, os.O_APPEND, os.O_CREAT])
def test_how_the_file_is_opened_does_not_matter(mounted: Mounted, flags: int) -> None:
    assert write(mounted / CREATE, TEXT, os.O_WRONLY | flags) == 36


def test_nothing_written_is_nothing_done(mounted: Mounted) -> None:
    assert write(mounted / CREATE, b"") == 0


def test_each_write_is_judged_alone(mounted: Mounted) -> None:
    with opened(mounted / CREATE, os.O_WRONLY) as file:
        for part in (TEXT[:18], TEXT[18:]):
            with pytest.raises(OSError, match="Invalid argument"):
                os.write(file, part)
        assert os.writev(file, [TEXT[:18], TEXT[18:]]) == 36
    assert mounted.names("bus/mdev/devices") == [str(UUID1)]


def test_the_offset_does_not_matter(mounted: Mounted) -> None:
    with opened(mounted / CREATE, os.O_WRONLY) as file:
        assert os.pwrite(file, TEXT, 10) == 36


@pytest.mark.parametrize("path", [CREATE, f"{MTTY_TYPES}/mtty-2/create", f"{MDPY}/create"])
@pytest.mark.parametrize("text", [TEXT, TEXT + b"\n", TEXT.upper()])
def test_a_taken_uuid_is_eexist_everywhere(mounted: Mounted, path: str, text: bytes) -> None:
    mounted.scene.create()
    assert write(mounted / path, text) == -errno.EEXIST


def test_a_taken_uuid_is_eexist_while_unbound_and_when_full(mounted: Mounted) -> None:
    mounted.scene.bus.unbind(mounted.scene.create(), "mtty")
    mounted.scene.mtty.free = 0
    assert write(mounted / CREATE, TEXT) == -errno.EEXIST


def test_a_parent_that_counts_for_itself_is_full_with_enospc(mounted: Mounted) -> None:
    for number in range(24):
        assert write(mounted / CREATE, str(uuid_of(number)).encode()) == 36
        assert read(mounted / f"{MTTY}/available_instances") == f"{23 - number}\n"
        assert read(mounted / f"{MTTY_TYPES}/mtty-2/available_instances") == f"{(23 - number) // 2}\n"
    assert write(mounted / CREATE, TEXT) == -errno.ENOSPC
    assert write(mounted / f"{MTTY_TYPES}/mtty-2/create", TEXT) == -errno.ENOSPC
    assert write(mounted / CREATE, str(uuid_of(1)).encode()) == -errno.EEXIST
    assert not (mounted / f"bus/mdev/devices/{UUID1}").is_symlink()
    assert write(mounted / remove_of(uuid_of(0)), b"1") == 1
    assert write(mounted / f"{MTTY_TYPES}/mtty-2/create", TEXT) == -errno.ENOSPC
    assert write(mounted / CREATE, TEXT) == 36


def test_a_parent_that_the_core_counts_is_full_with_eusers(mounted: Mounted) -> None:
    create = mounted / f"{MDPY}/create"
    assert [write(create, str(uuid_of(number)).encode()) for number in range(5)] == [36] * 4 + [-errno.EUSERS]
    assert read(mounted / f"{MDPY}/available_instances") == "0\n"
    assert write(create, str(uuid_of(1)).encode()) == -errno.EEXIST


@pytest.mark.parametrize("text", [b"1", b"1\n", b"+1", b"0x1", b"010", b"2", b"18446744073709551615"])
def test_any_number_but_zero_removes(mounted: Mounted, text: bytes) -> None:
    mounted.scene.create()
    assert write(mounted / remove_of(UUID1), text) == len(text)
    assert mounted.scene.bus.mdevs() == []


@pytest.mark.parametrize("text", [b"", b"0", b"00", b"0x0", b"+0", b"0\n"])
def test_zero_removes_nothing(mounted: Mounted, text: bytes) -> None:
    mounted.scene.create()
    assert write(mounted / remove_of(UUID1), text) == len(text)
    assert (mounted / remove_of(UUID1)).exists()


@pytest.mark.parametrize(
    "text",
    [b"\n", b"garbage", b" 1", b"1 ", b"-1", b"1.0", b"1garbage", b"0x", b"true", b"y", b"9" * 23, b"1\n\n"],
)
def test_what_is_no_number_is_einval(mounted: Mounted, text: bytes) -> None:
    mounted.scene.create()
    assert write(mounted / remove_of(UUID1), text) == -errno.EINVAL
    assert (mounted / remove_of(UUID1)).exists()


@pytest.mark.parametrize(
    "path",
    [
        remove_of(UUID1),
        f"class/mdev_bus/mtty/mdev_supported_types/mtty-1/devices/{UUID1}/remove",
        f"devices/virtual/mtty/mtty/{UUID1}/remove",
        f"bus/mdev/drivers/mtty/{UUID1}/remove",
    ],
)
def test_every_way_to_remove_is_the_same(mounted: Mounted, path: str) -> None:
    mounted.scene.create()
    assert write(mounted / path, b"1") == 1
    assert write(mounted / path, b"1") == -errno.ENOENT


def test_an_upper_case_name_is_no_file(mounted: Mounted) -> None:
    uuid = "AAAABBBB-CCCC-DDDD-EEEE-FFFFFFFFFF01"
    assert write(mounted / CREATE, uuid.encode()) == 36
    assert write(mounted / remove_of(uuid), b"1") == -errno.ENOENT
    assert write(mounted / remove_of(uuid.lower()), b"1") == 1


def test_open_files_of_what_is_gone_answer_enodev(mounted: Mounted) -> None:
    mounted.scene.create()
    device = mounted / f"bus/mdev/devices/{UUID1}"
    with opened(device / "uevent", os.O_RDONLY) as uevent, opened(device / "remove", os.O_WRONLY) as remove:
        assert os.pread(uevent, 100, 0)
        assert write(device / "remove", b"1") == 1
        for again in range(2):
            for offset in (0, 4):
                with pytest.raises(OSError, match="No such device"):
                    os.pread(uevent, 100, offset)
            with pytest.raises(OSError, match="No such device"):
                os.write(remove, b"1")
            if not again:
                mounted.scene.create()
    assert mounted.names("bus/mdev/devices") == [str(UUID1)]


def test_create_on_a_parent_that_is_gone_is_enodev(mounted: Mounted) -> None:
    with opened(mounted / CREATE, os.O_WRONLY) as create:
        mounted.scene.bus.unregister_parent(mounted.scene.parent)
        with pytest.raises(OSError, match="No such device"):
            os.write(create, TEXT)
    assert not (mounted / "class/mdev_bus/mtty").is_symlink()


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        (f"{DRIVER}/unbind", TEXT, 36),
        (f"{DRIVER}/unbind", TEXT + b"\n", 37),
        (f"{DRIVER}/unbind", b"nonexistent", -errno.ENODEV),
        (f"{DRIVER}/unbind", str(UUID2).encode(), -errno.ENODEV),
        (f"{DRIVER}/bind", b"nonexistent", -errno.ENODEV),
        (f"{DRIVER}/bind", TEXT, -errno.ENODEV),
        ("bus/mdev/drivers_probe", TEXT, 36),
        ("bus/mdev/drivers_probe", b"nodev", -errno.ENODEV),
        ("bus/mdev/drivers_autoprobe", b"0", 1),
        ("bus/mdev/uevent", b"add", 3),
        (f"{DRIVER}/uevent", b"add", 3),
        (f"bus/mdev/devices/{UUID1}/uevent", b"change", 6),
        (f"bus/mdev/devices/{UUID1}/uevent", b"add " + TEXT + b" A=1", 44),
        (f"bus/mdev/devices/{UUID1}/uevent", b"frobnicate", -errno.EINVAL),
        ("devices/virtual/mtty/mtty/uevent", b"change", 6),
        (f"{MTTY}/uevent", b"add", -errno.ENOENT),
    ],
)
def test_the_bus_and_its_driver_answer_as_the_kernels(mounted: Mounted, path: str, text: bytes, expected: int) -> None:
    mounted.scene.create()
    assert write(mounted / path, text) == expected


def test_unbind_and_bind_back(mounted: Mounted) -> None:
    mounted.scene.create()
    device = mounted / f"bus/mdev/devices/{UUID1}"
    whole = mounted.names(DEVICE)
    assert write(mounted / f"{DRIVER}/unbind", TEXT) == 36
    assert mounted.names(DEVICE) == ["mdev_type", "remove", "subsystem", "uevent"]
    assert read(device / "uevent") == ""
    assert read(device / "vendor/sample_mdev_dev") == -errno.ENOENT
    assert write(mounted / f"{DRIVER}/unbind", TEXT) == -errno.ENODEV
    assert write(mounted / f"{DRIVER}/bind", TEXT) == 36
    assert mounted.names(DEVICE) == whole
    assert write(device / "remove", b"1") == 1


@pytest.mark.parametrize(
    "error", [errno.EBUSY, errno.EPERM, errno.ENOMEM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ESTALE]
)
def test_a_drivers_errno_reaches_the_writer(mounted: Mounted, error: int) -> None:
    def refuse() -> None:
        raise OSError(error, "the driver's")

    mounted.scene.mtty.on_create = refuse
    assert write(mounted / CREATE, TEXT) == -error
    assert mounted.names("bus/mdev/devices") == []


def test_a_drivers_bug_is_eio_and_the_mount_lives_on(mounted: Mounted) -> None:
    def bug() -> None:
        raise SystemExit(1)

    mounted.scene.mtty.on_create = bug
    assert write(mounted / CREATE, TEXT) == -errno.EIO
    mounted.scene.mtty.on_create = lambda: None
    assert write(mounted / CREATE, TEXT) == 36


def test_the_shell_gets_the_kernels_words(mounted: Mounted) -> None:
    script = f'cd "$0"; echo {UUID1} > create && echo {UUID1} > create; echo nonsense > create; cat create'
    # Not cwd=: between vfork and exec the child would walk into a mount that this very process serves.
    folder = str((mounted / CREATE).parent)
    done = subprocess.run(["bash", "-c", script, folder], capture_output=True, text=True, timeout=PATIENCE, check=False)
    for words in ("File exists", "Invalid argument", "Permission denied"):
        assert words in done.stderr
