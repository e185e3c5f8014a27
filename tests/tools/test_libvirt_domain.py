"""libvirt 11.3, unmodified: a domain has an mdev as a hostdev, from its start or plugged in; QEMU is `mdev-user-qemu`.

libvirtd runs on this machine's root, with its data and what it writes in overlays that only `run`'s namespace has.
"""

import re
import resource
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from uuid import UUID

import pytest

from core import core_skip
from daemon.support import eventually
from mdev_user.guests.foreign import LIBRARIES, interpreter
from mdev_user.guests.initramfs import build_initramfs
from mdev_user.guests.management import QEMU_DRIVERS, ManagementRoot
from mdev_user.guests.plain_qemu import find_plain_qemu
from mdev_user.guests.rig import find_rig
from mdev_user.testing.daemon import RunningDaemon
from tools.inside import SECONDS, Done, Inside

pytestmark = pytest.mark.fuse

_QEMU_CONF = """
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
user = "root"
group = "root"
swtpm_user = "root"
swtpm_group = "root"
remember_owner = 0
security_driver = "none"
"""
_USERS = {"passwd": "libvirt-qemu:x:64055:64055::/:/bin/false", "group": "libvirt-qemu:x:64055:\nkvm:x:64056:"}
_MEMLOCK = 2 << 30
"""libvirt lets QEMU lock as much as the guest's memory and 1 GiB, which needs a limit as high or CAP_SYS_RESOURCE."""
# Tells each port that is there, and what comes back of a line that is sent to it.
_GUEST = b"""
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev
while :; do
    for port in /sys/bus/pci/devices/*/*/*/tty/ttyS*; do
        [ -e "$port" ] || continue
        tty=/dev/${port##*/}
        stty -F $tty raw -echo clocal 9600
        (timeout 3 head -n 1 <$tty >/tmp/got) & sleep 0.3; echo hello >$tty; wait
        echo "port: $(cat /tmp/got)"
    done
    echo alive; sleep 0.2
done
"""


@dataclass
class Domain:
    """A libvirtd with a domain that is defined in it."""

    inside: Inside
    virsh: tuple[str, ...]
    console: Path
    device: Path
    """The hostdev's XML."""

    def __call__(self, *words: object) -> Done:
        return self.inside.run(*self.virsh, *words, env=_ENVIRONMENT)

    def does(self, *words: object) -> str:
        done = self(*words)
        assert done.status == 0, done
        return done.out

    def uses_the_device(self) -> None:
        """The guest finds a port from now on, and gets back what it sends."""
        before = self.console.stat().st_size
        deadline = monotonic() + 2 * SECONDS
        while b"port: hello" not in self.console.read_bytes()[before:]:
            assert monotonic() < deadline, self.console.read_bytes()[-4000:].decode(errors="replace")
            sleep(0.1)

    def lives_without(self) -> bool:
        said = self.console.read_bytes().split(b"\n")[-3:]
        return not any(each.startswith(b"port") for each in said)


_ENVIRONMENT = {"LC_ALL": "C"}
_REAPER = """
import ctypes, os, signal, subprocess, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
child = subprocess.Popen(sys.argv[1:])
signal.signal(signal.SIGTERM, lambda *_: child.send_signal(signal.SIGTERM))
while os.wait()[0] != child.pid:
    pass
"""
"""libvirtd with a parent that waits for the QEMUs that it makes daemons of, as init does on a machine."""


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon("mtty") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def domain(
    daemon: RunningDaemon, management_root: ManagementRoot, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Domain]:
    folder = tmp_path_factory.mktemp("domain")
    uuid = daemon.create("mtty-1")
    with Inside(daemon, "none", "--sysfs-only") as inside:
        _prepare_root(inside, management_root, folder)
        device = _write_domain(folder, uuid)
        start = _foreign(management_root, "usr/sbin/libvirtd")
        drivers = {"LIBVIRT_DRIVER_DIR": str(management_root.path / QEMU_DRIVERS)}
        pid = inside.start(sys.executable, "-c", _REAPER, *start, log=folder / "log", env=_ENVIRONMENT | drivers)
        virsh = (*_foreign(management_root, "usr/bin/virsh"), "-q", "-c", "qemu:///system")
        domain = Domain(inside, virsh, folder / "console", device)
        try:
            eventually(lambda: domain("uri").status == 0, "libvirtd", SECONDS)
            domain.does("define", folder / "guest.xml")
            yield domain
        finally:
            domain("destroy", "guest")
            inside.stop(pid)


