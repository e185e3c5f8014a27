"""``doctor``: each finding on a machine that lacks that one thing, with its cure."""

import errno
import json
import os
import resource
from pathlib import Path

import pytest
from typer.testing import CliRunner
from typing_extensions import override

from mdev_user import cli
from mdev_user.cli import checks, doctor
from mdev_user.cli.checks import CHECKS, Answer, Level, Subject, examine
from mdev_user.cli.machine import Machine
from mdev_user.guests.rig import Rig

QEMU = "/usr/bin/qemu-system-x86_64"


class FakeMachine(Machine):
    """A good machine, as root or as user 1000, whose facts a test changes."""

    def __init__(self, uid: int) -> None:
        self.uid = uid
        self.environment = {"XDG_RUNTIME_DIR": "/run/user/1000"}
        self.kernel = "6.12.43-amd64"
        self.architecture = "x86_64"
        self.python = "3.11.2"
        self.texts = {
            "/proc/self/status": "Name:\tx\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n",
            "/etc/fuse.conf": "# comment\nuser_allow_other\n",
            "/proc/sys/kernel/yama/ptrace_scope": "1",
            "/proc/sys/kernel/seccomp/actions_avail": "kill_process kill_thread trap errno user_notif trace log allow",
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "0",
        }
        self.fuse: OSError | None = None
        self.memfd: OSError | None = None
        self.no_groups = ""
        self.limits: dict[int, int] = {resource.RLIMIT_NOFILE: 1 << 20}
        self.programs = {"fusermount3": "/usr/bin/fusermount3", "qemu-system-x86_64": QEMU}
        self.setuid = True
        self.outputs = {
            (QEMU, "--version"): "QEMU emulator version 10.1.0 (Debian)",
            (QEMU, "-device", "help"): 'name "vfio-user-pci", bus PCI',
        }
        self.libfuse: str | None = "3.14.0"
        self.loop_error = ""
        self.libraries: dict[str, str] = {}
        self.mounts: list[Path] = []
        self.daemon = False

    @override
    def text(self, path: str) -> str | None:
        return self.texts.get(path)

    @override
    def open_error(self, path: str) -> OSError | None:
        return self.fuse

    @override
    def memfd_error(self) -> OSError | None:
        return self.memfd

    @override
    def why_no_control_groups(self) -> str:
        return self.no_groups

    @override
    def hard_limit(self, kind: int) -> int | None:
        return self.limits.get(kind)

    @override
    def program(self, name: str) -> str | None:
        return self.programs.get(name)

    @override
    def is_setuid(self, path: str) -> bool:
        return self.setuid

    @override
    def output(self, *command: str) -> str:
        return self.outputs.get(command, "")

    @override
    def native_loop_error(self) -> str:
        return self.loop_error

    @override
    def library_error(self, name: str) -> str:
        return self.libraries.get(name, "")

    @override
    def libfuse_version(self) -> str | None:
        return self.libfuse

    @override
    def mounts_below(self, folder: Path) -> list[Path]:
        return self.mounts

    @override
    def listens(self, path: Path) -> bool:
        return self.daemon


@pytest.fixture(autouse=True)
def _no_rig(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "find_rig", lambda: None)


@pytest.fixture
def root() -> FakeMachine:
    return FakeMachine(0)


@pytest.fixture
def user() -> FakeMachine:
    return FakeMachine(1000)


def check(name: str, machine: Machine, run_dir: Path | None = None) -> Answer:
    return CHECKS[name](Subject(machine, run_dir))


@pytest.mark.parametrize("uid", [0, 1000])
def test_a_good_machine_has_nothing_to_cure(uid: int) -> None:
    findings = examine(Subject(FakeMachine(uid)))
    assert [finding.check for finding in findings] == list(CHECKS)
    assert {(finding.level, finding.cure) for finding in findings} == {(Level.OK, "")}


@pytest.mark.parametrize(
    ("release", "level"),
    [
        ("5.9.0", Level.PROBLEM),
        ("5.10.0-8-amd64", Level.WARNING),
        ("5.18", Level.WARNING),
        ("5.19.0", Level.OK),
        ("6.1.0", Level.OK),
        ("odd", Level.PROBLEM),
    ],
)
def test_kernel(root: FakeMachine, release: str, level: Level) -> None:
    root.kernel = release
    assert check("kernel", root).level is level


def test_devices_in_run(root: FakeMachine) -> None:
    assert check("devices in run", root).found == "`mdev-user run` can offer /dev/vfio and /dev/iommu"
    root.limits[resource.RLIMIT_NOFILE] = 100
    assert "`ulimit -Hn` is 100" in check("devices in run", root).found
    root.texts["/proc/sys/kernel/seccomp/actions_avail"] = "kill_process errno allow"
    assert "no seccomp user notification" in check("devices in run", root).found
    root.kernel = "5.18"
    assert "Linux 5.18" in check("devices in run", root).found
    root.architecture = "aarch64"
    answer = check("devices in run", root)
    assert answer.level is Level.WARNING
    assert "aarch64" in answer.found
    assert "--sysfs-only" in answer.cure


