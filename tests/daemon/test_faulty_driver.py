"""A parent driver with bugs harms its own mdev at most, and what went wrong can be read."""

import errno
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest

from daemon.parents import engine, faulty
from daemon.support import PARENTS, eventually, output, processes_of, refusal
from mdev_user.daemon.client import Refused
from mdev_user.testing.daemon import DaemonFailed, RunningDaemon
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.connection import RemoteError

FAULTY = f"{PARENTS}/faulty.py:Faulty"
CARD = f"{PARENTS}/engine.py:Card"
VENDOR = "devices/virtual/faulty/faulty"


@pytest.fixture(scope="module")
def shared_daemon() -> Iterator[RunningDaemon]:
    """Both parents in one host: what one driver does, the other's mdevs would feel."""
    with RunningDaemon(f"{FAULTY},host=one", f"{CARD},host=one") as daemon:
        yield daemon


def last_disconnect(daemon: RunningDaemon, uuid: UUID) -> str:
    return eventually(lambda: daemon.control.mdev(uuid).last_disconnect, "the connection has ended")


def works(guest: Client) -> bool:
    guest.region_write(0, faulty.GOOD, b"\x5a")
    return guest.region_read(0, faulty.GOOD, 1) == b"\x5a"


@pytest.fixture
def neighbour(daemon: RunningDaemon) -> Iterator[Client]:
    """The user of another mdev in the same host process, who notices nothing."""
    with daemon.guest(daemon.create("faulty-device")) as guest:
        assert works(guest)
        yield guest
        assert works(guest)


@pytest.mark.parametrize("operation", ["read", "write"])
def test_a_bug_in_an_access_ends_its_mdevs_connection(daemon: RunningDaemon, neighbour: Client, operation: str) -> None:
    uuid = daemon.create("faulty-device")
    with daemon.guest(uuid) as guest:
        ways: dict[str, Callable[[], object]] = {
            "read": lambda: guest.region_read(0, faulty.BUG, 4),
            "write": lambda: guest.region_write(0, faulty.BUG, b"1"),
        }
        with pytest.raises(ConnectionError):
            ways[operation]()
    assert last_disconnect(daemon, uuid) == f"the driver failed: ValueError: {operation} is broken"
    assert f"ValueError: {operation} is broken" in daemon.log
    assert "faulty.py" in daemon.log.partition(f"ValueError: {operation} is broken")[0]  # where, as a traceback tells
    with daemon.guest(uuid) as guest:
        assert works(guest)


def test_a_read_of_the_wrong_length_is_the_drivers_bug(daemon: RunningDaemon, neighbour: Client) -> None:
    uuid = daemon.create("faulty-device")
    with daemon.guest(uuid) as guest, pytest.raises(ConnectionError):
        guest.region_read(0, faulty.SHORT, 4)
    assert "expected 4 bytes, the driver gave 0" in last_disconnect(daemon, uuid)


def test_a_bug_in_open_refuses_the_user_and_says_why(daemon: RunningDaemon, neighbour: Client) -> None:
    uuid = daemon.create("faulty-openbug")
    for _ in range(2):
        with pytest.raises(RemoteError) as refused:
            daemon.guest(uuid)
        assert refused.value.errno == errno.EIO
    assert last_disconnect(daemon, uuid) == "ValueError: open is broken"
    assert daemon.control.mdev(uuid).client is None
    daemon.control.remove(uuid, wait=0, force=False)


@pytest.mark.parametrize(("type_id", "text"), [("createbug", "ValueError: create is broken"), ("exit", "SystemExit")])
def test_a_bug_in_create_refuses_that_create(daemon: RunningDaemon, neighbour: Client, type_id: str, text: str) -> None:
    before = len(daemon.control.mdevs())
    with pytest.raises(Refused, match=rf"{text}.*\(EIO\)"):
        daemon.create(f"faulty-{type_id}")
    assert len(daemon.control.mdevs()) == before
    assert text in daemon.log


def test_a_refused_create_has_the_drivers_own_errno(daemon: RunningDaemon, neighbour: Client) -> None:
    with pytest.raises(Refused, match=r"there is never room \(ENOSPC\)"):
        daemon.create("faulty-full")


@pytest.mark.fuse
@pytest.mark.parametrize("attribute", ["bug", "bytes", "large", "exit"])
def test_a_bug_in_show_is_an_error_of_that_read(daemon: RunningDaemon, neighbour: Client, attribute: str) -> None:
    uuid = daemon.create("faulty-device")
    vendor = f"bus/mdev/devices/{uuid}/vendor"
    assert refusal(daemon, f"cat {vendor}/{attribute}") == "Input/output error"
    assert refusal(daemon, f"echo x > {vendor}/{attribute}") == "Input/output error"
    assert output(daemon, f"cat {vendor}/good") == "good\n"


