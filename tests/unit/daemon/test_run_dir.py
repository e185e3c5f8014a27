"""The run directory: its modes and links, the one daemon that may use it, and what a dead one left."""

import errno
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from mdev_user.daemon import run_dir as run_dir_module
from mdev_user.daemon.run_dir import MOST_SOCKET_PATH, RunDir, default_run_dir, mdevctl_definitions, mounts_below
from mdev_user.errors import Busy, ConfigError

MDEV = UUID("83b8f4f2-509f-382f-3c1e-e6bfe0fa1001")


@pytest.fixture
def short() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mdev-user-") as folder:
        yield Path(folder)


@pytest.fixture
def run_dir(short: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunDir]:
    monkeypatch.setenv("HOME", str(short / "home"))
    run_dir = RunDir(short / "run")
    yield run_dir
    run_dir.release()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_others_may_pass_and_list_nothing(run_dir: RunDir) -> None:
    run_dir.prepare()
    assert [mode(path) for path in (run_dir.path, run_dir.devices, run_dir.root)] == [0o711, 0o711, 0o755]
    assert run_dir.sys.is_dir()


def test_the_umask_does_not_matter(run_dir: RunDir) -> None:
    old = os.umask(0o777)
    try:
        run_dir.prepare()
    finally:
        os.umask(old)
    assert (mode(run_dir.path), mode(run_dir.devices)) == (0o711, 0o711)


def test_the_paths_are_the_contracts(short: Path) -> None:
    run_dir = RunDir(short)
    assert run_dir.socket(MDEV) == short / "devices" / str(MDEV) / "vfio-user.sock"
    assert (run_dir.control, run_dir.sys) == (short / "control.sock", short / "root/sys")


def test_a_relative_path_is_made_absolute(monkeypatch: pytest.MonkeyPatch, short: Path) -> None:
    monkeypatch.chdir(short)
    assert RunDir("run").path == short / "run"


@pytest.fixture
def scripts(short: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the machine has mdevctl's scripts, or would have them."""
    monkeypatch.setattr(run_dir_module, "_SCRIPTS", short / "mdevctl")
    return short / "mdevctl"


def test_mdevctl_finds_its_folders(run_dir: RunDir, scripts: Path) -> None:
    for name in ("callouts", "notifiers"):
        (scripts / "scripts.d" / name).mkdir(parents=True)
    run_dir.prepare()
    definitions = "/etc/mdevctl.d" if os.geteuid() == 0 else f"{os.environ['HOME']}/.config/mdevctl.d"
    assert (run_dir.root / "etc/mdevctl.d").readlink() == Path(definitions)
    assert (run_dir.root / "usr/lib/mdevctl").readlink() == scripts


@pytest.mark.usefixtures("scripts")
def test_where_the_machine_has_no_folders_for_its_scripts_mdevctl_finds_empty_ones(run_dir: RunDir) -> None:
    run_dir.prepare()
    assert sorted(each.name for each in (run_dir.root / "usr/lib/mdevctl/scripts.d").iterdir()) == [
        "callouts",
        "notifiers",
    ]


def test_an_ordinary_users_definitions_are_his_own(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(short))
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    assert mdevctl_definitions() == short / ".config/mdevctl.d"
    assert (mdevctl_definitions() / "scripts.d/notifiers").is_dir()


def test_a_private_folder_of_definitions_leaves_the_users_home_alone(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run_dir.root / "etc/mdevctl.d").mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(run_dir_module, "mdevctl_definitions", lambda: pytest.fail("it makes a folder there"))
    run_dir.prepare()


def test_a_wrong_link_is_set_right_and_a_folder_left_alone(run_dir: RunDir, scripts: Path) -> None:
    (scripts / "scripts.d/callouts").mkdir(parents=True)
    (scripts / "scripts.d/notifiers").mkdir(parents=True)
    (run_dir.root / "etc/mdevctl.d").mkdir(parents=True)
    (run_dir.root / "usr/lib").mkdir(parents=True)
    (run_dir.root / "usr/lib/mdevctl").symlink_to("/nowhere")
    run_dir.prepare()
    assert (run_dir.root / "etc/mdevctl.d").is_dir()
    assert not (run_dir.root / "etc/mdevctl.d").is_symlink()
    assert (run_dir.root / "etc/mdevctl.d/scripts.d/callouts").is_dir(), "mdevctl 1.2 ends without it"
    assert (run_dir.root / "usr/lib/mdevctl").readlink() == scripts


def test_a_second_daemon_is_refused_with_the_first_ones_pid(run_dir: RunDir) -> None:
    run_dir.prepare()
    with pytest.raises(Busy) as caught:
        RunDir(run_dir.path).prepare()
    assert f"is in use by the daemon with pid {os.getpid()};" in str(caught.value)


def test_the_next_daemon_has_it_after_release(run_dir: RunDir) -> None:
    run_dir.prepare()
    run_dir.release()
    second = RunDir(run_dir.path)
    second.prepare()
    second.release()


def test_a_killed_daemon_holds_nothing(run_dir: RunDir) -> None:
    code = (
        "import sys; from mdev_user.daemon.run_dir import RunDir; run_dir = RunDir(sys.argv[1]); run_dir.prepare(); "
        "print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(run_dir.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == b"ready\n"
        with pytest.raises(Busy, match=f"pid {daemon.pid};"):
            run_dir.prepare()
        daemon.kill()
    run_dir.prepare()


def test_a_started_program_does_not_keep_the_lock(run_dir: RunDir) -> None:
    run_dir.prepare()
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, close_fds=False) as child:
        run_dir.release()
        second = RunDir(run_dir.path)
        second.prepare()
        second.release()
        child.kill()


def test_a_dead_daemons_sockets_go_and_nothing_else(run_dir: RunDir, caplog: pytest.LogCaptureFixture) -> None:
    stale, kept, odd = run_dir.mdev(MDEV), run_dir.mdev(UUID(int=1)), run_dir.devices / "notes"
    for folder in (stale, kept, odd):
        folder.mkdir(parents=True)
    for folder in (stale, kept):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "vfio-user.sock"))
    (kept / "mine").write_text("text")
    (run_dir.devices / str(UUID(int=2))).symlink_to(odd)
    run_dir.prepare()
    assert not stale.exists()
    assert (kept / "mine").read_text() == "text"
    assert "Directory not empty" in caplog.text
    assert odd.is_dir()
    assert (run_dir.devices / str(UUID(int=2))).is_symlink()


