"""A backend in a host: made when the parent is loaded, made anew at a reload, and an engine that real jobs share."""

import logging
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep
from uuid import UUID, uuid4

import pytest

from mdev_user.driver import Claim, Device
from mdev_user.errors import ConfigError, MdevUserError
from mdev_user.host import SOCKET_NAME
from mdev_user.host.jobs import Jobs
from mdev_user.host.service import Service
from mdev_user.host.wire import Create, Load, Probe, Reload, Remove, Show, Store, StoreParent, Unload, Unprobe
from mdev_user.mdev.types import MdevAttribute
from mdev_user.vfio.migration_states import RUNNING, STOP_COPY
from mdev_user.vfio.step_lock import StepLock
from mdev_user.vfio_user.client import Client
from unit.host.parts import eventually

DRIVER = """
from dataclasses import dataclass
from pathlib import Path
from time import thread_time
from mdev_user.driver import (
    U32, WO, Attribute, AttributeGroup, Bar, Engine, Function, Parent, PciId, Policy, Pool, Profile, Share, attribute,
    job, on_write, sleep,
)

LOG = Path(__spec__.origin).with_name("log")

def told(text):
    with LOG.open("a") as log:
        log.write(text + " ")

class Gpu:
    def __init__(self, policy):
        self.engine = Engine(policy, whole=16)

class Regs(Bar, index=0, size=4096):
    draw, stay = U32(0, WO), U32(4, WO)

@dataclass(frozen=True)
class Slice(Profile):
    lanes: int

class Card(Function[Slice, Gpu]):
    identity = PciId(vendor=0x1DE5, device=7, class_code=0x120000)
    regs = Regs()
    weight, frame_rate = Attribute(4, range=(1, 16)), Attribute(0, range=(0, 240))
    schedule = AttributeGroup(weight, frame_rate)
    drawing = Share(weight, frame_rate=frame_rate, engine=lambda gpu: gpu.engine)

    @on_write(Regs.draw)
    def begin(self, microseconds: int) -> None:
        self.work(microseconds)

    @job()
    async def work(self, microseconds: int) -> None:
        while True:
            for _each in range(16):
                await self.drawing.frame()
                async with self.drawing.turn(microseconds):
                    end = thread_time() + microseconds / 1e6
                    while thread_time() < end:
                        pass
            await sleep(0)

    @on_write(Regs.stay)
    def begin_to_stay(self, _value: int) -> None:
        self.hold()

    @job()
    async def hold(self) -> None:
        async with self.drawing.turn(1):
            await sleep(1000)

class Cards(Parent[Slice, Gpu]):
    function = Card
    lanes = Pool(8)
    policy = Attribute(Policy.BEST_EFFORT)
    types = {"1": Slice(lanes=1)}

    def open(self) -> Gpu:
        told("open")
        return Gpu(lambda: self.policy)

    def close(self, backend: Gpu) -> None:
        told("close")
"""
DRAW, STAY = 0, 4
SCHEDULE = MdevAttribute("", "schedule", readable=True, writable=True)
POLICY = MdevAttribute("", "policy", readable=True, writable=True)


class Host:
    """A host's service with one parent, whose mdevs are 1, 2, 3."""

    def __init__(self, folder: Path, source: str = DRIVER) -> None:
        self.folder, self.file = folder, folder / "card.py"
        self.file.write_text(source)
        self.service = Service(folder / "devices")
        self.guests = ExitStack()

    def load(self) -> None:
        self.service.do(Load("p", f"{self.file}:Cards", {}))

    def create(self, number: int) -> Client:
        """Create it, and use it."""
        uuid = UUID(int=number)
        self.service.do(Create("p", "card-1", uuid))
        self.service.do(Probe(uuid))
        return self.guests.enter_context(Client(self.folder / "devices" / str(uuid) / SOCKET_NAME))

    def claim(self, number: int) -> Claim:
        device = self.service._mdevs[UUID(int=number)].drvdata
        assert isinstance(device, Device)
        claim: Claim = device.function._state["drawing"]
        return claim

    def reload(self, source: str) -> object:
        self.file.write_text(f"{source}\n# {uuid4()}\n")
        return self.service.do(Reload("p"))

    def schedule(self, number: int, text: str) -> None:
        self.service.do(Store(UUID(int=number), SCHEDULE, text.encode()))

    @property
    def log(self) -> list[str]:
        log = self.folder / "log"
        return log.read_text().split() if log.exists() else []


