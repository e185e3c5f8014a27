"""vgpu's renderer in a real process of its mdev, by a driver behind a vfio-user socket: it draws, dies, and hangs."""

import fcntl
import os
import random
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from mmap import mmap
from pathlib import Path
from struct import unpack_from
from typing import cast

import pytest
from typing_extensions import override

from core import core_skip
from drivers.virgl.guest_driver import DESTROY, FROM_HOST, SUBMIT, VirglDriver
from drivers.virgl.stream import BGRA, clear, command, target
from mdev_user.driver import MiB
from mdev_user.drivers.vgpu.card import Card
from mdev_user.drivers.vgpu.commands import Answered
from mdev_user.drivers.vgpu.process import PIXELS_PER_SECOND
from mdev_user.drivers.vgpu.rendering import RenderingVgpu
from mdev_user.drivers.vgpu.virgl.binding import missing
from mdev_user.drivers.vgpu.virgl.shape import Box, Shape, Target
from mdev_user.mdev.device import Mdev
from mdev_user.testing import Guest
from mdev_user.testing.local import LocalHost
from mdev_user.vfio.requests import Region
from unit.driver.virtio.ring_driver import BUFFERS, Piece
from unit.drivers.vgpu.gpu_driver import ANSWER, OK

MEMORY, PICTURES = 64 * MiB, 16 * MiB
SIDE = 64
SIZE = SIDE * SIDE * 4
PICTURE = Shape(Target.TEXTURE_2D, BGRA, 2 | 8, SIDE, SIDE, 1, 1, 0, 0, 0)
WHOLE = Box(0, 0, 0, SIDE, SIDE, 1)
ORANGE = bytes.fromhex("4080ffff") * (SIDE * SIDE)
LONG = 60.0


class SocketGuest:
    """What a driver needs of a `Guest`, behind the mdev's socket."""

    def __init__(self, host: LocalHost, mdev: Mdev) -> None:
        self._endpoint = host.endpoint(mdev)
        self.client = host.client(mdev)
        fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, MEMORY)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        self.memory = mmap(fd, MEMORY)
        self.client.dma_map(0, MEMORY, fd)
        os.close(fd)
        self.write_bytes(Region.CONFIG, 4, b"\x06\0")

    def write_bytes(self, region: int, offset: int, data: bytes) -> None:
        self.client.region_write(region, offset, data)

    def read_bytes(self, region: int, offset: int, count: int) -> bytes:
        return self.client.region_read(region, offset, count)

    def map(self, _address: int, _size: int) -> None:
        """All of it is there."""

    @property
    def function(self) -> RenderingVgpu:
        function = self._endpoint.device.ops.function  # type: ignore[attr-defined]  # a Device's
        assert isinstance(function, RenderingVgpu)
        return function


def renderers() -> set[int]:
    """The processes of all devices."""
    tasks = Path("/proc/self/task").glob("*/children")
    children = {Path("/proc", pid) for each in tasks for pid in each.read_text().split()}
    return {int(each.name) for each in children if b"mdev_user.host.program" in (each / "cmdline").read_bytes()}


