"""What ``doctor`` checks: a table of small functions from the machine's facts to a finding, each with its cure."""

import re
import resource
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from msgspec import Struct

from mdev_user.cli.machine import Machine
from mdev_user.daemon.run_dir import RunDir, default_run_dir
from mdev_user.errors import ConfigError, InvalidValue
from mdev_user.guests.qemu import VFIO_PCI, VFIO_USER_PCI, has_device, parse_version
from mdev_user.guests.rig import find_rig
from mdev_user.uapi.launcher import LEAST_LIMIT
from mdev_user.vfio_user.loops import CHOICE, choose


class Level(StrEnum):
    """How bad a finding is: something does not work (problem), or something that not everybody needs (warning)."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


class Finding(Struct, frozen=True):
    """What one check found; ``cure`` is empty when nothing needs to be done."""

    check: str
    level: Level
    found: str
    cure: str = ""


class Answer(Struct, frozen=True):
    """A check's finding before its name is put to it."""

    level: Level
    found: str
    cure: str = ""


class Subject(Struct, frozen=True):
    """What is examined: a machine, and the run directory that a daemon would use on it (None: the default)."""

    machine: Machine
    run_dir: Path | None = None


def examine(subject: Subject) -> list[Finding]:
    """All findings, in the order of the table."""
    answers = ((name, check(subject)) for name, check in CHECKS.items())
    return [Finding(name, answer.level, answer.found, answer.cure) for name, answer in answers]


_MOST_FDS_WANTED = 4096  # some 8 per mdev in use, and a host has many
_CAP_SYS_ADMIN = 21  # capabilities(7)


def _ok(found: str) -> Answer:
    return Answer(Level.OK, found)


def _warning(found: str, cure: str) -> Answer:
    return Answer(Level.WARNING, found, cure)


def _problem(found: str, cure: str) -> Answer:
    return Answer(Level.PROBLEM, found, cure)


def _kernel(subject: Subject) -> Answer:
    release = subject.machine.kernel
    version = _version(release)
    if version < (5, 10):
        return _problem(f"Linux {release}", "Linux 5.10 is the oldest that is supported; upgrade the kernel")
    if version < (5, 19):
        return _warning(f"Linux {release}", "`mdev-user run` needs 5.19; everything else works")
    return _ok(f"Linux {release}")


def _python(subject: Subject) -> Answer:
    version = subject.machine.python
    if _version(version) < (3, 11):
        return _problem(f"Python {version}", "Python 3.11 is the oldest that is supported")
    return _ok(f"Python {version}")


def _dev_fuse(subject: Subject) -> Answer:
    error = subject.machine.open_error("/dev/fuse")
    if error is None:
        return _ok("/dev/fuse can be opened")
    if error.errno in _ABSENT:
        cure = "`modprobe fuse` as root; in a container: `--device /dev/fuse --cap-add SYS_ADMIN`"
        return _problem(f"/dev/fuse: {error.strerror}", f"{cure} (without the sysfs tree, only the control API works)")
    cure = "`chmod 666 /dev/fuse` as root; in a container: `--device /dev/fuse`"
    return _problem(f"/dev/fuse: {error.strerror}", cure)


_ABSENT = frozenset({2, 6, 19})  # ENOENT, ENXIO, ENODEV


def _may_mount(subject: Subject) -> Answer:
    machine = subject.machine
    if machine.uid == 0:
        if _effective_capabilities(machine) >> _CAP_SYS_ADMIN & 1:
            return _ok("root may mount")
        return _problem(
            "root without CAP_SYS_ADMIN", "in a container: `--cap-add SYS_ADMIN`; or run as an ordinary user"
        )
    path = machine.program("fusermount3")
    if path is None:
        return _problem("no fusermount3", "install it: `apt install fuse3` (Debian), `dnf install fuse3` (Fedora)")
    if not machine.is_setuid(path):
        return _problem(f"{path} is not setuid root", f"`chmod u+s {path}` as root, or reinstall the package fuse3")
    return _ok(f"{path}, setuid root")


def _effective_capabilities(machine: Machine) -> int:
    match = re.search(r"^CapEff:\s*([0-9a-f]+)", machine.text("/proc/self/status") or "", re.MULTILINE)
    return int(match[1], 16) if match else 0


def _libfuse(subject: Subject) -> Answer:
    version = subject.machine.libfuse_version()
    if version is None:
        return _problem("no libfuse 3", "install it: `apt install fuse3` (Debian), `dnf install fuse3-libs` (Fedora)")
    return _ok(f"libfuse {version}")