def test_with_a_qemu_that_has_no_supervisor_it_does_not_start(domain: Domain) -> None:
    done = domain("create", domain.device.with_name("alone.xml"))
    assert done.status != 0
    assert re.search(r"failed to open /dev/vfio/\d+: Permission denied", done.err), done


def test_a_domain_starts_with_the_mdev_and_uses_it(domain: Domain) -> None:
    domain.does("start", "guest")
    assert domain.does("domstate", "guest").strip() == "running"
    domain.uses_the_device()
    assert "hostdev0" in domain.does("dumpxml", "guest")


def test_it_is_unplugged_and_plugged_in_again(domain: Domain) -> None:
    domain.does("detach-device", "guest", domain.device)
    eventually(lambda: "hostdev0" not in domain.does("dumpxml", "guest"), "unplugged", SECONDS)
    eventually(domain.lives_without, "a guest without the device", SECONDS)
    domain.does("attach-device", "guest", domain.device)
    domain.uses_the_device()


def test_a_destroyed_domain_lets_go_of_the_mdev(daemon: RunningDaemon, domain: Domain) -> None:
    domain.does("destroy", "guest")
    (mdev,) = daemon.control.mdevs()
    daemon.control.remove(UUID(mdev.uuid), wait=SECONDS, force=False)
    assert domain("start", "guest").status != 0, "without the mdev it does not start"


# --- what it takes -------------------------------------------------------------------------------------------------


def _foreign(root: ManagementRoot, program: str) -> tuple[str, ...]:
    return (*interpreter(root.path / LIBRARIES), str(root.path / program))


def _prepare_root(inside: Inside, root: ManagementRoot, folder: Path) -> None:
    for name, lower in (("etc", "/etc"), ("var", "/var"), ("share", f"{root.path}/usr/share:/usr/share")):
        upper, work = folder / name, folder / f"{name}-work"
        upper.mkdir()
        work.mkdir()
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        inside.text("mount", "-t", "overlay", "-o", options, "overlay", lower.rpartition(":")[2])
    (folder / "etc/libvirt").mkdir()
    (folder / "etc/libvirt/qemu.conf").write_text(_QEMU_CONF)
    (folder / "etc/libvirt/libvirtd.conf").write_text((root.path / "etc/libvirt/libvirtd.conf").read_text())
    for name, lines in _USERS.items():
        (folder / "etc" / name).write_text(f"{Path('/etc', name).read_text()}{lines}\n")
    (folder / "run").mkdir()
    inside.bind(folder / "run", Path("/run"))


def _write_domain(folder: Path, uuid: UUID) -> Path:
    """``guest.xml``, ``alone.xml`` (the same with a QEMU without a supervisor) and their device, whose path it is."""
    rig, qemu = find_rig(), find_plain_qemu()
    if rig is None or qemu is None:
        core_skip("no guest rig: `python -m mdev_user.guests`, and `python -m mdev_user.guests plain-qemu`")
    image = build_initramfs(rig.busybox.read_bytes(), rig.applets, {"guest.sh": _GUEST})
    (folder / "initrd").write_bytes(image)
    device = (
        f"<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='{uuid}'/></source></hostdev>"
    )
    main = "from mdev_user.cli.qemu import main; main()"
    programs = {
        "qemu": f'exec {shlex.join(qemu.command)} "$@"',
        "emulator": f'MDEV_USER_QEMU={folder}/qemu exec {shlex.join([sys.executable, "-c", main])} "$@"',
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    (folder / "device.xml").write_text(device)
    for name, emulator in {"guest": "emulator", "alone": "qemu"}.items():
        (folder / f"{name}.xml").write_text(f"""
            <domain type='qemu'><name>{name}</name><memory unit='MiB'>128</memory><vcpu>1</vcpu>{_limit()}
            <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{rig.kernel}</kernel>
            <initrd>{folder}/initrd</initrd>
            <cmdline>console=ttyS0 quiet rdinit=/bin/sh -- /guest.sh</cmdline></os><features><acpi/></features>
            <cpu mode='custom' match='exact'><model>qemu64</model><feature policy='disable' name='cx16'/></cpu>
            <devices><emulator>{folder}/{emulator}</emulator><memballoon model='none'/>
            <serial type='file'><source path='{folder}/console'/></serial>{device}</devices></domain>""")
    return folder / "device.xml"


def _limit() -> str:
    """Less to lock where this container may not have more; in a cgroup that would limit all of its memory."""
    hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    if hard == resource.RLIM_INFINITY or hard >= _MEMLOCK:
        return ""
    return f"<memtune><hard_limit unit='KiB'>{hard >> 10}</hard_limit></memtune>"
