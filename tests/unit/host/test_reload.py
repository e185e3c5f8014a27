"""A reload in a host: every mdev of the parent goes on with the new driver, or each with the old one as it was."""

import gc
import shutil
import struct
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from mdev_user.driver import Device
from mdev_user.errors import Busy, MdevUserError
from mdev_user.host import SOCKET_NAME, reload, steps
from mdev_user.host.service import Service
from mdev_user.host.wire import Create, Load, Probe, Reload, Show, ShowParent, Store, StoreParent, Unload, Unprobe
from mdev_user.mdev.types import MdevAttribute
from mdev_user.vfio.migration_states import PRE_COPY, RUNNING
from mdev_user.vfio.step_lock import StepLock
from mdev_user.vfio_user.client import Client
from unit.host.parts import SECONDS, eventually

DRIVER = """
from dataclasses import dataclass
from mdev_user.driver import (
    U32, WO, Attribute, Bar, Function, Parent, PciId, Pool, Profile, Saved, job, offload, on_write, sleep,
)

def product(value: int) -> int:
    return 2 * value

class Regs(Bar, index=0, size=4096):
    number, out = U32(0), U32(4)
    compute, nap = U32(8, WO), U32(12, WO)

@dataclass(frozen=True)
class Lanes(Profile):
    lanes: int

class Card(Function[Lanes]):
    identity = PciId(vendor=0x1DE5, device=7, class_code=0x120000)
    regs = Regs()
    total = Saved(0)
    entries = Saved[tuple[int, ...]](())
    clock, wear = Attribute(100), Attribute(0, writable=False)

    @on_write(Regs.compute)
    def begin(self, value: int) -> None:
        self.work(value)

    @job()
    async def work(self, value: int) -> None:
        self.regs.out = await offload(product, value)

    @on_write(Regs.nap)
    def lie_down(self, seconds: int) -> None:
        self.rest(seconds)

    @job(limit=1000)
    async def rest(self, seconds: int) -> None:
        await sleep(seconds)

class Cards(Parent[Lanes]):
    function = Card
    lanes = Pool(8)
    voltage, wear = Attribute(5), Attribute(0, writable=False)
    types = {"1": Lanes(lanes=1)}
"""
RAISING = DRIVER.replace(
    "    clock,",
    """    state_version = 2
    upgrades = {1: lambda stream: stream}

    def loaded(self) -> None:
        self.regs.out = 99
        if self.regs.number == 2:
            raise REASON("not today")

    clock,""",
)
NUMBER, OUT, COMPUTE, NAP = 0, 4, 8, 12
WEAR = MdevAttribute("", "wear", readable=True, writable=False)
CLOCK = MdevAttribute("", "clock", readable=True, writable=True)
VOLTAGE = MdevAttribute("", "voltage", readable=True, writable=True)


class Host:
    """A host's service with one parent of a file, whose mdevs are in the order of their UUIDs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "card.py"
        self.file.write_text(DRIVER)
        self.service = Service(folder / "devices")
        self.service.do(Load("p", f"{self.file}:Cards", {}))

    def create(self, parent: str = "p") -> UUID:
        uuid = UUID(int=len(self.service._mdevs) + 1)
        self.service.do(Create(parent, "card-1", uuid))
        self.service.do(Probe(uuid))
        return uuid

    def guest(self, uuid: UUID) -> AbstractContextManager[Client]:
        return Client(self.folder / "devices" / str(uuid) / SOCKET_NAME)

    def reload(self, source: str = DRIVER) -> object:
        """With a version of the file that there was not before."""
        self.file.write_text(f"{source}\n# {uuid4()}\n")
        return self.service.do(Reload("p"))

    def versions(self) -> int:
        """How many of the file are there."""
        return sum(str(self.folder) in each for each in sys.modules)

    def lock(self, uuid: UUID) -> StepLock:
        return self.service.endpoints.endpoint(uuid).lock

    def device(self, uuid: UUID) -> Device:
        device = self.service._mdevs[uuid].drvdata
        assert isinstance(device, Device)
        return device


@pytest.fixture
def host() -> Iterator[Host]:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # a socket's path is short
    made = Host(folder)
    yield made
    made.service.endpoints.stop()
    made.service.do(Unload("p"))
    shutil.rmtree(folder)


def write(guest: Client, offset: int, value: int) -> None:
    guest.region_write(0, offset, struct.pack("<I", value))


def read(guest: Client, offset: int) -> int:
    (value,) = struct.unpack("<I", guest.region_read(0, offset, 4))
    assert isinstance(value, int)
    return value


def in_thread(call: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """The thread, and what the call answered or raised."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(call())
        except Exception as error:  # noqa: BLE001 - it is looked at
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, outcome


