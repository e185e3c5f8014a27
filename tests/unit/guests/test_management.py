"""Which management root is taken, what lies in one, and how its programs are run; nothing is fetched here."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from mdev_user.guests import __main__ as command
from mdev_user.guests import foreign, management
from mdev_user.guests.archive import RigError
from mdev_user.guests.management import ManagementRoot, Stamp, build_management_root, find_management_root

FOLDER = management._FOLDER
CPUS = f"{management._CPUS}/cpu_map/index.xml"


def unpacked(work: Path) -> Path:
    """What Debian's packages would leave, with one file that nothing needs."""
    folder = work / "unpacked"
    drivers = (management._NODE_DEVICES, management._DOMAINS)
    names = (*management._PROGRAMS, *drivers, *management._LOADED_LATER, *management._DATA)
    for name in (*names, CPUS, f"{foreign.LIBRARIES}/libone.so.1", "usr/share/doc/README"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


def fill(work: Path, _progress: Callable[[str], None]) -> None:
    """Stands in for the long part of a build."""
    root = work / "management"
    management._install(unpacked(work), root)
    (root / "stamp.json").write_bytes(msgspec.json.encode(Stamp(libvirt_version="11.3.0", mdevctl_version="1.4.0")))


@pytest.fixture(autouse=True)
def nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def one(folders: list[Path], _binary: Path) -> set[Path]:
        return {folders[0] / "libone.so.1"}

    monkeypatch.setattr(management, "libraries", one)
    monkeypatch.setattr(management, "_fill", fill)


def test_a_built_root_has_the_programs_and_what_they_load_and_nothing_else(tmp_path: Path) -> None:
    assert find_management_root(tmp_path) is None
    root = build_management_root(lambda _line: None, tmp_path)
    assert find_management_root(tmp_path) == root == ManagementRoot(tmp_path / FOLDER, "11.3.0", "1.4.0")
    assert (root.path / "usr/sbin/libvirtd").read_text() == "usr/sbin/libvirtd"
    assert (root.path / "lib64/libone.so.1").is_file()  # where a program looks for its interpreter
    assert (root.path / "bin/sh").read_text() == "usr/bin/dash"
    assert (root.path / CPUS).is_file()
    assert not (root.path / "usr/share/doc").exists()
    assert {"dev", "proc", "run", "sys", "tmp", "var"} <= {each.name for each in root.path.iterdir()}
    assert [each.name for each in tmp_path.iterdir() if "building" in each.name] == []


def test_the_driver_of_domains_lies_apart(tmp_path: Path) -> None:
    """Where only a libvirtd that is told of it finds it: the one in the small root cannot load it."""
    root = build_management_root(lambda _line: None, tmp_path).path
    nodes = (root / management._NODE_DEVICES).parent
    assert [each.name for each in nodes.iterdir()] == ["libvirt_driver_nodedev.so"]
    assert [each.name for each in (root / management.QEMU_DRIVERS).iterdir()] == ["libvirt_driver_qemu.so"]


def test_a_program_is_run_by_its_own_interpreter_with_its_own_libraries(tmp_path: Path) -> None:
    libraries = tmp_path / "usr/lib/x86_64-linux-gnu"
    assert ManagementRoot(tmp_path, "", "").command("virsh") == (
        f"{libraries}/ld-linux-x86-64.so.2", "--inhibit-cache", "--library-path", str(libraries),
        f"{tmp_path}/usr/bin/virsh",
    )  # fmt: skip


def test_a_root_without_a_whole_stamp_is_none(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    assert find_management_root(tmp_path) is None
    (tmp_path / FOLDER / "stamp.json").write_text('{"libvirt_version": "11')
    assert find_management_root(tmp_path) is None
    assert build_management_root(lambda _line: None, tmp_path) == find_management_root(tmp_path)


def test_a_program_that_does_not_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(RigError, match="virsh of trixie does not run here"):
        management._version(ManagementRoot(tmp_path, "", ""), "virsh")


def test_the_command_builds_what_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MDEV_USER_CACHE", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["guests", "management"])
    assert command.main() == 0
    assert capsys.readouterr().out == f"libvirt 11.3.0, mdevctl 1.4.0  {tmp_path / FOLDER}\n"
    monkeypatch.setattr("sys.argv", ["guests", "rigg"])
    with pytest.raises(SystemExit):
        command.main()
    assert "given rigg" in capsys.readouterr().err
