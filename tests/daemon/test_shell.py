"""An operator's whole work with nothing but a shell in RUN/root/sys: what issue texts and kernel documents show."""

import os
import stat
from itertools import count
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from daemon.support import output, refusal, shell
from mdev_user.testing.daemon import RunningDaemon

pytestmark = pytest.mark.fuse

PARENT = "class/mdev_bus/mtty"
TYPES = f"{PARENT}/mdev_supported_types"


def create(daemon: RunningDaemon, uuid: UUID, type_id: str = "mtty-1") -> None:
    output(daemon, f"echo {uuid} > {TYPES}/{type_id}/create")


def first_group() -> int:
    """The lowest number that none of the machine's own groups has."""
    return next(number for number in count() if not Path(f"/sys/kernel/iommu_groups/{number}").exists())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_the_types_are_read(daemon: RunningDaemon) -> None:
    assert output(daemon, f"ls {TYPES}").split() == ["mtty-1", "mtty-2"]
    assert output(daemon, f"cd {TYPES}/mtty-1; cat name device_api available_instances") == (
        "Single port serial\nvfio-pci\n24\n"
    )
    assert output(daemon, f"cat {TYPES}/mtty-2/available_instances") == "12\n"


def test_a_uuid_written_to_create_makes_an_mdev(daemon: RunningDaemon) -> None:
    uuid = uuid4()
    create(daemon, uuid)
    device = f"bus/mdev/devices/{uuid}"
    assert output(daemon, "ls bus/mdev/devices").split() == [str(uuid)]
    assert output(daemon, f"ls {device}/").split() == [
        "driver",
        "iommu_group",
        "mdev_type",
        "remove",
        "subsystem",
        "uevent",
        "vendor",
        "vfio-dev",
    ]
    assert output(daemon, f"cat {device}/vendor/sample_mdev_dev") == f"This is MDEV {uuid}\n"
    assert output(daemon, f"cat {device}/uevent") == "DRIVER=mtty\n"
    links = f"cd -P {device}; for each in driver iommu_group mdev_type subsystem; do (cd -P $each && pwd); done"
    here = os.path.realpath(daemon.sys)
    assert output(daemon, links).splitlines() == [
        f"{here}/bus/mdev/drivers/mtty",
        f"{here}/kernel/iommu_groups/{first_group()}",
        f"{here}/devices/virtual/mtty/mtty/mdev_supported_types/mtty-1",
        f"{here}/bus/mdev",
    ]
    assert output(daemon, f"ls {TYPES}/mtty-1/devices") == f"{uuid}\n"
    assert output(daemon, f"cat {TYPES}/mtty-1/available_instances {TYPES}/mtty-2/available_instances") == "23\n11\n"


def test_the_second_create_of_a_uuid_is_refused(daemon: RunningDaemon) -> None:
    uuid = uuid4()
    create(daemon, uuid)
    assert refusal(daemon, f"echo {uuid} > {TYPES}/mtty-1/create") == "File exists"
    assert refusal(daemon, f"echo {str(uuid).upper()} > {TYPES}/mtty-2/create") == "File exists"
    assert output(daemon, f"cat {TYPES}/mtty-1/available_instances") == "23\n"


def test_a_uuid_of_35_characters_is_refused(daemon: RunningDaemon) -> None:
    assert refusal(daemon, f"printf %s {str(uuid4())[:35]} > {TYPES}/mtty-1/create") == "Invalid argument"
    assert output(daemon, "ls bus/mdev/devices") == ""


def test_a_full_parent_answers_the_errno_of_one_that_counts_itself(daemon: RunningDaemon) -> None:
    for _ in range(12):
        create(daemon, uuid4(), "mtty-2")
    assert output(daemon, f"cat {TYPES}/mtty-1/available_instances") == "0\n"
    assert refusal(daemon, f"echo {uuid4()} > {TYPES}/mtty-1/create") == "No space left on device"
    assert len(output(daemon, "ls bus/mdev/devices").split()) == 12