def test_python(root: FakeMachine) -> None:
    root.python = "3.10.12"
    assert check("python", root).level is Level.PROBLEM


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.ENOENT, "modprobe fuse"),
        (errno.ENODEV, "modprobe fuse"),
        (errno.EACCES, "chmod 666"),
        (errno.EPERM, "chmod"),
    ],
)
def test_dev_fuse(root: FakeMachine, number: int, cure: str) -> None:
    root.fuse = OSError(number, os.strerror(number))
    answer = check("/dev/fuse", root)
    assert (answer.level, answer.found) == (Level.PROBLEM, f"/dev/fuse: {os.strerror(number)}")
    assert cure in answer.cure


def test_root_in_a_container_without_the_right_to_mount(root: FakeMachine) -> None:
    root.texts["/proc/self/status"] = "CapEff:\t00000000a80425fb\n"  # docker's default set
    answer = check("right to mount", root)
    assert (answer.level, "--cap-add SYS_ADMIN" in answer.cure) == (Level.PROBLEM, True)


def test_a_user_needs_fusermount3_setuid(user: FakeMachine) -> None:
    user.setuid = False
    assert "chmod u+s" in check("right to mount", user).cure
    del user.programs["fusermount3"]
    assert "apt install fuse3" in check("right to mount", user).cure


def test_root_needs_no_fusermount3(root: FakeMachine) -> None:
    del root.programs["fusermount3"]
    assert check("right to mount", root).level is Level.OK


def test_libfuse(root: FakeMachine) -> None:
    root.libfuse = None
    answer = check("libfuse", root)
    assert (answer.level, "apt install fuse3" in answer.cure) == (Level.PROBLEM, True)


@pytest.mark.parametrize("text", [None, "", "#user_allow_other"])
def test_user_allow_other(user: FakeMachine, text: str | None) -> None:
    user.texts["/etc/fuse.conf"] = text or ""
    answer = check("other users", user)
    assert (answer.level, "user_allow_other" in answer.cure) == (Level.WARNING, True)


@pytest.mark.parametrize(
    ("wanted", "error", "level", "found"),
    [
        ("", "", Level.OK, "native: it is built"),
        ("", "it is not built", Level.WARNING, "python: it is not built"),
        ("python", "", Level.OK, "python: MDEV_USER_LOOP asks for it"),
        ("python", "it is not built", Level.OK, "python: MDEV_USER_LOOP asks for it"),
        ("native", "it is not built", Level.PROBLEM, "MDEV_USER_LOOP=native: it is not built"),
        ("fast", "", Level.PROBLEM, "MDEV_USER_LOOP: expected native or python, given 'fast'"),
    ],
)
def test_access_loop(root: FakeMachine, wanted: str, error: str, level: Level, found: str) -> None:
    root.environment = {"MDEV_USER_LOOP": wanted}
    root.loop_error = error
    answer = check("access loop", root)
    assert (answer.level, answer.found) == (level, found)
    assert bool(answer.cure) == (level is not Level.OK)


def test_open_files(root: FakeMachine) -> None:
    root.limits[resource.RLIMIT_NOFILE] = 1024
    answer = check("open files", root)
    assert (answer.level, "some 128 mdevs" in answer.cure) == (Level.WARNING, True)


@pytest.mark.parametrize(("kind", "name"), [(resource.RLIMIT_FSIZE, "RLIMIT_FSIZE"), (resource.RLIMIT_AS, "RLIMIT_AS")])
def test_memory_limits(root: FakeMachine, kind: int, name: str) -> None:
    root.limits[kind] = 4096
    answer = check("memory limits", root)
    assert (answer.level, answer.found) == (Level.PROBLEM, f"{name} is 4096")


def test_memfd(root: FakeMachine) -> None:
    root.memfd = OSError(errno.EACCES, "Permission denied")
    assert check("memfd", root).level is Level.PROBLEM


def test_control_groups(root: FakeMachine) -> None:
    """They are one more bound, and there are others: what is missing is told, and no reason to warn."""
    assert check("control groups", root).found == "a daemon that is started from here has some"
    root.no_groups = "/sys/fs/cgroup has no controller memory (only none)"
    answer = check("control groups", root)
    assert (answer.level, answer.found) == (Level.OK, f"not from here: {root.no_groups}")


def test_qemu_without_the_device(root: FakeMachine) -> None:
    root.outputs = {(QEMU, "--version"): "QEMU emulator version 7.2.0", (QEMU, "-device", "help"): 'name "vfio-pci"'}
    answer = check("qemu", root)
    assert (answer.level, answer.found) == (Level.OK, "QEMU 7.2.0 with vfio-pci, under `mdev-user run`")
    root.texts["/proc/sys/kernel/seccomp/actions_avail"] = "kill_process"
    answer = check("qemu", root)
    assert (answer.level, answer.found) == (Level.WARNING, "QEMU 7.2.0 has no vfio-user-pci")