# --- the module of a version ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wrong", "reason"),
    [
        ("size=4096", "size=8192", "BAR 0 is another one"),
        ('"1": Lanes', '"2": Lanes', "mdev_types: expected"),
        ("def product", "1 / 0\ndef product", "division by zero"),
        ("class Cards", "class Boards", "has no Cards"),
    ],
)
def test_an_old_driver_offloads_after_a_reload_that_was_refused(host: Host, text: str, wrong: str, reason: str) -> None:
    with host.guest(host.create()) as guest:
        with pytest.raises(MdevUserError, match=reason):
            host.reload(DRIVER.replace(text, wrong).replace("2 * value", "3 * value"))
        assert host.versions() == 1
        write(guest, COMPUTE, 5)
        eventually(lambda: read(guest, OUT) == 10, 60)


def test_a_reload_changes_the_identity_of_a_parent_that_is_no_pci_function(host: Host) -> None:
    changed = DRIVER.replace("device=7", "device=8")
    host.service.do(Load("4d44:00:01.0", f"{host.file}:Cards", {}))
    try:
        host.reload(changed)
        with pytest.raises(MdevUserError, match=r"identity: expected .*device=7.* as before, given .*device=8"):
            host.service.do(Reload("4d44:00:01.0"))
    finally:
        host.service.do(Unload("4d44:00:01.0"))


def test_an_old_driver_offloads_what_it_was_loaded_with(host: Host) -> None:
    with host.guest(host.create()) as guest:
        host.file.write_text(DRIVER.replace("2 * value", "3 * value"))
        write(guest, COMPUTE, 5)
        eventually(lambda: read(guest, OUT) == 10, 60)
        host.service.do(Reload("p"))
        write(guest, COMPUTE, 5)
        eventually(lambda: read(guest, OUT) == 15, 60)


def test_another_parent_of_the_file_offloads_what_it_was_loaded_with(host: Host) -> None:
    host.service.do(Load("q", f"{host.file}:Cards", {}))
    with host.guest(host.create("q")) as guest:
        host.reload(DRIVER.replace("2 * value", "3 * value"))
        write(guest, COMPUTE, 5)
        eventually(lambda: read(guest, OUT) == 10, 60)


def test_twenty_reloads_leave_no_older_version(host: Host) -> None:
    old: list[weakref.ref[object]] = []
    with host.guest(host.create()) as guest:
        for number in range(1, 21):
            device = host.device(next(iter(host.service._mdevs)))
            kind = type(device.function)
            old += [weakref.ref(device), weakref.ref(kind), weakref.ref(sys.modules[kind.__module__])]
            del device, kind
            write(guest, NAP, 3600)
            write(guest, COMPUTE, number)
            eventually(lambda expected=2 * number: read(guest, OUT) == expected, 60)  # type: ignore[misc]  # a default
            assert host.reload() == ""
    gc.collect()
    assert [each() for each in old if each() is not None] == []
    assert host.versions() == 1