def test_a_removed_mdev_is_gone_and_its_ports_are_free(daemon: RunningDaemon) -> None:
    uuid = uuid4()
    create(daemon, uuid, "mtty-2")
    output(daemon, f"echo 1 > bus/mdev/devices/{uuid}/remove")
    assert output(daemon, f"ls bus/mdev/devices {PARENT}/mdev_supported_types/mtty-2/devices").split() == [
        "bus/mdev/devices:",
        f"{TYPES}/mtty-2/devices:",
    ]
    assert output(daemon, f"cat {TYPES}/mtty-2/available_instances") == "12\n"
    create(daemon, uuid)


def test_the_socket_lives_as_long_as_the_mdev(daemon: RunningDaemon) -> None:
    uuid = uuid4()
    socket = daemon.run_dir.socket(uuid)
    assert not socket.exists()
    create(daemon, uuid)
    assert stat.S_ISSOCK(socket.lstat().st_mode)
    output(daemon, f"echo 1 > bus/mdev/devices/{uuid}/remove")
    assert not daemon.run_dir.mdev(uuid).exists()


def test_others_may_pass_and_only_the_owner_may_connect(daemon: RunningDaemon) -> None:
    uuid = uuid4()
    create(daemon, uuid)
    run = daemon.run_dir
    assert [mode(each) for each in (run.path, run.devices, run.mdev(uuid), run.socket(uuid))] == [
        0o711,
        0o711,
        0o700,
        0o600,
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_who_owns_the_mdevs_directory_may_use_its_socket(daemon: RunningDaemon) -> None:
    mine, theirs = uuid4(), uuid4()
    create(daemon, mine)
    create(daemon, theirs)
    output(daemon, f"chown 1234:4321 bus/mdev/devices/{theirs}/")
    for path in (daemon.run_dir.mdev(theirs), daemon.run_dir.socket(theirs), daemon.sys / f"bus/mdev/devices/{theirs}"):
        found = path.stat()
        assert (found.st_uid, found.st_gid) == (1234, 4321), path
    assert daemon.run_dir.socket(mine).stat().st_uid == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_an_mdev_that_was_given_away_while_no_driver_had_it_is_the_owners_when_one_has(daemon: RunningDaemon) -> None:
    uuid = uuid4()
    create(daemon, uuid)
    output(daemon, f"echo {uuid} > bus/mdev/drivers/mtty/unbind")
    output(daemon, f"chown 1234:4321 bus/mdev/devices/{uuid}/")
    output(daemon, f"echo {uuid} > bus/mdev/drivers/mtty/bind")
    found = daemon.run_dir.socket(uuid).stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 4321, 0o600)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_an_owner_gets_nothing_that_he_puts_a_link_to_in_the_sockets_place(daemon: RunningDaemon) -> None:
    uuid, victim = uuid4(), daemon.folder / "victim"
    victim.touch(0o640)
    create(daemon, uuid)
    daemon.run_dir.socket(uuid).unlink()
    daemon.run_dir.socket(uuid).symlink_to(victim)
    output(daemon, f"chown 1234:4321 bus/mdev/devices/{uuid}/")
    assert (victim.stat().st_uid, mode(victim)) == (0, 0o640)


BROKEN = """
import mdev_user.sysfs.types as a
from itertools import count
from uuid import UUID
numbers = count(1)
a.parse_uuid = lambda data: UUID(int=next(numbers))
"""


def test_without_its_checks_the_tree_would_take_any_of_them() -> None:
    """The negative control of the refusals above."""
    with RunningDaemon("mtty", preamble=BROKEN) as daemon:
        uuid = uuid4()
        for text in (str(uuid), str(uuid), str(uuid)[:35]):
            output(daemon, f"printf %s {text} > {TYPES}/mtty-1/create")
        assert len(output(daemon, "ls bus/mdev/devices").split()) == 3


def test_what_cannot_be_done_says_why_and_changes_nothing(daemon: RunningDaemon) -> None:
    assert refusal(daemon, f"cat {TYPES}/mtty-1/create") == "Permission denied"
    assert refusal(daemon, f"echo {uuid4()} > {TYPES}/mtty-3/create") == "No such file or directory"
    assert refusal(daemon, "mkdir bus/mdev/devices/x") == "Operation not permitted"
    assert shell(daemon, f"echo 1 > bus/mdev/devices/{uuid4()}/remove").returncode != 0
    assert output(daemon, "ls bus/mdev/devices") == ""
