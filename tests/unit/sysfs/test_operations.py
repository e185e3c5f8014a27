"""What FUSE is answered, without FUSE: errors, open files, what sysfs refuses."""

import errno
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from mdev_user.sysfs.operations import Operations
from mdev_user.sysfs.paths import device_path
from mdev_user.sysfs.tree import Rule
from unit.sysfs.scene import MTTY, UUID1, Scene

DEVICE = f"/devices/virtual/mtty/mtty/{UUID1}"
SPEED = f"{DEVICE}/vendor/speed"


class Session:
    open_hints: Sequence[str] = ("direct_io",)

    def __init__(self) -> None:
        self.begun = 0
        self.uid = 0

    def caller(self) -> int:
        return self.uid

    def begin(self) -> None:
        self.begun += 1

    def keep_thread(self) -> None:
        return


@dataclass
class File:
    flags: int
    fh: int = 0
    direct_io: int = 0


@dataclass
class Config:
    entry_timeout: float = 1.0
    negative_timeout: float = 1.0
    attr_timeout: float = 1.0
    use_ino: int = 0
    nullpath_ok: int = 0


class Fixture:
    def __init__(self) -> None:
        self.scene = Scene()
        self.scene.create()
        self.session = Session()
        self.operations = Operations(self.scene.tree, {"st_mtime": 5}, self.session)

    def open(self, path: str, flags: int = os.O_RDONLY) -> File:
        file = File(flags)
        assert self.operations.open(path, file) == 0
        return file

    def read(self, file: File, size: int = 4096, offset: int = 0) -> bytes:
        return self.operations.read(None, size, offset, file)


@pytest.fixture
def served() -> Fixture:
    return Fixture()


def errno_from(action: Callable[[], object]) -> int:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - its errno is what is compared
        action()
    assert caught.value.errno is not None
    return caught.value.errno


def raising(error: BaseException) -> Callable[[], str]:
    def show() -> str:
        raise error

    return show


def test_the_kernel_keeps_no_name(served: Fixture) -> None:
    config = Config()
    served.operations.init_with_config(None, config)
    assert (config.entry_timeout, config.negative_timeout) == (0, 0)
    assert config.attr_timeout >= 3600  # what it holds, it may use when the name is gone
    assert (config.use_ino, config.nullpath_ok, served.session.begun) == (1, 1, 1)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EBUSY, "busy"), errno.EBUSY),
        (OSError(errno.ESTALE, "stale"), errno.ESTALE),
        (ValueError("a bug"), errno.EIO),
        (SystemExit(3), errno.EIO),
        (KeyboardInterrupt(), errno.EIO),
        (OSError("no errno"), errno.EIO),
        (OSError("text", "text"), errno.EIO),
        (OSError(600, "the kernel's FUSE takes none above 511"), errno.EIO),
        (OSError(-22, "negative"), errno.EIO),
        (InterruptedError(errno.EINTR, "callers would try again for ever"), errno.EIO),
    ],
)
def test_whatever_a_driver_raises_is_an_errno(served: Fixture, error: BaseException, expected: int) -> None:
    served.scene.mtty.on_show = raising(error)
    file = served.open(SPEED)
    assert errno_from(lambda: served.read(file)) == expected


def test_what_nobody_foresaw_is_logged(served: Fixture, caplog: pytest.LogCaptureFixture) -> None:
    file = served.open(SPEED)
    served.scene.mtty.on_show = raising(OSError(errno.EIO, "foreseen"))
    errno_from(lambda: served.read(file))
    assert caplog.records == []
    served.scene.mtty.on_show = raising(ValueError("a bug"))
    errno_from(lambda: served.read(file))
    assert "a bug" in caplog.text


def test_a_show_that_returns_no_text_is_eio(served: Fixture) -> None:
    served.scene.mtty.on_show = lambda: 115200  # type: ignore[assignment, return-value] # the author's mistake
    file = served.open(SPEED)
    assert errno_from(lambda: served.read(file)) == errno.EIO


