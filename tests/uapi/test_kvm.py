"""What KVM needs of VFIO, without a guest: files of ours are registered with it, and its irqfds serve the INTx pin."""

import os
import struct
from collections.abc import Iterator
from uuid import UUID

import pytest

from mdev_user.testing.daemon import RunningDaemon
from mdev_user.uapi.filter import KVM_SET_DEVICE_ATTR
from uapi.calls import BAD_POINTER, Calls, Result
from uapi.program import Program
from uapi.test_cdev import BAR0, Opened

pytestmark = pytest.mark.fuse

CREATE_VM, CREATE_DEVICE = 0xAE01, 0xC00C_AEE0  # <linux/kvm.h>
DEVICE = struct.Struct("<III")
ATTRIBUTE = struct.Struct("<IIQQ")
TYPE_VFIO, FILE, ADD, DEL = 4, 1, 1, 2


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    with RunningDaemon("mtty", "edu") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def uuid(daemon: RunningDaemon) -> UUID:
    return daemon.create("mtty-1")


@pytest.fixture(scope="module")
def program(daemon: RunningDaemon) -> Iterator[Program]:
    with Program.under_run(daemon) as program:
        yield program


@pytest.fixture(params=["group", "cdev"])
def ours(daemon: RunningDaemon, program: Program, uuid: UUID, request: pytest.FixtureRequest) -> Iterator[int]:
    """What QEMU registers: the group, or with iommufd the device."""
    folder = daemon.sys / f"bus/mdev/devices/{uuid}"
    cdev = next((folder / "vfio-dev").iterdir()).name
    paths = {"group": (folder / "iommu_group").readlink().name, "cdev": f"devices/{cdev}"}
    fd = program.open(f"/dev/vfio/{paths[request.param]}").ok
    yield fd
    assert program.close(fd).rc == 0


def told(program: Calls, device: int, number: int, attribute: int = ADD, group: int = FILE) -> Result:
    address = program.place(struct.pack("=i", number))
    return program.ioctl(device, KVM_SET_DEVICE_ATTR, ATTRIBUTE.pack(0, group, attribute, address))


def test_a_file_of_ours_is_taken_and_given_back(program: Program, ours: int) -> None:
    null = program.open(os.devnull).ok
    assert [told(program, null, ours, attribute).rc for attribute in (ADD, DEL)] == [0, 0]


def test_the_kernel_answers_for_everything_else(program: Program, ours: int) -> None:
    null = program.open(os.devnull).ok
    assert told(program, null, null).errno == "ENOTTY"
    assert told(program, null, -1).errno == "ENOTTY"
    assert told(program, null, ours, group=FILE + 1).errno == "ENOTTY"
    assert program.ioctl(null, KVM_SET_DEVICE_ATTR, BAD_POINTER).errno == "EFAULT"
    bad = ATTRIBUTE.pack(0, FILE, ADD, BAD_POINTER)
    assert program.ioctl(null, KVM_SET_DEVICE_ATTR, bad).errno == "EFAULT"


def test_a_real_kvm_never_sees_it(program: Program, ours: int) -> None:
    """The control: of a file that is not VFIO's it refuses the same."""
    device = vfio_device_of_kvm(program)
    assert told(program, device, ours).rc == 0
    assert told(program, device, program.eventfd()).errno == "EINVAL"


def vfio_device_of_kvm(program: Calls) -> int:
    kvm = program.open("/dev/kvm")
    if kvm.errno is not None:
        pytest.skip(f"/dev/kvm: {kvm.errno}")
    machine = program.ioctl(kvm.rc, CREATE_VM)
    if machine.errno is not None:
        pytest.skip(f"KVM makes no machine here: {machine.errno}")
    made = program.ioctl(machine.rc, CREATE_DEVICE, DEVICE.pack(TYPE_VFIO, 0, 0))
    if made.errno is not None:
        pytest.skip(f"KVM has no device for VFIO here: {made.errno}")
    fd = DEVICE.unpack(made.data)[1]
    assert isinstance(fd, int)
    return fd


# --- the pin, as KVM's irqfds drive it -----------------------------------------------------------------------------

DEVICE_SET_IRQS = 0x3B6E  # <linux/vfio.h>
INTX = 0
NONE, EVENTFD, MASK, UNMASK, TRIGGER = 1, 4, 8, 16, 32
RAISE, ACKNOWLEDGE = BAR0 + 0x60, BAR0 + 0x64


def set_intx(opened: Opened, flags: int, data: bytes = b"") -> None:
    asked = struct.pack("=5I", 20 + len(data), flags, INTX, 0, 1) + data
    assert opened.program.ioctl(opened.device, DEVICE_SET_IRQS, asked).rc == 0


def write(opened: Opened, at: int, value: int) -> None:
    assert opened.program.pwrite(opened.device, struct.pack("<I", value), at).rc == 4


def end_of_interrupt(program: Calls, resample: int) -> None:
    """What KVM does when the guest has served it."""
    assert program.write(resample, struct.pack("<Q", 1)).rc == 8


def test_the_pin_is_unmasked_by_an_eventfd_and_fires_as_long_as_it_is_up(
    daemon: RunningDaemon, program: Program
) -> None:
    """In the order of QEMU's vfio_intx_enable and vfio_intx_enable_kvm."""
    opened = Opened(daemon, program, daemon.create("edu-1"))
    trigger, resample = program.eventfd(), program.eventfd()
    set_intx(opened, EVENTFD | TRIGGER, struct.pack("=i", trigger))
    set_intx(opened, NONE | MASK)
    set_intx(opened, EVENTFD | UNMASK, struct.pack("=i", resample))
    set_intx(opened, NONE | UNMASK)
    write(opened, RAISE, 1)
    assert program.counts_to(trigger) == 1
    write(opened, RAISE, 2)
    assert program.count(trigger) == 0, "it is masked until it is served"
    end_of_interrupt(program, resample)
    assert program.counts_to(trigger) == 1, "it is up still"
    write(opened, ACKNOWLEDGE, 3)
    end_of_interrupt(program, resample)
    assert program.counts_to(trigger, 0.2) == 0
    write(opened, RAISE, 1)
    assert program.counts_to(trigger) == 1
    opened.close()