@pytest.fixture
def host() -> Iterator[Host]:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # a socket's path is short
    made = Host(folder)
    yield made
    made.guests.close()
    for uuid in list(made.service._mdevs):
        made.service.do(Unprobe(uuid))
        made.service.do(Remove(uuid))
    made.service.endpoints.stop()
    if "p" in made.service._parents:
        made.service.do(Unload("p"))
    shutil.rmtree(folder)


def draw(guest: Client, microseconds: int) -> None:
    guest.region_write(0, DRAW, struct.pack("<I", microseconds))


def drawn(host: Host, numbers: list[int], seconds: float) -> list[float]:
    """What each has from now on, in so many seconds."""
    before = [host.claim(each).given for each in numbers]
    sleep(seconds)  # what is measured is how much comes in a time
    return [host.claim(each).given - given for each, given in zip(numbers, before, strict=True)]


def worked(host: Host, number: int) -> float:
    """Seconds of a processor that its jobs took, while that is counted."""
    jobs = host.service.endpoints.endpoint(UUID(int=number)).device._jobs
    assert isinstance(jobs, Jobs)
    return jobs._spent.processor


# --- its life ---------------------------------------------------------------------------------------------------


def test_it_is_made_once_when_the_parent_is_loaded_and_ends_with_it(host: Host) -> None:
    host.load()
    assert host.log == ["open"]
    host.create(1)
    host.create(2)
    assert host.claim(1)._engine is host.claim(2)._engine
    host.guests.close()
    for number in (1, 2):
        host.service.do(Unprobe(UUID(int=number)))
        host.service.do(Remove(UUID(int=number)))
    host.service.do(Unload("p"))
    assert host.log == ["open", "close"]


def test_parent_whose_backend_cannot_be_made_is_not_there(host: Host) -> None:
    host.file.write_text(DRIVER.replace('told("open")', "1 / 0"))
    with pytest.raises(ConfigError, match="could not be made: ZeroDivisionError"):
        host.load()
    host.file.write_text(DRIVER)
    host.load()
    assert host.log == ["open"]