@pytest.mark.fuse
def test_a_count_that_is_no_number_is_an_error_of_that_read() -> None:
    with RunningDaemon(f"{FAULTY},available=many", "mtty") as daemon:
        assert output(daemon, "cat class/mdev_bus/faulty/mdev_supported_types/faulty-device/available_instances")
        assert "mtty-1" in {each.type for each in daemon.control.types()}


def ring_and_wait(guest: Client, command: int) -> None:
    """Start a job that ends the connection, perhaps before the write is answered."""
    guest.region_write(0, engine.DOORBELL, command.to_bytes(4, "little"))
    guest.serve()


def is_done(guest: Client) -> bool:
    return guest.region_read(0, engine.STATUS, 4)[0] == engine.DONE


def test_a_bug_in_a_job_ends_its_mdevs_connection(daemon: RunningDaemon, neighbour: Client) -> None:
    for command, reason in (
        (engine.RAISE, "the driver failed: ValueError: a job's bug (in job raise)"),
        (engine.EXIT, "SystemExit('a job that leaves')"),
        (engine.NONSENSE, "a job awaits dma.read, dma.write, offload or a sleep"),
    ):
        uuid, other = daemon.create("card-engine"), daemon.create("card-engine")
        with daemon.guest(uuid) as guest, daemon.guest(other) as card:
            with pytest.raises(ConnectionError):
                ring_and_wait(guest, command)
            assert reason in last_disconnect(daemon, uuid)
            # Jobs of others go on.
            card.region_write(0, engine.DOORBELL, engine.WAIT.to_bytes(4, "little"))
            eventually(partial(is_done, card), "the other's job ends")


def test_a_guests_error_is_not_the_drivers(daemon: RunningDaemon, neighbour: Client) -> None:
    """The negative control of the tests above: what a guest does wrong is answered, and the connection stays."""
    uuid = daemon.create("card-engine")
    with daemon.guest(uuid) as guest:
        with pytest.raises(RemoteError):
            guest.region_write(0, 4094, b"1234")
        assert guest.region_read(0, 0, 1) == b"\0"
        shown = daemon.control.mdev(uuid)
        assert shown.last_disconnect == ""
        assert shown.counters["guest_errors"] == 1


# --- parents that cannot be had --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("ports=many", "mtty: option ports=many: expected an integer"),
        ("colour=red", "mtty has no option colour; it has: ports"),
    ],
)
def test_a_wrong_option_is_named(daemon: RunningDaemon, options: str, text: str) -> None:
    with pytest.raises(Refused) as refused:
        daemon.control.register_parent(f"mtty,name=wrong,{options}")
    assert text in str(refused.value)
    assert "wrong" not in {each.name for each in daemon.control.status().parents}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import nowhere_to_be_found\n", "broken.py:1 could not be imported: ModuleNotFoundError: No module named"),
        ("x = 1\nthis is no Python\n", "broken.py:2 could not be imported: SyntaxError"),
        ("x = 1\n\nraise SystemExit(2)\n", "broken.py:3 could not be imported: SystemExit: 2"),
        ("import os\nos._exit(7)\n", "exited with status 7"),
        ("class Other: ...\n", "broken.py has no Broken"),
        ("Broken = 3\n", "expected a parent driver (a subclass of MdevParentOps), found 3"),
    ],
)
def test_a_file_that_cannot_be_imported_is_a_clear_message(
    daemon: RunningDaemon, tmp_path: Path, text: str, expected: str
) -> None:
    file = tmp_path / "broken.py"
    file.write_text(text)
    with pytest.raises(Refused) as refused:
        daemon.control.register_parent(f"{file}:Broken")
    assert expected in str(refused.value)
    assert str(file) in str(refused.value) or "exited" in expected
    file.write_text((PARENTS / "engine.py").read_text().replace("Card", "Broken"))
    daemon.control.register_parent(f"{file}:Broken")  # a mistake that was mended leaves nothing behind
    daemon.control.unregister_parent("broken")


def test_serve_ends_with_the_reason_when_a_parent_cannot_be_had() -> None:
    daemon = RunningDaemon("mtty", f"{FAULTY},count=0")
    with pytest.raises(DaemonFailed) as failed:
        daemon.__enter__()
    assert str(failed.value).startswith("the daemon did not get ready (exit status 1)")
    assert (
        str(failed.value)
        .strip()
        .endswith("faulty.py:Faulty could not be made: ValueError: expected a count of at least 1")
    )
    assert processes_of(daemon) == []
    assert not daemon.folder.exists()


def test_a_daemon_that_did_not_start_is_told_with_its_log() -> None:
    with pytest.raises(DaemonFailed, match="no parent driver 'mty' is installed; did you mean 'mtty'"):
        RunningDaemon("mty").__enter__()


def test_options_from_the_command_line_reach_the_driver() -> None:
    with RunningDaemon("mtty,name=four,ports=4", f"{FAULTY},name=seven,count=7") as daemon:
        counts = {(each.parent, each.type): each.available_instances for each in daemon.control.types()}
        assert counts["four", "mtty-1"] == 4
        assert counts["four", "mtty-2"] == 2
        assert counts["seven", "faulty-device"] == 7