def _allow_other(subject: Subject) -> Answer:
    machine = subject.machine
    if machine.uid == 0:
        return _ok("root's tree is seen by all users")
    lines = [line.strip() for line in (machine.text("/etc/fuse.conf") or "").splitlines()]
    if "user_allow_other" in lines:
        return _ok("user_allow_other is set in /etc/fuse.conf")
    return _warning(
        "other users (root too) cannot see your sysfs tree",
        "if they are to: add the line `user_allow_other` to /etc/fuse.conf as root",
    )


def _open_files(subject: Subject) -> Answer:
    limit = subject.machine.hard_limit(resource.RLIMIT_NOFILE)
    if limit is None or limit >= _MOST_FDS_WANTED:
        return _ok(f"hard limit {limit or 'unlimited'}")
    return _warning(
        f"hard limit {limit}",
        f"enough for some {limit // 8} mdevs in use; raise it: LimitNOFILE= (systemd), or /etc/security/limits.conf",
    )


def _memory_limits(subject: Subject) -> Answer:
    for name, kind in (("RLIMIT_FSIZE", resource.RLIMIT_FSIZE), ("RLIMIT_AS", resource.RLIMIT_AS)):
        limit = subject.machine.hard_limit(kind)
        if limit is not None:
            return _problem(
                f"{name} is {limit}",
                "an mdev's regions are one sparse file of terabytes, and guests' memory is mapped: "
                "`ulimit -f unlimited -v unlimited`, or LimitFSIZE=, LimitAS=infinity (systemd)",
            )
    return _ok("file size and address space are unlimited")


def _memfd(subject: Subject) -> Answer:
    error = subject.machine.memfd_error()
    if error is None:
        return _ok("a sealed memfd can be made")
    return _problem(
        f"a memfd of 4 EiB cannot be made: {error.strerror}",
        "`sysctl vm.memfd_noexec=1` (2 refuses it), and `ulimit -f unlimited`",
    )


def _control_groups(subject: Subject) -> Answer:
    """Whether a daemon that is started from here bounds processes of mdevs by them. It has other limits, too."""
    reason = subject.machine.why_no_control_groups()
    return _ok(f"not from here: {reason}" if reason else "a daemon that is started from here has some")


def _qemu(subject: Subject) -> Answer:
    machine = subject.machine
    path = machine.program("qemu-system-x86_64")
    if path is None:
        return _without_qemu("no qemu-system-x86_64 in PATH")
    version = parse_version(machine.output(path, "--version"))
    help_text = machine.output(path, "-device", "help")
    if has_device(help_text):
        return _ok(f"QEMU {version} with {VFIO_USER_PCI}")
    if has_device(help_text, VFIO_PCI) and not _no_vfio_in_run(machine):
        return _ok(f"QEMU {version} with {VFIO_PCI}, under `mdev-user run`")
    return _without_qemu(f"QEMU {version} has no {VFIO_USER_PCI}")


def _without_qemu(found: str) -> Answer:
    rig = find_rig()
    if rig is not None:
        return _ok(f"{found}; the guest rig has QEMU {rig.qemu_version}")
    cure = "install QEMU >= 10.1 (Debian 13: from backports), or let `mdev-user demo` fetch one for itself"
    return _warning(found, cure)


def _yama(subject: Subject) -> Answer:
    text = subject.machine.text("/proc/sys/kernel/yama/ptrace_scope")
    if text is None:
        return _ok("not there")
    if text in {"0", "1"} or (text == "2" and subject.machine.uid == 0):
        return _ok(f"ptrace_scope {text}")
    cure = "`mdev-user run` cannot reach its command's memory: `sysctl kernel.yama.ptrace_scope=1` as root"
    return _warning(f"ptrace_scope {text}", f"{cure}{' (from 3, only after a reboot)' if text == '3' else ''}")


def _vfio_in_run(subject: Subject) -> Answer:
    """Whether `run` can answer VFIO's system calls; without that it still shows the tree."""
    reason = _no_vfio_in_run(subject.machine)
    if reason:
        return _warning(reason, "`mdev-user run --sysfs-only` works, and QEMU 10.1 or later with an mdev's socket")
    return _ok("`mdev-user run` can offer /dev/vfio and /dev/iommu")


