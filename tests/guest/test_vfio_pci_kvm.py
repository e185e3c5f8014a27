"""QEMU with ``-accel kvm`` takes an mdev under `mdev-user run`: it registers each VFIO file with KVM.

The machine stands still, since a guest cannot run everywhere where there is a /dev/kvm.
"""

import fcntl
import os
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from uuid import UUID

import pytest

from core import core_skip
from mdev_user.guests.arguments import iommufd_arguments, vfio_arguments
from mdev_user.guests.plain_qemu import find_plain_qemu
from mdev_user.guests.rig import Rig
from mdev_user.testing.daemon import RunningDaemon
from tools.running import command, finished

pytestmark = [pytest.mark.guest, pytest.mark.fuse]

CREATE_VM, CREATE_DEVICE = 0xAE01, 0xC00C_AEE0  # <linux/kvm.h>
VFIO_DEVICE = struct.pack("=III", 4, 0, 1)
"""struct kvm_create_device: only a test whether there is such a kind."""
STOPPED = (
    *("-accel", "kvm", "-machine", "q35", "-S", "-m", "128"),
    *("-no-user-config", "-nodefaults", "-display", "none", "-monitor", "stdio"),
)
UNANSWERED = "import mdev_user.uapi.system_calls as s; s._kvm_set_device_attr = lambda call, argument: None"
API: dict[str, Callable[[UUID], list[str]]] = {"legacy": vfio_arguments, "iommufd": iommufd_arguments}


@pytest.fixture(scope="module", autouse=True)
def kvm() -> None:
    """A KVM that knows VFIO; many a container has none."""
    try:
        fd = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        try:
            machine: int = fcntl.ioctl(fd, CREATE_VM)
            try:
                fcntl.ioctl(machine, CREATE_DEVICE, VFIO_DEVICE)
            finally:
                os.close(machine)
        finally:
            os.close(fd)
    except OSError as error:
        pytest.skip(f"no KVM with VFIO here: {error}")


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon("mtty") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def uuid(daemon: RunningDaemon) -> UUID:
    return daemon.create("mtty-1")


def started(
    daemon: RunningDaemon, qemu: Sequence[str], device: Sequence[str], preamble: str = ""
) -> subprocess.CompletedProcess[str]:
    """What QEMU says of its machine, which never runs."""
    words = [*command(daemon, "--", preamble=preamble), *qemu, *STOPPED, *device]
    return finished(words, stdin="info kvm\ninfo pci\nquit\n")


def check(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done
    assert "kvm support: enabled" in done.stdout
    assert "4348:3253" in done.stdout, done
    assert "KVM VFIO device" not in done.stderr


@pytest.mark.parametrize("api", API)
def test_a_recent_qemu_takes_it(rig: Rig, daemon: RunningDaemon, uuid: UUID, api: str) -> None:
    check(started(daemon, rig.qemu, API[api](uuid)))


def test_debian_12s_takes_it(rig: Rig, daemon: RunningDaemon, uuid: UUID) -> None:
    assert rig.kernel.exists()
    plain = find_plain_qemu() or core_skip("no QEMU without vfio-user: `python -m mdev_user.guests plain-qemu`")
    check(started(daemon, plain.command, vfio_arguments(uuid)))


@pytest.mark.parametrize("api", API)
def test_without_an_answer_kvm_refuses_it(rig: Rig, daemon: RunningDaemon, uuid: UUID, api: str) -> None:
    """The negative control: with the legacy API QEMU only complains, with iommufd there is no device."""
    done = started(daemon, rig.qemu, API[api](uuid), UNANSWERED)
    assert "KVM VFIO device: Invalid argument" in done.stderr
    assert (done.returncode == 0) is (api == "legacy")