@pytest.mark.parametrize(
    ("path", "mode", "flags", "expected"),
    [
        (f"{DEVICE}/remove", None, os.O_RDONLY, errno.EACCES),
        (f"{DEVICE}/remove", None, os.O_RDWR, errno.EACCES),
        (f"{DEVICE}/remove", None, os.O_WRONLY | os.O_TRUNC | os.O_CREAT, 0),
        (f"{DEVICE}/vendor/sample_mdev_dev", None, os.O_WRONLY, errno.EACCES),
        (f"{DEVICE}/vendor/sample_mdev_dev", None, os.O_RDWR, errno.EACCES),
        (f"{DEVICE}/vendor/sample_mdev_dev", None, os.O_RDONLY, 0),
        (SPEED, None, os.O_RDWR, 0),
        (SPEED, 0, os.O_RDONLY, errno.EACCES),
        (SPEED, 0o001, os.O_RDONLY, errno.EACCES),
        (SPEED, 0o004, os.O_RDONLY, 0),
        (SPEED, 0o666, os.O_ACCMODE, 0),
        (DEVICE, None, os.O_RDONLY, errno.EISDIR),
        (f"{DEVICE}/no", None, os.O_RDONLY, errno.ENOENT),
    ],
)
def test_open_looks_at_the_mode_bits(served: Fixture, path: str, mode: int | None, flags: int, expected: int) -> None:
    if mode is not None:
        served.operations.chmod(path, mode)
    if expected:
        assert errno_from(lambda: served.open(path, flags)) == expected
    else:
        assert served.open(path, flags).direct_io == 1


def test_a_file_made_readable_that_shows_nothing_is_eio(served: Fixture) -> None:
    served.operations.chmod(f"/{MTTY}/create", 0o666)
    file = served.open(f"/{MTTY}/create", os.O_RDWR)
    assert errno_from(lambda: served.read(file)) == errno.EIO


def test_the_text_is_made_when_reading_begins(served: Fixture) -> None:
    texts = iter(["first\n", "second\n", "third\n"])
    served.scene.mtty.on_show = lambda: next(texts)
    file = served.open(SPEED)
    assert [served.read(file, 3, 0), served.read(file, 10, 3), served.read(file, 10, 6)] == [b"fir", b"st\n", b""]
    assert served.read(file) == b"second\n"
    assert served.read(served.open(SPEED), 10, 1) == b"hird\n"
    assert next(texts, None) is None


def test_an_open_file_stays_what_it_was(served: Fixture) -> None:
    reading, writing = served.open(SPEED), served.open(SPEED, os.O_WRONLY)
    served.read(reading)
    served.scene.bus.remove(UUID1)
    served.scene.create()
    assert errno_from(lambda: served.read(reading, 10, 3)) == errno.ENODEV
    assert errno_from(lambda: served.operations.write(None, b"1", 0, writing)) == errno.ENODEV
    assert served.scene.mtty.stored == []


def test_a_write_is_one_store_wherever_it_was_aimed(served: Fixture) -> None:
    file = served.open(SPEED, os.O_WRONLY)
    assert [served.operations.write(None, b"x" * size, 100, file) for size in (3, 5000)] == [3, 4096]
    assert [len(data) for data in served.scene.mtty.stored] == [3, 4096]


def test_closed_files_are_forgotten(served: Fixture) -> None:
    file, number = served.open(SPEED), served.operations.opendir(DEVICE)
    served.operations.release(None, file)
    served.operations.releasedir(None, number)
    assert (served.operations._files, served.operations._directories) == ({}, {})
    served.operations.release(None, file)