def test_typings_caches_would_keep_older_versions(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the test above."""
    monkeypatch.setattr(reload, "getattr", lambda *_: (), raising=False)
    host.create()
    old = []
    for _ in range(3):
        old.append(weakref.ref(type(host.device(next(iter(host.service._mdevs))).function)))
        host.reload(DRIVER + "\nkept: object = Parent[Lanes], Saved[Lanes], Saved[Card], Saved[Cards]")
    gc.collect()
    assert [each() for each in old if each() is not None]


# --- one step of all mdevs -----------------------------------------------------------------------------------


def test_what_is_stored_during_a_reload_is_kept(host: Host) -> None:
    first, second = host.create(), host.create()
    with host.lock(second):
        reloading, reloaded = in_thread(host.reload)
        eventually(host.lock(first).locked)
        storing, stored = in_thread(lambda: host.service.do(Store(first, CLOCK, b"7")))
        parents, stored_too = in_thread(lambda: host.service.do(StoreParent("p", VOLTAGE, b"3")))
        storing.join(0.05)
    for thread in (reloading, storing, parents):
        thread.join(SECONDS)
    assert (reloaded, stored, stored_too) == ([""], [None], [None])
    assert host.service.do(Show(first, CLOCK)) == "7\n"
    assert host.service.do(ShowParent("p", VOLTAGE)) == "3\n"


def test_settings_are_carried_over_whoever_serves_the_mdev(host: Host) -> None:
    served, unserved = host.create(), host.create()
    for uuid in (served, unserved):
        host.service.do(Store(uuid, CLOCK, b"7"))
        host.device(uuid).function.wear = 9  # type: ignore[attr-defined]  # of the class in the file
    host.service.do(StoreParent("p", VOLTAGE, b"3"))
    host.service._parents["p"].parent.ops.wear = 4  # type: ignore[attr-defined]  # as above
    host.service.do(Unprobe(unserved))
    host.reload()
    host.service.do(Probe(unserved))
    for uuid in (served, unserved):
        assert [host.service.do(Show(uuid, each)) for each in (CLOCK, WEAR)] == ["7\n", "9\n"]
    assert [host.service.do(ShowParent("p", each)) for each in (VOLTAGE, WEAR)] == ["3\n", "4\n"]


def test_a_stuck_mdev_refuses_the_reload(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "PATIENCE", 0.1)
    first, second = host.create(), host.create()
    before = [host.device(each) for each in (first, second)]
    with host.lock(second), pytest.raises(Busy, match=f"{second}: the mdev has been in one step"):
        host.reload()
    assert [host.device(each) for each in (first, second)] == before
    assert host.reload() == ""
    assert host.device(first) is not before[0]


def test_an_mdev_that_is_being_migrated_refuses_the_reload(host: Host) -> None:
    first, second = host.create(), host.create()
    device = host.service.endpoints.endpoint(second).device
    with host.guest(second):
        with host.lock(second):
            device.migration.set_state(PRE_COPY)
        before = host.device(first)
        with pytest.raises(Busy, match=rf"{second} is being migrated \(PRE_COPY\)"):
            host.reload()
        assert host.device(first) is before
        with host.lock(second):
            device.migration.set_state(RUNNING)
        assert host.reload() == ""


def test_a_reload_that_waits_holds_up_no_other_parent(host: Host) -> None:
    host.service.do(Load("q", f"{host.file}:Cards", {}))
    first, second = host.create(), host.create()
    with host.lock(second):
        reloading, _outcome = in_thread(host.reload)
        eventually(host.lock(first).locked)
        others, created = in_thread(lambda: host.create("q"))
        own, created_too = in_thread(lambda: host.create("p"))
        others.join(1)
        assert len(created) == 1
        assert created_too == []  # the negative control
    for thread in (reloading, own):
        thread.join(SECONDS)


@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
def test_a_driver_that_raises_leaves_every_mdev_as_it_was(host: Host, error: type[BaseException]) -> None:
    first, second = host.create(), host.create()
    with host.guest(first) as one, host.guest(second) as two:
        for number, guest in enumerate((one, two), 1):
            write(guest, NUMBER, number)
            write(guest, OUT, 10 * number)
            write(guest, NAP, 3600)
        before = [(host.device(each), host.device(each).function) for each in (first, second)]
        with pytest.raises(error, match="not today"):
            host.reload(RAISING.replace("REASON", error.__name__))
        assert [(host.device(each), host.device(each).function) for each in (first, second)] == before
        assert [(read(each, NUMBER), read(each, OUT)) for each in (one, two)] == [(1, 10), (2, 20)]
        for uuid, guest in ((first, one), (second, two)):
            assert [each.name for each in host.device(uuid).jobs] == ["rest"]
            write(guest, COMPUTE, 7)
            eventually(lambda guest=guest: read(guest, OUT) == 14, 60)  # type: ignore[misc]  # as above
        write(two, NUMBER, 3)
        assert host.reload(RAISING) == ""
        assert [read(each, OUT) for each in (one, two)] == [99, 99]


def test_without_the_saved_state_the_first_mdev_would_have_the_new_driver(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the test above."""
    monkeypatch.setattr(reload, "take_back", lambda *_: None)
    first, second = host.create(), host.create()
    with host.guest(first) as one, host.guest(second) as two:
        write(two, NUMBER, 2)
        with pytest.raises(NameError, match="REASON"):
            host.reload(RAISING)
        assert (read(one, OUT), read(two, OUT)) == (99, 0)
