"""The fixture `mdev_host`: a host of one's own, what goes wrong on it as asked, and that nothing of it stays."""

import errno
import fcntl
import gc
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep, time
from uuid import uuid4

import pytest

from mdev_user import pytest_plugin
from mdev_user.daemon.client import Refused
from mdev_user.daemon.run_dir import mounts_below
from mdev_user.drivers.crc import Card
from mdev_user.errors import ConfigError, MdevUserError, NoDevice
from mdev_user.host.wire import Unprobe
from mdev_user.pytest_plugin import MakeMdevHost
from mdev_user.testing import CreateFails, HostFailed, LoseEvent, MdevHost
from mdev_user.testing.hosts import zygote
from mdev_user.testing.hosts.in_process import InProcessHost
from mdev_user.testing.hosts.injection import Injection
from tools.ordinary import NOT_HERE

pytestmark = pytest.mark.fuse

FOREVER = 3600.0
NOBODY = 65534
SECONDS = 20.0

HAND_WRITTEN = """
from mdev_user.driver import MdevParentOps, MdevType

class Broken(MdevParentOps):
    driver_name = "broken"
    mdev_types = (MdevType("1"),)

    def create(self, mdev):
        raise ZeroDivisionError("on purpose")

    def remove(self, mdev):
        pass

    def get_available(self, mdev_type):
        return 7
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[MdevHost]:
    with MdevHost() as made:
        yield made


@pytest.fixture
def host(shared: MdevHost) -> Iterator[MdevHost]:
    """One with mtty, as new."""
    shared.reset()
    shared.register("mtty")
    yield shared
    shared.faults.clear()


def until(true: Callable[[], object]) -> None:
    deadline = monotonic() + SECONDS
    while not true():
        assert monotonic() < deadline, "it did not become so"
        sleep(0.005)


def last(host: MdevHost) -> int:
    return host.events()[-1].number


def told(host: MdevHost, after: int) -> list[tuple[str, str]]:
    return [(each.action, each.subsystem) for each in host.events(after)]


@contextmanager
def meanwhile(host: MdevHost, act: Callable[[], object]) -> Iterator[Future[object]]:
    """What a fault delays; it goes on when the fault is cleared."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(act)
        try:
            yield future
        finally:
            host.faults.clear()
        future.result(SECONDS)


CREATED = [("add", "mdev"), ("add", "vfio"), ("add", "vfio-dev"), ("bind", "mdev")]


# --- what it is -------------------------------------------------------------------------------------------------


def test_the_fixture_is_a_host_with_a_tree_and_no_parents(mdev_host: MdevHost) -> None:
    assert mdev_host.parents() == mdev_host.mdevs() == mdev_host.events() == []
    assert os.path.ismount(mdev_host.sys)
    assert mdev_host.pid != os.getpid()
    assert not [each for each in (mdev_host.root / "etc/mdevctl.d").rglob("*") if not each.is_dir()]
    assert not (mdev_host.root / "etc/mdevctl.d").is_symlink()  # which would be the machine's
    assert mdev_host.environment["MDEVCTL_ENV_ROOT"] == str(mdev_host.root)


def test_hosts_know_nothing_of_each_other(make_mdev_host: MakeMdevHost) -> None:
    with ThreadPoolExecutor(4) as pool:
        hosts = list(pool.map(lambda _: make_mdev_host("mtty"), range(4)))
    uuid = uuid4()
    assert [each.create("mtty-1", uuid=uuid) for each in hosts] == 4 * [uuid]
    hosts[0].remove(uuid)
    assert [each.mdevs() for each in hosts] == [[], [uuid], [uuid], [uuid]]
    assert len({each.pid for each in hosts}) == 4


def test_an_mdev_is_a_device_and_the_control_api_knows_it(host: MdevHost) -> None:
    before = last(host)
    uuid = host.create("mtty-1")
    with host.guest(uuid):
        assert host.control.mdev(uuid).client is not None
    assert told(host, before) == CREATED
    assert (host.mdev(uuid) / "vendor/sample_mdev_dev").read_text() == f"This is MDEV {uuid}\n"
    assert host.parent("mtty").available("mtty-1") == 23