def test_no_qemu(root: FakeMachine) -> None:
    root.programs.clear()
    answer = check("qemu", root)
    assert (answer.level, answer.found) == (Level.WARNING, "no qemu-system-x86_64 in PATH")


@pytest.mark.parametrize("library", ["libvirglrenderer.so.1", "libEGL.so.1", "libOpenGL.so.0"])
def test_no_renderer(root: FakeMachine, library: str) -> None:
    root.libraries[library] = f"{library}: cannot open shared object file"
    answer = check("renderer", root)
    assert (answer.level, answer.found) == (Level.WARNING, f"{library}: cannot open shared object file")
    assert "apt install libvirglrenderer1 " in answer.cure


def test_library_error() -> None:
    assert not Machine().library_error("libc.so.6")
    assert "libmissing-virgl.so.7" in Machine().library_error("libmissing-virgl.so.7")


def test_the_rigs_qemu_is_good_enough(root: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    root.programs.clear()
    rig = Rig(
        qemu=("/q",),
        qemu_version="11.1.2",
        kernel=Path("/k"),
        kernel_release="6.12",
        modules=Path("/m"),
        busybox=Path("/b"),
        applets=(),
    )
    monkeypatch.setattr(checks, "find_rig", lambda: rig)
    answer = check("qemu", root)
    assert (answer.level, answer.found) == (
        Level.OK,
        "no qemu-system-x86_64 in PATH; the guest rig has QEMU 11.1.2",
    )


@pytest.mark.parametrize(
    ("uid", "scope", "level"),
    [
        (1000, None, Level.OK),
        (1000, "0", Level.OK),
        (1000, "2", Level.WARNING),
        (0, "2", Level.OK),
        (0, "3", Level.WARNING),
    ],
)
def test_yama(uid: int, scope: str | None, level: Level) -> None:
    machine = FakeMachine(uid)
    machine.texts = {} if scope is None else {"/proc/sys/kernel/yama/ptrace_scope": scope}
    assert check("yama", machine).level is level


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("kernel/apparmor_restrict_unprivileged_userns", "1"),
        ("kernel/unprivileged_userns_clone", "0"),
        ("user/max_user_namespaces", "0"),
    ],
)
def test_user_namespaces(user: FakeMachine, root: FakeMachine, path: str, value: str) -> None:
    for machine, level in ((user, Level.WARNING), (root, Level.OK)):
        machine.texts[f"/proc/sys/{path}"] = value
        assert check("user namespaces", machine).level is level


def test_no_runtime_folder(user: FakeMachine) -> None:
    user.environment = {}
    answer = check("run directory", user)
    assert (answer.level, "$XDG_RUNTIME_DIR" in answer.found) == (Level.PROBLEM, True)
    assert check("run directory", user, Path("/tmp/x")).level is Level.OK
    assert check("stale mount", user).level is Level.OK


def test_a_run_dir_too_long(root: FakeMachine) -> None:
    assert check("run directory", root, Path("/" + "x" * 100)).level is Level.PROBLEM


def test_a_mount_without_a_daemon_is_stale(user: FakeMachine) -> None:
    user.mounts = [Path("/run/user/1000/mdev-user/root/sys")]
    answer = check("stale mount", user)
    assert (answer.level, "fusermount3 -u -z /run/user/1000/mdev-user/root/sys" in answer.cure) == (Level.WARNING, True)
    user.daemon = True
    assert check("stale mount", user).level is Level.OK


def test_status_is_1_with_a_problem_and_0_with_a_warning(user: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "Machine", lambda: user)
    user.texts["/etc/fuse.conf"] = ""
    assert CliRunner().invoke(cli.app, ["doctor"]).exit_code == 0
    user.libfuse = None
    result = CliRunner().invoke(cli.app, ["doctor", "-o", "json"])
    assert result.exit_code == 1
    found = {finding["check"]: finding["level"] for finding in json.loads(result.stdout)}
    assert (found["libfuse"], found["other users"], found["kernel"]) == ("problem", "warning", "ok")


def test_this_machines_facts_can_be_asked_for(tmp_path: Path) -> None:
    machine = Machine()
    assert machine.text(str(tmp_path / "none")) is None
    assert machine.open_error(str(tmp_path / "none")) is not None
    assert machine.open_error("/dev/null") is None
    assert machine.output("/nonexistent") == ""
    assert machine.output("echo", "x") == "x\n"
    assert not machine.listens(tmp_path / "none")
    assert not machine.is_setuid("/nonexistent")
    assert machine.program("sh") is not None
    assert machine.mounts_below(tmp_path) == []
    assert len(examine(Subject(machine, tmp_path))) == len(CHECKS)