def _no_vfio_in_run(machine: Machine) -> str:
    if machine.architecture != "x86_64":
        return f"the architecture is {machine.architecture}, and `run` offers devices on x86_64"
    if _version(machine.kernel) < (5, 19):
        return f"Linux {machine.kernel}, and `run` offers devices from 5.19 on"
    if "user_notif" not in (machine.text("/proc/sys/kernel/seccomp/actions_avail") or "").split():
        return "this kernel has no seccomp user notification (CONFIG_SECCOMP_FILTER)"
    most = machine.hard_limit(resource.RLIMIT_NOFILE)
    if most is not None and most < LEAST_LIMIT:
        return f"`ulimit -Hn` is {most}, and `run` needs {LEAST_LIMIT} to offer devices"
    return ""


# sysctl, the value that forbids user namespaces to ordinary users, and the one that allows them
_USER_NAMESPACES = (
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("user.max_user_namespaces", "0", "15000"),
)


def _user_namespaces(subject: Subject) -> Answer:
    machine = subject.machine
    if machine.uid == 0:
        return _ok("not needed by root")
    for name, forbids, allows in _USER_NAMESPACES:
        if machine.text(f"/proc/sys/{name.replace('.', '/')}") == forbids:
            cure = f"`mdev-user run` needs them: `sysctl {name}={allows}` as root, or run it as root"
            return _warning(f"{name} is {forbids}", cure)
    return _ok("allowed")


def _run_dir(subject: Subject) -> Answer:
    try:
        run_dir = _subject_run_dir(subject)
        run_dir.check_length()
    except ConfigError as error:
        return _problem(str(error), "give another --run-dir DIR, or set $MDEV_USER_RUN_DIR: a short path of your own")
    return _ok(str(run_dir.path))


def _stale_mount(subject: Subject) -> Answer:
    try:
        run_dir = _subject_run_dir(subject)
    except ConfigError:
        return _ok("no run directory to look into")
    mounts = subject.machine.mounts_below(run_dir.path)
    if not mounts:
        return _ok("nothing is mounted in the run directory")
    if subject.machine.listens(run_dir.control):
        return _ok(f"a daemon serves {mounts[0]}")
    unmount = "umount -l" if subject.machine.uid == 0 else "fusermount3 -u -z"
    return _warning(
        f"{mounts[0]} is what a dead daemon left",
        f"the next `mdev-user serve` clears it; by hand: `{unmount} {mounts[0]}`",
    )


def _subject_run_dir(subject: Subject) -> RunDir:
    machine = subject.machine
    return RunDir(subject.run_dir or default_run_dir(machine.environment, machine.uid))


def _version(text: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _access_loop(subject: Subject) -> Answer:
    wanted, absent = subject.machine.environment.get(CHOICE, ""), subject.machine.native_loop_error()
    try:
        name, reason = choose(wanted, absent)
    except InvalidValue as error:
        return _problem(str(error), f"take {CHOICE} out of the environment")
    if name == "python" and not wanted:
        cure = "for faster accesses install gcc, libc6-dev and python3-dev, and then mdev-user again"
        return _warning(f"python: {reason}", cure)
    return _ok(f"{name}: {reason}")


_RENDERER = {"libvirglrenderer.so.1": "libvirglrenderer1", "libEGL.so.1": "libegl1", "libOpenGL.so.0": "libopengl0"}
_MESA = "libegl-mesa0 libgl1-mesa-dri"


def _renderer(subject: Subject) -> Answer:
    """What draws for the mdevs of vgpu, without which they have no 3D."""
    errors = [error for name in _RENDERER if (error := subject.machine.library_error(name))]
    if not errors:
        return _ok("virglrenderer can be loaded")
    return _warning(
        errors[0], f"for 3D in vgpu's guests: `apt install {' '.join(_RENDERER.values())} {_MESA}` (Debian)"
    )


CHECKS: dict[str, Callable[[Subject], Answer]] = {
    "kernel": _kernel,
    "python": _python,
    "run directory": _run_dir,
    "stale mount": _stale_mount,
    "/dev/fuse": _dev_fuse,
    "libfuse": _libfuse,
    "right to mount": _may_mount,
    "other users": _allow_other,
    "open files": _open_files,
    "memory limits": _memory_limits,
    "memfd": _memfd,
    "control groups": _control_groups,
    "access loop": _access_loop,
    "qemu": _qemu,
    "renderer": _renderer,
    "yama": _yama,
    "devices in run": _vfio_in_run,
    "user namespaces": _user_namespaces,
}