def test_what_is_no_socket_is_not_removed(run_dir: RunDir) -> None:
    run_dir.mdev(MDEV).mkdir(parents=True)
    run_dir.socket(MDEV).write_text("text")
    run_dir.prepare()
    assert run_dir.socket(MDEV).read_text() == "text"


def test_a_folder_with_a_mount_below_is_left_alone(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir.mdev(MDEV).mkdir(parents=True)
    mounted = Path(os.path.realpath(run_dir.mdev(MDEV))) / "mount"
    monkeypatch.setattr(run_dir_module, "mounts_below", lambda _folder: [mounted])
    run_dir.prepare()
    assert run_dir.mdev(MDEV).is_dir()


def test_a_path_too_long_for_a_socket_is_refused_with_that_reason(short: Path) -> None:
    fits = MOST_SOCKET_PATH - len(f"/devices/{MDEV}/vfio-user.sock")
    longest = RunDir(short / ("x" * (fits - len(str(short)) - 1)))
    longest.prepare()
    longest.release()
    longest.mdev(MDEV).mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(longest.socket(MDEV)))  # what the limit is for
    too_long = RunDir(f"{longest.path}x")
    with pytest.raises(ConfigError, match=rf"is too long: expected at most {fits} bytes, given {fits + 1}, since"):
        too_long.prepare()
    assert not too_long.path.exists()


def test_a_folder_that_others_can_write_is_refused(run_dir: RunDir) -> None:
    run_dir.path.mkdir()
    run_dir.path.chmod(0o777)
    with pytest.raises(ConfigError, match=r"can be written by others \(mode 0777\); `chmod go-w "):
        run_dir.prepare()


def test_another_users_folder_is_refused(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir.path.mkdir()
    owner = run_dir.path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(ConfigError, match=f"belongs to user {owner}, expected {owner + 1};"):
        run_dir.prepare()


def test_a_file_is_no_run_directory(run_dir: RunDir) -> None:
    run_dir.path.touch()
    with pytest.raises(ConfigError, match="is not a folder"):
        run_dir.prepare()


def test_what_the_machine_refuses_names_the_folder(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int, _data: bytes, _offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(ConfigError) as caught:
            run_dir.prepare()
    assert str(caught.value) == (
        f"run directory {run_dir.path} cannot be used: No space left on device; "
        "mend that, or give another --run-dir DIR"
    )
    run_dir.prepare()  # the lock was let go


def test_a_file_in_the_way_is_named(run_dir: RunDir, short: Path) -> None:
    (short / "file").touch()
    below = RunDir(short / "file/run")
    with pytest.raises(ConfigError, match=f"{below.path} cannot be used: Not a directory; mend that"):
        below.prepare()
    run_dir.path.mkdir(mode=0o700)
    run_dir.lock.mkdir()
    with pytest.raises(ConfigError, match=rf"cannot be used: Is a directory \({run_dir.lock}\); mend that"):
        run_dir.prepare()


def test_a_users_default_is_his_runtime_folder() -> None:
    assert default_run_dir({"XDG_RUNTIME_DIR": "/run/user/7"}, 7) == Path("/run/user/7/mdev-user")
    assert default_run_dir({}, 0) == Path("/run/mdev-user")
    for uid in (0, 7):
        assert default_run_dir({"MDEV_USER_RUN_DIR": "/a", "XDG_RUNTIME_DIR": "/run/user/7"}, uid) == Path("/a")


@pytest.mark.parametrize("environment", [{}, {"XDG_RUNTIME_DIR": ""}, {"XDG_RUNTIME_DIR": "relative"}])
def test_a_user_without_a_runtime_folder_is_told(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"^expected \$XDG_RUNTIME_DIR to name .* or give --run-dir DIR$"):
        default_run_dir(environment, 7)


def test_mounts_are_read_from_mountinfo() -> None:
    text = (
        "22 1 0:21 / / rw - ext4 /dev/root rw\n"
        "30 22 0:30 / /run/a\\040b/root/sys rw,nosuid - fuse.mdev-user mdev-user rw\n"
        "31 22 0:31 / /run/a\\040bc rw - tmpfs tmpfs rw\n"
        "short line\n"
    )
    assert mounts_below(Path("/run/a b"), text) == [Path("/run/a b/root/sys")]


def test_this_machines_mounts_are_seen() -> None:
    assert Path("/proc") in mounts_below(Path("/proc"))