def test_backend_that_cannot_be_closed_keeps_no_parent(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.file.write_text(DRIVER.replace('told("close")', "1 / 0"))
    host.load()
    with caplog.at_level(logging.ERROR):
        host.service.do(Unload("p"))
    assert "card: the backend could not be closed" in caplog.text


def test_reload_makes_it_anew_and_jobs_begin_anew_with_it(host: Host) -> None:
    """Also those that waited for a turn, and the one that had it."""
    host.load()
    holder, waiting = host.create(1), host.create(2)
    holder.region_write(0, STAY, bytes(4))
    eventually(lambda: host.claim(1)._holding)
    draw(waiting, 100)
    eventually(lambda: host.claim(2)._waiting)
    older = host.claim(2)._engine
    host.reload(DRIVER.replace("await sleep(1000)", "pass"))
    assert host.log == ["open", "open", "close"]
    assert host.claim(2)._engine is not older
    eventually(lambda: host.claim(2).turns > 10)
    assert (older._held, dict(older._backlogged), dict(older._present)) == (0, {}, {})


def test_refused_reload_leaves_the_backend_that_was(host: Host) -> None:
    host.load()
    draw(host.create(1), 100)
    older = host.claim(1)._engine
    with pytest.raises(MdevUserError):
        host.reload(DRIVER.replace("size=4096", "size=8192"))
    assert host.log == ["open", "open", "close"]
    turns = host.claim(1).turns
    eventually(lambda: host.claim(1).turns > turns + 10)
    assert host.claim(1)._engine is older


# --- an engine in a job thread ----------------------------------------------------------------------------------


def test_parts_follow_weights_that_change_while_jobs_wait(host: Host) -> None:
    host.load()
    numbers = [1, 2, 3]
    guests = [host.create(each) for each in numbers]
    draw(guests[0], 1000)
    for each, weight in zip(numbers, (1, 2, 4), strict=True):
        host.schedule(each, f"weight={weight}")
    for guest in guests[1:]:
        draw(guest, 1000)
    eventually(lambda: all(host.claim(each).turns for each in numbers))
    given = drawn(host, numbers, 1.5)
    assert [each / sum(given) for each in given] == pytest.approx([1 / 7, 2 / 7, 4 / 7], rel=0.1)
    host.schedule(1, "weight=16")
    host.schedule(3, "weight=2")
    given = drawn(host, numbers, 1)
    assert [each / sum(given) for each in given] == pytest.approx([16 / 20, 2 / 20, 2 / 20], abs=0.04)


def test_policy_and_frame_rate_change_while_jobs_wait(host: Host) -> None:
    host.load()
    draw(host.create(1), 1000)
    host.create(2)
    host.service.do(StoreParent("p", POLICY, b"fixed_share"))
    began, used = monotonic(), worked(host, 1)
    sleep(1)
    part = (worked(host, 1) - used) / (monotonic() - began)
    assert 0 < part < 0.4  # a quarter, if this machine has as much for it
    host.service.do(StoreParent("p", POLICY, b"best_effort"))
    host.schedule(1, "frame_rate=50")
    assert host.service.do(Show(UUID(int=1), SCHEDULE)) == "weight=4 frame_rate=50\n"
    began, frames = monotonic(), host.claim(1).frames
    sleep(1)
    assert 0 < (host.claim(1).frames - frames) / (monotonic() - began) < 55


def test_mdev_whose_step_takes_long_keeps_nobody_from_the_engine(host: Host) -> None:
    host.load()
    for number in (1, 2):
        draw(host.create(number), 1000)
    with host.service.endpoints.endpoint(UUID(int=1)).lock:
        turns = host.claim(2).turns
        eventually(lambda: host.claim(2).turns > turns + 100)
    turns = host.claim(1).turns
    eventually(lambda: host.claim(1).turns > turns + 10)


def test_it_would_keep_all(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: nobody is told, and it has the turn that is its own next."""
    monkeypatch.setattr(Device, "hindered", lambda _self: None)
    host.load()
    for number in (1, 2):
        draw(host.create(number), 1000)
    lock = host.service.endpoints.endpoint(UUID(int=1)).lock
    eventually(lambda: it_keeps_the_other(host, lock))  # its job may be between two turns


def it_keeps_the_other(host: Host, lock: StepLock) -> bool:
    """Whether the first mdev, which cannot go on, has the turn that the second one waits for."""
    with lock:
        turns = host.claim(2).turns
        eventually(lambda: host.claim(1)._holding or host.claim(2).turns > turns + 20)
        if not host.claim(1)._holding:
            return False
        turns = host.claim(2).turns
        sleep(0.1)
        return host.claim(2).turns <= turns + 1


def test_reset_lets_a_turn_go(host: Host) -> None:
    host.load()
    holder, waiting = host.create(1), host.create(2)
    holder.region_write(0, STAY, bytes(4))
    eventually(lambda: host.claim(1)._holding)
    draw(waiting, 100)
    eventually(lambda: host.claim(2)._waiting)
    holder.reset()
    eventually(lambda: host.claim(2).turns > 10)


def test_user_who_goes_lets_a_turn_go(host: Host) -> None:
    host.load()
    holder, waiting = host.create(1), host.create(2)
    holder.region_write(0, STAY, bytes(4))
    eventually(lambda: host.claim(1)._holding)
    draw(waiting, 100)
    holder.close()
    eventually(lambda: host.claim(2).turns > 10)


def test_device_that_is_stopped_to_be_migrated_lets_a_turn_go(host: Host) -> None:
    host.load()
    holder, waiting = host.create(1), host.create(2)
    holder.region_write(0, STAY, bytes(4))
    eventually(lambda: host.claim(1)._holding)
    draw(waiting, 100)
    eventually(lambda: host.claim(2)._waiting)
    endpoint = host.service.endpoints.endpoint(UUID(int=1))
    with endpoint.lock:
        endpoint.device.migration.set_state(STOP_COPY)
    eventually(lambda: host.claim(2).turns > 10)
    with endpoint.lock:
        endpoint.device.migration.set_state(RUNNING)
    assert host.claim(1) in host.claim(1)._engine._present
