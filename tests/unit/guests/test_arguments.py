import json
from pathlib import Path
from uuid import UUID

import pytest

from mdev_user.guests.arguments import (
    device_arguments,
    iommufd_arguments,
    memory_arguments,
    qemu_arguments,
    run_command,
    vfio_arguments,
)
from mdev_user.units import GiB, MiB


def test_memory_is_a_shared_memfd_backend_that_the_machine_uses() -> None:
    assert memory_arguments(256 * MiB) == [
        "-object",
        "memory-backend-memfd,id=mem,size=256M,share=on",
        "-machine",
        "memory-backend=mem",
    ]


@pytest.mark.parametrize("size", [0, -MiB, MiB + 1, 4096])
def test_memory_that_is_no_whole_number_of_mib_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"whole number of MiB, got {size} bytes"):
        memory_arguments(size)


def test_device_names_the_socket_in_json() -> None:
    option, text = device_arguments(Path("/run/a,b/vfio-user.sock"))
    assert option == "-device"
    assert json.loads(text) == {
        "driver": "vfio-user-pci",
        "socket": {"type": "unix", "path": "/run/a,b/vfio-user.sock"},
    }


def test_arguments_survive_a_shell_without_quotes() -> None:
    assert all(len(argument.split()) == 1 for argument in qemu_arguments("/run/vfio-user.sock"))


def test_qemu_arguments_have_memory_and_device() -> None:
    assert qemu_arguments("/s", 2 * GiB) == [*memory_arguments(2 * GiB), *device_arguments("/s")]


ONE, TWO = UUID(int=1), UUID(int=2)


def test_a_vfio_device_is_named_by_its_sysfs_path() -> None:
    assert vfio_arguments(ONE) == ["-device", f"vfio-pci,id=mdev-{ONE},sysfsdev=/sys/bus/mdev/devices/{ONE}"]


def test_devices_share_one_iommufd() -> None:
    assert iommufd_arguments(ONE, TWO) == [
        *("-object", "iommufd,id=iommufd0"),
        *("-device", f"vfio-pci,id=mdev-{ONE},sysfsdev=/sys/bus/mdev/devices/{ONE},iommufd=iommufd0"),
        *("-device", f"vfio-pci,id=mdev-{TWO},sysfsdev=/sys/bus/mdev/devices/{TWO},iommufd=iommufd0"),
    ]


def test_run_takes_everything_behind_it_as_the_program() -> None:
    assert run_command(Path("/run/mine"))[-4:] == ["run", "--run-dir", "/run/mine", "--"]