def test_a_program_sees_the_tree_in_its_sys(host: MdevHost) -> None:
    uuid = host.create("mtty-1")
    done = host.run("sh", "-c", "cat; ls /sys/bus/mdev/devices; exit 3", stdin="given\n")
    assert (done.returncode, done.stdout) == (3, f"given\n{uuid}\n"), done.stderr


def test_a_parent_can_be_a_class_or_a_file(host: MdevHost, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(HAND_WRITTEN)
    parent = host.register(f"{tmp_path}/own.py:Broken,name=first")
    assert (parent.name, parent.types(), parent.available("broken-1")) == ("first", ["broken-1"], 7)
    assert host.register(Card).name == "card"
    with pytest.raises(OSError, match="Input/output error"):
        parent.create("broken-1")
    assert "ZeroDivisionError: on purpose" in host.log


def test_reset_leaves_nothing_of_before(host: MdevHost) -> None:
    uuid = host.create("mtty-1")
    host.faults.create_fails(times=None)
    with host.guest(uuid):
        host.reset()
    assert [host.parents(), host.mdevs(), host.events(), host.faults.waiting()] == [[], [], [], []]
    host.register("mtty")
    assert host.events()[0].subsystem == "drivers"
    host.create("mtty-1", uuid=uuid)


def test_reset_forgets_mdevctls_definitions_and_keeps_the_folders_that_it_wants(host: MdevHost) -> None:
    definitions = host.root / "etc/mdevctl.d"
    (definitions / "mtty").mkdir()
    for name in (f"mtty/{uuid4()}", "scripts.d/callouts/refuse.sh"):
        (definitions / name).write_text("{}")
    host.reset()
    found = {str(each.relative_to(definitions)) for each in definitions.rglob("*")}
    assert found == {"scripts.d", "scripts.d/callouts", "scripts.d/notifiers"}


def test_a_program_that_takes_too_long_is_killed_with_what_it_started(host: MdevHost, tmp_path: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        host.run("sh", "-c", f"sleep 600 & echo $! > {tmp_path}/child; wait", seconds=2)
    child = int((tmp_path / "child").read_text())
    until(lambda: not Path(f"/proc/{child}").exists() or is_zombie(child))


def test_an_environment_may_have_what_is_not_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDEV_TEST", os.fsdecode(b"\xff"))
    with MdevHost() as host:
        assert host.mdevs() == []


def test_waiting_for_an_event_finds_past_and_future_ones_and_tells_what_there_was(host: MdevHost) -> None:
    assert host.wait_for("change", MDEV_STATE="registered").devpath == "/devices/virtual/mtty/mtty"
    uuid = uuid4()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(host.wait_for, "bind", name=uuid, seconds=SECONDS)
        host.create("mtty-1", uuid=uuid)
        assert waiting.result().properties == {"DRIVER": "mtty"}
    with pytest.raises(TimeoutError, match=rf"(?s)'unbind'.*within 0.05 s.*bind .*/{uuid}"):
        host.wait_for("unbind", name=uuid, seconds=0.05)


# --- faults, each with its negative control: what is so without it ------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.ENOMEM, errno.EPROTO])
def test_a_create_fails_once_with_add_and_remove_and_leaves_nothing(host: MdevHost, number: int) -> None:
    uuid, before = uuid4(), last(host)
    fault = host.faults.create_fails(number, parent="mtty")
    with pytest.raises(OSError, match=r".") as raised:
        host.create("mtty-1", uuid=uuid)
    assert raised.value.errno == number
    assert told(host, before) == [("add", "mdev"), ("remove", "mdev")]
    assert (host.mdevs(), host.parent("mtty").available("mtty-1"), host.faults.hits(fault)) == ([], 24, 1)
    host.create("mtty-1", uuid=uuid)
    assert told(host, before + 2) == CREATED


def test_a_create_by_the_control_api_fails_alike(host: MdevHost) -> None:
    host.faults.create_fails(errno.ENOSPC)
    with pytest.raises(Refused, match="ENOSPC"):
        host.control.create("mtty-1", None, None)
    host.control.create("mtty-1", None, None)


def test_a_fault_happens_where_it_was_asked_for_and_nowhere_else(host: MdevHost) -> None:
    host.register("mtty,name=other")
    fault = host.faults.create_fails(parent="mtty", type_id="mtty-2", times=2)
    host.create("mtty-2", parent="other")
    host.create("mtty-1", parent="mtty")
    assert host.faults.hits(fault) == 0
    assert host.faults.waiting() == [fault]
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            host.create("mtty-2", parent="mtty")
    host.create("mtty-2", parent="mtty")
    assert host.faults.waiting() == []


def test_a_fault_without_times_happens_until_it_is_cleared(host: MdevHost) -> None:
    fault = host.faults.create_fails(times=None)
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            host.create("mtty-1")
    host.faults.clear(fault)
    host.create("mtty-1")


def test_a_slow_create_shows_an_unfinished_mdev_and_delays_no_other_parent(host: MdevHost) -> None:
    host.register("mtty,name=other")
    uuid = uuid4()
    fault = host.faults.create_takes(FOREVER, parent="mtty")
    with meanwhile(host, lambda: host.create("mtty-1", "mtty", uuid)) as creating:
        until(host.mdev(uuid).exists)
        assert not (host.mdev(uuid) / "mdev_type").exists()
        with pytest.raises(OSError, match=r".") as raised:
            host.remove(uuid)
        assert raised.value.errno == errno.EAGAIN
        assert (host.mdev(host.create("mtty-1", "other")) / "mdev_type").exists()
        assert not creating.done()
        assert host.faults.hits(fault) == 1
    assert (host.mdev(uuid) / "mdev_type").exists()


def test_a_slow_remove_shows_what_one_in_use_shows(host: MdevHost) -> None:
    uuid = host.create("mtty-1")
    device = host.mdev(uuid).resolve()
    fault = host.faults.remove_takes(FOREVER)
    with meanwhile(host, lambda: host.remove(uuid)) as removing:
        until(lambda: not host.mdev(uuid).is_symlink())
        until(lambda: [each.name for each in device.iterdir()] == ["iommu_group"])
        assert host.parent("mtty").available("mtty-1") == 23
        with pytest.raises(FileExistsError):
            host.create("mtty-2", uuid=uuid)
        assert not removing.done()
        assert host.faults.hits(fault) == 1
    assert not device.exists()
    host.remove(host.create("mtty-1", uuid=uuid))


def test_a_drivers_attribute_fails(host: MdevHost) -> None:
    uuid = host.create("mtty-1")
    file = host.mdev(uuid) / "vendor/sample_mdev_dev"
    fault = host.faults.attribute_fails(errno.ENXIO, attribute="vendor/sample_mdev_dev")
    with pytest.raises(OSError, match=r".") as raised:
        file.read_text()
    assert raised.value.errno == errno.ENXIO
    assert host.faults.hits(fault) == 1
    assert file.read_text() == f"This is MDEV {uuid}\n"


def test_a_lost_event_leaves_a_gap_in_the_numbers_and_the_truth_in_the_snapshot(host: MdevHost) -> None:
    before = last(host)
    host.faults.lose_event("bind")
    uuid = host.create("mtty-1")
    assert told(host, before) == CREATED[:-1]
    with pytest.raises(TimeoutError):
        host.wait_for("bind", name=uuid, seconds=0.1)
    host.create("mtty-1")
    assert [each.number - before for each in host.events(before)] == [1, 2, 3, 5, 6, 7, 8]
    bound = [each for each in host.control.snapshot().uevents if each.devpath.endswith(str(uuid))]
    assert [each.properties for each in bound] == [{"DRIVER": "mtty"}]


LISTENER = r"""
import os, socket, sys
uuid = sys.argv[1]
create, remove = "class/mdev_bus/mtty/mdev_supported_types/mtty-1/create", f"bus/mdev/devices/{uuid}/remove"
listener = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 15)  # NETLINK_KOBJECT_UEVENT
listener.bind((0, 2))  # where udevd tells
listener.settimeout(20)
for name, text in ((create, uuid), (remove, "1")):
    fd = os.open("/sys/" + name, os.O_WRONLY)
    os.write(fd, text.encode())
    os.close(fd)
actions = []
while actions[-1:] != ["remove"]:
    words = listener.recv(8192).decode(errors="replace").split("\0")
    properties = dict(each.split("=", 1) for each in words if "=" in each)
    if properties["DEVPATH"].endswith(uuid):
        actions.append(properties["ACTION"])
print(*actions)
"""


def test_an_event_is_lost_for_a_program_that_listens_as_to_udevd(host: MdevHost) -> None:
    fault = host.faults.lose_event("bind")
    heard = []
    for _ in range(2):
        done = host.run(sys.executable, "-c", LISTENER, str(uuid4()), events="private")
        heard.append(done.stdout.split() or done.stderr)
    assert heard == [["add", "unbind", "remove"], ["add", "bind", "unbind", "remove"]]
    assert host.faults.hits(fault) == 1


def test_an_event_is_lost_of_one_device_only(host: MdevHost) -> None:
    lost, seen = uuid4(), uuid4()
    fault = host.faults.lose_event(name=lost, times=None)
    for uuid in (lost, seen):
        host.create("mtty-1", uuid=uuid)
    names = {each.devpath.rpartition("/")[2] for each in host.events()}
    assert str(lost) not in names
    assert str(seen) in names
    assert host.faults.hits(fault) == 2


def test_capacity_changes_while_mdevs_exist(host: MdevHost) -> None:
    parent = host.parent("mtty")
    kept = [host.create("mtty-1") for _ in range(3)]
    host.faults.capacity("mtty", {"ports": 2})
    before = last(host)
    assert parent.available("mtty-1") == 0
    with pytest.raises(OSError, match="No space"):
        parent.create("mtty-1")
    assert told(host, before) == [("add", "mdev"), ("remove", "mdev")]
    assert host.mdevs() == sorted(kept)
    host.faults.capacity("mtty", {"ports": 5})
    assert (parent.available("mtty-1"), parent.available("mtty-2")) == (2, 1)
    parent.create("mtty-2")


def test_capacity_of_instances_is_the_frameworks(host: MdevHost) -> None:
    parent = host.register("mdpy")
    for _ in range(2):
        parent.create("mdpy-vga")
    host.faults.capacity("mdpy", {"count": 1})
    before = last(host)
    assert parent.available("mdpy-hd") == 0
    with pytest.raises(OSError, match="Too many users"):
        parent.create("mdpy-vga")
    assert told(host, before) == []
    host.faults.capacity("mdpy", {"count": 3})
    parent.create("mdpy-vga")


def test_a_host_dies_with_its_mdevs_and_comes_back(host: MdevHost) -> None:
    host.register("mtty,name=other")
    gone, kept = host.create("mtty-1", "mtty"), host.create("mtty-1", "other")
    before = last(host)
    host.faults.host_dies("mtty")
    host.wait_for("change", name="mtty", MDEV_STATE="registered", after=before)
    assert host.mdevs() == [kept]
    assert host.create("mtty-1", "mtty", uuid=gone) == gone


MISUSE: list[tuple[Callable[[MdevHost], object], type[Exception], str]] = [
    (lambda host: host.faults.create_fails(parent="mty"), ValueError, "no parent 'mty' is registered; there are: mtty"),
    (lambda host: host.faults.create_fails(type_id="mtty-9"), ValueError, "no type_id 'mtty-9' .*mtty-1, mtty-2"),
    (lambda host: host.faults.create_fails(4711), ValueError, "expected a number such as errno.ENOSPC, given 4711"),
    (lambda host: host.faults.create_fails(True), ValueError, "given True"),
    (lambda host: host.faults.create_fails(errno.EUSERS), ValueError, "EUSERS is the framework's own"),
    (lambda host: host.faults.create_fails(errno.EEXIST), ValueError, "EEXIST is the framework's own"),
    (lambda host: host.faults.lose_event("bnd"), ValueError, "expected one of add, .*, given 'bnd'"),
    (lambda host: host.faults.create_fails(times=0), ValueError, "times: expected a number of at least 1"),
    (lambda host: host.faults.create_takes(-1), ValueError, "seconds: expected a number from 0"),
    (lambda host: host.faults.remove_takes(float("nan")), ValueError, "seconds: expected a number from 0"),
    (lambda host: host.faults.attribute_fails(attribute="name"), ValueError, "no attribute 'name'.*vendor/sample"),
    (lambda host: host.faults.capacity("mtty", {"lanes": 2}), ValueError, "no pool 'lanes'; it has: ports"),
    (lambda host: host.faults.capacity("mtty", {"ports": -1}), ValueError, "ports: expected a number of at least 0"),
    (lambda host: host.faults.host_dies("mty"), ValueError, "no parent 'mty'"),
    (lambda host: host.register("mty"), ConfigError, "did you mean 'mtty'"),
    (lambda host: host.register("mtty"), Refused, "EEXIST"),
    (
        lambda host: host.create("mtty-9"),
        ValueError,
        "expected one parent with the type 'mtty-9', given mtty with mtty-1",
    ),
    (lambda host: host.create("mtty-9", "mtty"), ValueError, "parent mtty has no type 'mtty-9'"),
    (lambda host: host.create("mtty-1", "mty"), ValueError, "no parent 'mty' is registered"),
]


@pytest.mark.parametrize(("mistake", "kind", "words"), MISUSE)
def test_misuse_is_told(
    host: MdevHost, mistake: Callable[[MdevHost], object], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        mistake(host)
    assert host.faults.waiting() == []


def test_a_create_without_a_parent_says_what_there_is_and_what_to_do(host: MdevHost) -> None:
    def refused(type_id: str) -> str:
        with pytest.raises(ValueError, match=r"^expected one parent with the type ") as caught:
            host.create(type_id)
        return str(caught.value).partition(", given ")[2]

    do = "register a parent that has it, or create one of these types"
    assert refused("mtty-9") == f"mtty with mtty-1, mtty-2; {do}"
    host.register("mtty,name=other")
    assert refused("mtty-9") == f"mtty with mtty-1, mtty-2; other with mtty-1, mtty-2; {do}"
    assert refused("mtty-1") == "2: mtty, other; say which, as in create('mtty-1', 'mtty')"
    host.unregister("mtty")
    host.unregister("other")
    assert refused("mtty-1") == "a host without parents; register one first, as in register('mtty')"


def test_an_mdev_that_has_just_gone_is_no_device(tmp_path: Path) -> None:
    host = InProcessHost("any", tmp_path, lambda _host, _reason: None, Injection())
    with pytest.raises(NoDevice, match="is gone"):
        host.ask(Unprobe(uuid4()))


def test_a_driver_written_by_hand_counts_for_itself(host: MdevHost, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(HAND_WRITTEN)
    host.register(f"{tmp_path}/own.py:Broken")
    with pytest.raises(ValueError, match="counts for itself"):
        host.faults.capacity("broken", {"ports": 1})


def test_faults_are_values(host: MdevHost) -> None:
    fault = CreateFails(errno=errno.EIO, times=None)
    assert fault == CreateFails(errno=errno.EIO, times=None) != CreateFails(errno=errno.EIO)
    host.faults.arm(fault)
    host.faults.arm(LoseEvent(action="add"))
    with pytest.raises(OSError, match="Input"):
        host.create("mtty-1")
    assert host.faults.hits(CreateFails(errno=errno.EIO, times=None)) == 1


# --- its end ------------------------------------------------------------------------------------------------------


def left(folder: Path, *pids: int) -> list[object]:
    running: list[object] = [pid for pid in pids if Path(f"/proc/{pid}/status").exists() and not is_zombie(pid)]
    return running + mounts_below(folder) + ([folder] if folder.exists() else [])


def is_zombie(pid: int) -> bool:
    return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_nothing_is_left_of_a_closed_host(make_mdev_host: MakeMdevHost) -> None:
    host = make_mdev_host("mtty")
    folder = host.run_dir.path.parent
    uuid = host.create("mtty-1")
    with host.guest(uuid), (host.mdev(uuid) / "uevent").open():
        assert len(left(folder, host.pid)) == 3
        host.close()
        assert left(folder, host.pid) == []
    with pytest.raises(MdevUserError):
        host.control.status()
    assert "opened by" in host.log


def test_nothing_is_left_when_a_host_is_killed(make_mdev_host: MakeMdevHost) -> None:
    host = make_mdev_host("mtty")
    folder = host.run_dir.path.parent
    os.kill(host.pid, signal.SIGKILL)
    until(lambda: left(folder, host.pid) == [])
    with pytest.raises(HostFailed, match=r"(?s)is gone|has ended"):
        host.faults.clear()
    host.close()


def test_an_interrupted_request_is_never_answered_by_the_next_ones_answer(make_mdev_host: MakeMdevHost) -> None:
    host = make_mdev_host()
    os.kill(host.pid, signal.SIGSTOP)

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            host.faults.waiting()
    finally:
        signal.signal(signal.SIGALRM, before)
        os.kill(host.pid, signal.SIGCONT)
    with pytest.raises(HostFailed, match="did not wait for it"):
        host.faults.create_fails()


DYING = """
import os
import resource
import time
from mdev_user.testing import MdevHost
resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
host = MdevHost("mtty")
if not (forked := os.fork()):
    host.close()
    os._exit(0)
os.waitpid(forked, 0)
host.create("mtty-1")
host.faults.remove_takes(3600, times=None)
if not (holder := os.fork()):
    os.close(1)
    time.sleep(600)
print(host.pid, host.run_dir.path.parent, holder, flush=True)
time.sleep(600)
"""


def test_nothing_is_left_when_the_tests_process_is_killed_and_only_then(tmp_path: Path) -> None:
    """Not when a child of its ends that has the host, too; and whatever a child of its holds that goes on."""
    (tmp_path / "platform.py").write_text("")  # in the working directory, where a test's process does not look either
    dying = [sys.executable, "-P", "-c", DYING]
    with subprocess.Popen(dying, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid, name, holder = process.stdout.readline().split()
        try:
            folder = Path(name)
            zygote_pid = parent_of(int(pid))
            assert len(left(folder, int(pid), zygote_pid)) == 4
            assert len(set(resource.prlimit(int(pid), resource.RLIMIT_NOFILE))) == 1, "each mdev takes a file"
            process.kill()
            until(lambda: left(folder, int(pid), zygote_pid) == [])
        finally:
            os.kill(int(holder), signal.SIGKILL)


def test_a_zygote_that_was_killed_is_replaced_and_its_hosts_live_on(make_mdev_host: MakeMdevHost) -> None:
    before = make_mdev_host()
    killed = parent_of(before.pid)
    os.kill(killed, signal.SIGKILL)
    until(lambda: is_zombie(killed))
    after = make_mdev_host()
    assert parent_of(after.pid) != killed
    assert before.parents() == after.parents() == []
    gc.collect()  # a file of the old one that is still open would be warned of
    before.close()
    assert left(before.run_dir.path.parent, before.pid) == []


def test_what_a_dead_zygote_left_is_found_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zygote, "PLACE", tmp_path)
    old, young, held = (tmp_path / f"{zygote.PREFIX}{name}" for name in ("old", "young", "held"))
    for each in (old, young, held):
        each.mkdir()
    for each in (old, held):
        os.utime(each, (time() - 3600,) * 2)
    fd = os.open(held, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        assert list(zygote.forgotten()) == [old]
    finally:
        os.close(fd)
    assert sorted(zygote.forgotten()) == [held, old]


ORDINARY = """
import os
from pathlib import Path
from mdev_user.testing import MdevHost
with MdevHost("mtty") as host:
    uuid = host.create("mtty-1")
    host.faults.create_fails()
    try:
        host.create("mtty-1")
    except OSError as error:
        print(os.getuid(), error.strerror)
    print(host.run("ls", "/sys/bus/mdev/devices").stdout.strip() == str(uuid))
folder = host.run_dir.path.parent
print(folder.exists(), str(folder) in Path("/proc/self/mountinfo").read_text())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_an_ordinary_user_has_all_this() -> None:
    tests = Path(__file__).parents[2]
    become = [str(tests / "tools/ordinary.py"), str(NOBODY), str(tests.parent), sys.prefix, sys.base_prefix, "--"]
    done = subprocess.run(
        [sys.executable, *become, sys.executable, "-W", "error", "-c", ORDINARY],
        env={**os.environ, "HOME": "/nonexistent", "PYTHONPATH": str(tests), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode == NOT_HERE:
        pytest.skip(f"this container makes no device nodes: {done.stderr}")
    assert done.stdout.splitlines() == [f"{NOBODY} No space left on device", "True", "False False"], done.stderr


# --- in pytest ----------------------------------------------------------------------------------------------------

EXAMPLES = """
import os
import sys

import pytest

def test_that_needs_no_host():
    assert not [name for name in sys.modules if name.startswith("mdev_user.") and name != "mdev_user.pytest_plugin"]

def test_that_passes(mdev_host):
    mdev_host.register("mtty")
    print("FOLDER", mdev_host.run_dir.path.parent)

def test_that_fails(make_mdev_host):
    hosts = [make_mdev_host("mtty"), make_mdev_host("mtty")]
    for host in hosts:
        print("FOLDER", host.run_dir.path.parent)
    assert 0, "on purpose"

def test_that_is_skipped(mdev_host, monkeypatch):
    pass

def test_that_is_interrupted(mdev_host):
    print("FOLDER", mdev_host.run_dir.path.parent)
    raise KeyboardInterrupt
"""

WITHOUT_FUSE = """
import pytest

@pytest.fixture(autouse=True)
def without_fuse(monkeypatch, request):
    if "skipped" in request.node.name:
        from mdev_user import errors, testing
        def refuse(*parents):
            raise errors.MountError("no /dev/fuse: as the test wants it")
        monkeypatch.setattr(testing, "MdevHost", refuse)
"""


def run_pytest(folder: Path, *options: str) -> str:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-W",
        "error",
        "--import-mode=importlib",
        "-rA",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


def test_pytest_leaves_nothing_however_a_test_ends(tmp_path: Path) -> None:
    (tmp_path / "test_examples.py").write_text(EXAMPLES)
    (tmp_path / "conftest.py").write_text(WITHOUT_FUSE)
    output = run_pytest(tmp_path, "-s")
    assert "1 failed, 2 passed, 1 skipped" in output
    assert "mdev_host needs FUSE: no /dev/fuse: as the test wants it" in output
    assert "KeyboardInterrupt" in output
    folders = [Path(line.split()[-1]) for line in output.splitlines() if "FOLDER /" in line]
    assert len(folders) == 4
    assert [each for folder in folders for each in left(folder)] == []


def test_what_cannot_be_had_can_be_a_failure(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = {"skip": pytest.skip.Exception, "fail": pytest.fail.Exception}
    for wanted, outcome in outcomes.items():
        monkeypatch.setitem(pytestconfig._inicache, "mdev_host_unavailable", wanted)
        with pytest.raises(outcome, match="needs FUSE: no /dev/fuse"):
            pytest_plugin.unavailable(pytestconfig, "no /dev/fuse")


def test_neither_skip_nor_fail_is_refused_at_once(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pytestconfig._inicache, "mdev_host_unavailable", "failed")
    with pytest.raises(pytest.UsageError, match="expected skip or fail, given 'failed'"):
        pytest_plugin.pytest_configure(pytestconfig)