def test_getattr_has_what_is_not_zero(served: Fixture) -> None:
    fields = served.operations.getattr(f"{DEVICE}/uevent")
    node = served.scene.tree.lookup(f"{DEVICE}/uevent"[1:])
    assert node is not None
    assert fields == {
        "st_mode": stat.S_IFREG | 0o644,
        "st_ino": node.st_ino,
        "st_nlink": 1,
        "st_size": 4096,
        "st_mtime": 5,
    }
    served.operations.chown(f"{DEVICE}/uevent", 0, 7)
    assert served.operations.getattr(f"{DEVICE}/uevent") == fields | {"st_uid": 0, "st_gid": 7}
    assert served.operations.getattr("/")["st_mode"] == stat.S_IFDIR | 0o755


def test_a_listing_gives_each_entry_its_own_type_and_number(served: Fixture) -> None:
    listed = served.operations.readdir(None, served.operations.opendir(DEVICE))
    kinds = {name: fields["st_mode"] for name, fields, _ in listed}
    assert (kinds["vendor"], kinds["driver"], kinds["uevent"]) == (stat.S_IFDIR, stat.S_IFLNK, stat.S_IFREG)
    assert {".", ".."} < set(kinds)
    assert {fields["st_ino"] for name, fields, _ in listed if name == "uevent"} == {
        served.operations.getattr(f"{DEVICE}/uevent")["st_ino"]
    }


def test_an_open_directory_that_is_gone_lists_empty(served: Fixture) -> None:
    number = served.operations.opendir(DEVICE)
    served.scene.bus.remove(UUID1)
    assert [name for name, _, _ in served.operations.readdir(None, number)] == [".", ".."]
    number = served.operations.opendir(DEVICE)  # which the kernel asks where it still holds it
    assert [name for name, _, _ in served.operations.readdir(None, number)] == [".", ".."]
    assert errno_from(lambda: served.operations.opendir("/bus/mdev/uevent")) == errno.ENOTDIR


@pytest.mark.parametrize("name", ["mknod", "mkdir", "unlink", "rmdir", "symlink", "rename", "link"])
def test_sysfs_makes_and_removes_its_nodes_itself(served: Fixture, name: str) -> None:
    operation = getattr(served.operations, name)
    assert errno_from(lambda: operation(f"{DEVICE}/new", 0)) == errno.EPERM


def test_a_new_file_is_eacces(served: Fixture) -> None:
    assert errno_from(lambda: served.operations.create(f"{DEVICE}/new", 0o644, File(0))) == errno.EACCES


def test_truncate_and_touch_do_nothing(served: Fixture) -> None:
    assert served.operations.truncate(f"/{MTTY}/create", 0) == 0
    assert served.operations.utimens(f"/{MTTY}/create", None) == 0
    assert served.scene.bus.mdevs() == [served.scene.bus.mdev(UUID1)]


def test_only_links_are_read_as_links(served: Fixture) -> None:
    assert served.operations.readlink(f"{DEVICE}/mdev_type") == "../mdev_supported_types/mtty-1"
    assert errno_from(lambda: served.operations.readlink(f"{DEVICE}/uevent")) == errno.EIO


def test_who_may_not_own_an_mdev_is_told_why(served: Fixture) -> None:
    def refuse(_uid: int, _gid: int) -> None:
        raise PermissionError(errno.EPERM, "no")

    directory = served.scene.tree.add_directory(device_path(served.scene.bus.mdev(UUID1)))
    directory.on_chown = refuse
    assert errno_from(lambda: served.operations.chown(DEVICE, 1, 1)) == errno.EPERM
    assert directory.uid == 0


def test_a_blocked_show_holds_no_lock(served: Fixture) -> None:
    """While one show runs everything else answers: here from inside of it."""
    seen: list[object] = []

    def show() -> str:
        seen.append(served.read(served.open(f"{DEVICE}/uevent")))
        seen.append(len(served.operations.readdir(None, served.operations.opendir(f"{DEVICE}/vendor"))))
        served.scene.tree.add_attribute(f"{DEVICE}/vendor/more"[1:], Rule(0o444), None)
        return "ok\n"

    served.scene.mtty.on_show = show
    assert served.read(served.open(SPEED)) == b"ok\n"
    assert seen == [b"DRIVER=mtty\n", 4]