class Driver(VirglDriver):
    """It waits for its answers in real time."""

    def __init__(self, guest: SocketGuest) -> None:
        self.socket = guest
        super().__init__(cast("Guest", guest), memory=PICTURES)

    @override
    def send(self, data: bytes, *, queue: int = 0, room: int = 0x1000) -> bytes:
        self.guest.memory[BUFFERS : BUFFERS + len(data)] = data
        pieces = [Piece(BUFFERS, len(data), 0), *([Piece(ANSWER, room)] if room else [])]
        ring, end = self.rings[queue], time.monotonic() + LONG
        ring.chain(range(len(pieces)), pieces).offer(0)
        self.kick(queue)
        while not (taken := ring.taken()):
            assert time.monotonic() < end, f"no answer in {LONG} seconds"
            time.sleep(0.0001)  # the host is in this process
        ((_head, written),) = taken
        return self.guest.memory[ANSWER : ANSWER + written]

    def prepare(self) -> list[tuple[int, int]]:
        """A picture to draw into; its memory."""
        pieces = [(self.memory(0x1000), 0x1000) for _ in range(SIZE // 0x1000)][::-1]
        assert self.create_3d(10, PICTURE) == OK
        assert self.attach(10, pieces) == OK
        assert self.use(10) == OK
        assert self.submit(target(10)) == OK
        return pieces

    def begin_anew(self) -> list[tuple[int, int]]:
        """As another program of the guest's does when the first has ended."""
        assert self.unref(10) == self.do(DESTROY) == self.context() == OK
        return self.prepare()

    def drawn(self, pieces: list[tuple[int, int]]) -> bytes:
        assert self.submit(clear(1, 0.5, 0.25, 1)) == OK
        data = self.command(FROM_HOST, "6IQ4I", *WHOLE, 0, 10, 0, 0, 0, fence=1)
        assert unpack_from("<I", self.send(data))[0] == OK
        return b"".join(self.guest.memory[address : address + length] for address, length in pieces)


@contextmanager
def drivers(count: int) -> Iterator[list[Driver]]:
    if reason := missing():
        core_skip(reason)
    with LocalHost() as host:
        parent = host.bus.register_parent("vgpu", Card())
        made = [Driver(SocketGuest(host, host.create(parent, "vgpu-GVTg_V5_8"))) for _ in range(count)]
        try:
            yield made
        finally:
            for each in made:
                each.socket.client.close()


@pytest.fixture
def two() -> Iterator[list[Driver]]:
    """Guests of one parent, each with a context."""
    with drivers(2) as made:
        for each in made:
            assert each.context() == OK
        yield made


def test_what_was_drawn_is_in_the_guests_memory(two: list[Driver]) -> None:
    """Of both, by a process each; how long it takes is told."""
    memories = [each.prepare() for each in two]
    assert len(renderers()) == 2
    times: list[float] = []
    for _ in range(50):
        for each, pieces in zip(two, memories, strict=True):
            started = time.perf_counter()
            assert each.drawn(pieces) == ORANGE
            times.append(1e6 * (time.perf_counter() - started))
            each.fill(pieces, bytes(SIZE))
    print(f"clear, read back, fence: p50 {statistics.median(times):.0f} us, best {min(times):.0f} us")


def test_fences_come_back_in_their_order(two: list[Driver]) -> None:
    driver = two[0]
    driver.prepare()
    for number in range(100):
        answer = driver.send(driver.command(SUBMIT, "I4x", 36, more=clear(1, 0, 0, 1), fence=number))
        assert unpack_from("<IIQ", answer) == (OK, 1, number)


def test_death_of_one_renderer_is_nothing_to_the_other(two: list[Driver]) -> None:
    first, second = two
    first.prepare()
    killed = renderers()
    pieces = second.prepare()
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    assert first.submit(clear(0, 0, 0, 0)) == Answered.ERR_UNSPEC
    assert second.drawn(pieces) == ORANGE
    assert first.drawn(first.begin_anew()) == ORANGE
    assert not renderers() & killed


def test_renderer_that_hangs_is_ended(two: list[Driver], monkeypatch: pytest.MonkeyPatch) -> None:
    driver = two[0]
    monkeypatch.setattr(RenderingVgpu.renderer, "_seconds", 0.5)
    driver.prepare()
    (stopped,), drawn = renderers(), driver.socket.function.drawn
    os.kill(stopped, signal.SIGSTOP)
    assert driver.submit(clear(0, 0, 0, 0)) == Answered.ERR_UNSPEC
    assert (driver.socket.function.drawn - drawn) / PIXELS_PER_SECOND > 0.4
    assert driver.drawn(driver.begin_anew()) == ORANGE
    assert stopped not in renderers()


def test_processor_time_is_charged(two: list[Driver]) -> None:
    """That of the threads that draw, too, which goes on when a command has been answered."""
    driver, side = two[0], 2048
    assert driver.create_3d(11, replace(PICTURE, width=side, height=side)) == OK
    assert driver.use(11) == OK
    (pid,) = renderers()
    assert driver.submit(target(11)) == OK
    used, drawn = processor_time(pid), driver.socket.function.drawn
    while (seconds := processor_time(pid) - used) < 0.5:
        for number in range(20):
            driver.send(driver.command(SUBMIT, "I4x", 36, more=clear(1, 0, 0, 1), fence=number))
        assert driver.submit(b"") == OK
    assert (driver.socket.function.drawn - drawn) / PIXELS_PER_SECOND == pytest.approx(seconds, rel=0.3)


def test_start_is_charged(two: list[Driver]) -> None:
    driver = two[0]
    drawn = driver.socket.function.drawn
    assert driver.create_3d(11, PICTURE) == OK
    (pid,) = renderers()
    charged = (driver.socket.function.drawn - drawn) / PIXELS_PER_SECOND
    assert charged == pytest.approx(processor_time(pid), rel=0.3, abs=0.03)


def processor_time(pid: int) -> float:
    """Seconds, of all threads."""
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13])) / 100


def test_garbage_hurts_nobody_else(two: list[Driver]) -> None:
    hostile, other = two
    pieces, seed = other.prepare(), random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    for _ in range(30):
        words = [chance.choice((0, 1, 10, chance.randrange(1 << 32))) for _ in range(chance.randrange(20))]
        begun = target(10) if chance.random() < 0.5 else b""
        answer = hostile.submit(begun + command(chance.randrange(60), chance.randrange(16), *words))
        assert answer in set(Answered), f"seed {seed}"
        hostile.create_3d(chance.randrange(20), PICTURE)
        hostile.use(chance.randrange(20))
    assert other.drawn(pieces) == ORANGE


def test_reset_ends_the_process_and_gives_no_time_back(two: list[Driver]) -> None:
    driver, held = two[0], 0.3
    driver.prepare()
    before, drawn = renderers(), driver.socket.function.drawn
    (stopped,) = before
    os.kill(stopped, signal.SIGSTOP)
    commands = clear(0, 0, 0, 0)
    driver.begin(driver.command(SUBMIT, "I4x", len(commands), more=commands))
    time.sleep(held)
    driver.socket.client.reset()
    assert held / 2 < (driver.socket.function.drawn - drawn) / PIXELS_PER_SECOND < 10 * held
    again = Driver(driver.socket)
    assert again.context() == OK
    assert again.drawn(again.prepare()) == ORANGE
    assert not renderers() & before
