"""Which rig is taken, and what a build leaves behind; nothing is fetched here."""

import fcntl
import platform
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from mdev_user.guests import rig
from mdev_user.guests.archive import RigError
from mdev_user.guests.cached import cache_folder
from mdev_user.guests.qemu import VFIO_USER_PCI, Qemu, has_device, parse_version
from mdev_user.guests.rig import Stamp, build_rig, find_rig

HOST = Qemu(("/usr/bin/qemu-system-x86_64",), "11.2.0", VFIO_USER_PCI)
HELP = 'name "vfio-pci", bus PCI, desc "..."\nname "vfio-user-pci", bus PCI, desc "VFIO over socket"\n'


def fill(
    work: Path, progress: Callable[[str], None], _host: Qemu | None = None, *, qemu_version: str | None = "11.1.3"
) -> None:
    """Stands in for the long part of a build."""
    progress("filling")
    folder = work / "rig"
    folder.mkdir()
    stamp = Stamp(qemu_version=qemu_version, kernel="vmlinux", kernel_release="6.12.0", applets=("sh",))
    (folder / "stamp.json").write_bytes(msgspec.json.encode(stamp))


def no_progress(_line: str) -> None:
    pass


@pytest.fixture
def without_host_qemu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig, "host_qemu", lambda _devices: None)
    monkeypatch.setattr(rig, "check_machine", lambda: None)
    monkeypatch.setattr(rig, "_fill", fill)


def test_cache_folder_is_the_callers_then_xdgs_then_homes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/author")
    monkeypatch.delenv("MDEV_USER_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path("/home/author/.cache/mdev-user")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_folder() == Path("/cache/mdev-user")
    monkeypatch.setenv("MDEV_USER_CACHE", "/own")
    assert cache_folder() == Path("/own")


def test_only_a_qemu_that_lists_vfio_user_pci_has_the_device() -> None:
    assert has_device(HELP)
    assert not has_device(HELP.replace("vfio-user-pci", "vfio-user"))
    assert not has_device("")


def test_version_is_the_word_after_version() -> None:
    assert parse_version("QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds)\nCopyright") == "11.1.3"
    assert parse_version("") == parse_version("version") == "unknown"


@pytest.mark.usefixtures("without_host_qemu")
def test_no_rig_is_found_in_an_empty_cache(tmp_path: Path) -> None:
    assert find_rig(tmp_path / "absent") is None


@pytest.mark.usefixtures("without_host_qemu")
def test_a_built_rig_is_found_with_its_own_qemu(tmp_path: Path) -> None:
    built = build_rig(no_progress, tmp_path)
    assert find_rig(tmp_path) == built
    assert built.qemu[0] == str(tmp_path / "rig-2/qemu/lib/ld-linux-x86-64.so.2")
    assert (built.qemu_version, built.kernel_release) == ("11.1.3", "6.12.0")
    assert built.kernel == tmp_path / "rig-2/vmlinux"


@pytest.mark.usefixtures("without_host_qemu")
def test_a_host_qemu_with_the_device_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_rig(no_progress, tmp_path)
    monkeypatch.setattr(rig, "host_qemu", lambda _devices: HOST)
    found = find_rig(tmp_path)
    assert found is not None
    assert (found.qemu, found.qemu_version, found.device) == (HOST.command, HOST.version, HOST.device)


@pytest.mark.usefixtures("without_host_qemu")
def test_a_rig_without_qemu_is_rebuilt_when_the_host_loses_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as with_host:
        with_host.setattr(rig, "host_qemu", lambda _devices: HOST)
        with_host.setattr(rig, "_fill", lambda work, progress, _host: fill(work, progress, qemu_version=None))
        build_rig(no_progress, tmp_path)
    assert find_rig(tmp_path) is None
    assert build_rig(no_progress, tmp_path).qemu_version == "11.1.3"


@pytest.mark.usefixtures("without_host_qemu")
@pytest.mark.parametrize("stamp", [b"", b"{", b"[]", b'{"qemu_version": 1}'])
def test_a_damaged_stamp_is_no_rig_and_is_built_anew(tmp_path: Path, stamp: bytes) -> None:
    (tmp_path / "rig-2").mkdir()
    (tmp_path / "rig-2/stamp.json").write_bytes(stamp)
    assert find_rig(tmp_path) is None
    assert build_rig(no_progress, tmp_path) == find_rig(tmp_path)


@pytest.mark.usefixtures("without_host_qemu")
def test_a_second_build_does_nothing(tmp_path: Path) -> None:
    lines: list[str] = []
    build_rig(lines.append, tmp_path)
    assert lines == ["filling"]
    lines.clear()
    build_rig(lines.append, tmp_path)
    assert lines == []


@pytest.mark.usefixtures("without_host_qemu")
@pytest.mark.parametrize("error", [RigError("no network"), KeyboardInterrupt()])
def test_an_interrupted_build_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def interrupted(work: Path, progress: Callable[[str], None], _host: Qemu | None) -> None:
        fill(work, progress)
        raise error

    with monkeypatch.context() as interruption:
        interruption.setattr(rig, "_fill", interrupted)
        with pytest.raises(type(error)):
            build_rig(no_progress, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["rig-2.lock"]
    build_rig(no_progress, tmp_path)


@pytest.mark.usefixtures("without_host_qemu")
def test_what_a_killed_builder_left_is_swept_up(tmp_path: Path) -> None:
    (tmp_path / "rig-2.building-dead/apt").mkdir(parents=True)
    build_rig(no_progress, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rig-2", "rig-2.lock"]


@pytest.mark.usefixtures("without_host_qemu")
def test_a_second_builder_waits_and_takes_the_firsts_rig(tmp_path: Path) -> None:
    waiting = threading.Event()
    lines: list[str] = []

    def progress(line: str) -> None:
        lines.append(line)
        waiting.set()

    second = threading.Thread(target=build_rig, args=(progress, tmp_path))
    with (tmp_path / "rig-2.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second.start()
        assert waiting.wait(10)
        fill(tmp_path, no_progress)
        (tmp_path / "rig").rename(tmp_path / "rig-2")
    second.join(10)
    assert lines == ["waiting for another process that is building the guest rig"]


@pytest.mark.usefixtures("without_host_qemu")
def test_a_cache_that_cannot_be_written_is_a_rig_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RigError, match="cannot be written"):
        build_rig(no_progress, tmp_path / "file")


def test_another_architecture_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(RigError, match="made for x86_64, this machine is riscv64"):
        build_rig(no_progress, tmp_path)


def test_a_machine_without_debians_tools_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RigError, match=r"no apt-get here.*install QEMU >= 10\.1"):
        build_rig(no_progress, tmp_path)
