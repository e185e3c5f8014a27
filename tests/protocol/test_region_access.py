"""REGION_READ and REGION_WRITE: data, limits, and that both ways through the session answer the same bytes."""

import pkgutil
import random
import struct
import time
from errno import EFAULT, EINVAL

import pytest
from typing_extensions import override

from mdev_user.units import MiB
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.ops import DeviceOps
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.connection import RemoteError
from mdev_user.vfio_user.framing import HEADER, LARGEST_DATA, Command, command_message
from mdev_user.vfio_user.loops import CHOICE
from protocol.device import SCRATCH_SIZE, TestDevice
from protocol.served import Served, Wire

CONFIG, BAR0 = 7, 0


def access(offset: int, region: int, count: int, data: bytes = b"") -> bytes:
    return struct.pack("=QII", offset, region, count) + data


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 9, 16, 255, 4096])
def test_what_is_written_is_read(client: Client, size: int) -> None:
    data = random.Random(size).randbytes(size)
    client.region_write(BAR0, SCRATCH_SIZE - size, data)
    assert client.region_read(BAR0, SCRATCH_SIZE - size, size) == data


def test_accesses_are_counted(client: Client, served: Served) -> None:
    client.region_write(BAR0, 0, b"ab")
    client.region_write(BAR0, 0, bytes(64))
    client.region_read(BAR0, 0, 4)
    counters = served.device.counters
    assert (counters.reads, counters.writes, counters.guest_errors) == (1, 2, 0)


def test_replies_repeat_the_request(wire: Wire) -> None:
    assert wire.ask(Command.REGION_READ, access(4, CONFIG, 2)).payload == access(4, CONFIG, 2, b"\x04\x05")
    assert wire.ask(Command.REGION_WRITE, access(4, BAR0, 2, b"xy")).payload == access(4, BAR0, 2)


@pytest.mark.parametrize(
    ("command", "payload", "errno"),
    [
        (Command.REGION_READ, b"", EINVAL),
        (Command.REGION_READ, access(0, BAR0, 4)[:-1], EINVAL),
        (Command.REGION_READ, access(0, BAR0, 4) + b"x", EINVAL),
        (Command.REGION_READ, access(0, BAR0, 0), EINVAL),
        (Command.REGION_READ, access(0, BAR0, LARGEST_DATA + 1), EINVAL),
        (Command.REGION_READ, access(0, BAR0, (1 << 32) - 1), EINVAL),
        (Command.REGION_READ, access((1 << 64) - 2, BAR0, 4), EINVAL),
        (Command.REGION_READ, access((1 << 64) - 4, BAR0, 4), EFAULT),
        (Command.REGION_READ, access(1 << 40, BAR0, 4), EFAULT),
        (Command.REGION_READ, access(SCRATCH_SIZE - 2, BAR0, 4), EFAULT),
        (Command.REGION_READ, access(0, 5, 4), EFAULT),
        (Command.REGION_READ, access(0, 1000, 4), EFAULT),
        (Command.REGION_READ, access(0, (1 << 32) - 1, 4), EFAULT),
        (Command.REGION_WRITE, b"", EINVAL),
        (Command.REGION_WRITE, access(0, BAR0, 4), EINVAL),
        (Command.REGION_WRITE, access(0, BAR0, 4, b"abc"), EINVAL),
        (Command.REGION_WRITE, access(0, BAR0, 4, b"abcde"), EINVAL),
        (Command.REGION_WRITE, access(0, BAR0, 0), EINVAL),
        (Command.REGION_WRITE, access((1 << 64) - 2, BAR0, 4, b"abcd"), EINVAL),
        (Command.REGION_WRITE, access(SCRATCH_SIZE, BAR0, 1, b"a"), EFAULT),
        (Command.REGION_WRITE, access(0, 3, 9, bytes(9)), EFAULT),
    ],
)
def test_a_bad_access_gets_its_errno_and_the_next_works(wire: Wire, command: int, payload: bytes, errno: int) -> None:
    assert wire.ask(command, payload).errno == errno
    assert wire.works()


class Big(TestDevice):
    """Every region is endless: reads give a pattern, writes are kept."""

    written = b""

    @override
    def read(self, region: int, offset: int, count: int) -> bytes:
        return bytes([offset & 0xFF]) * count

    @override
    def write(self, region: int, offset: int, data: bytes) -> None:
        self.written = data


def test_a_megabyte_goes_in_one_message() -> None:
    with Served(device := Big()) as served:
        client = Client.over(served.socket)
        assert client.region_read(BAR0, 0x41, MiB) == b"A" * MiB
        data = random.Random(1).randbytes(MiB)
        client.region_write(BAR0, 0, data)
        assert device.written == data
        with pytest.raises(RemoteError, match="REGION_READ"):
            client.region_read(BAR0, 0, MiB + 1)


# --- the loop's way and the connection's way ----------------------------------------------------------------


def mixed_accesses(seed: int, count: int) -> list[bytes]:
    """Good and bad accesses, with single bits of some turned over where that still asks for one reply."""
    chance = random.Random(seed)
    messages = []
    for identity in range(count):
        size = chance.choice([0, 1, 2, 3, 4, 5, 8, 9, 16, 300])
        offset = chance.choice([0, 4, 250, SCRATCH_SIZE - 4, 1 << 40, (1 << 64) - 3, chance.randrange(1 << 64)])
        region = chance.choice([BAR0, BAR0, CONFIG, 2, 3, 9, chance.randrange(1 << 32)])
        if chance.random() < 0.5:
            message = command_message(identity, Command.REGION_READ, access(offset, region, size))
        else:
            data = chance.randbytes(size if chance.random() < 0.9 else size + 1)
            message = command_message(identity, Command.REGION_WRITE, access(offset, region, size, data))
        if chance.random() < 0.1:
            turned = bytearray(message)
            turned[chance.choice([*range(4), 9, 10, *range(12, len(turned))])] ^= 1 << chance.randrange(8)
            message = bytes(turned)
        messages.append(message)
    return messages


def transcript(
    messages: list[bytes], pieces: int, ops: DeviceOps | None = None
) -> tuple[list[bytes], dict[str, int | str]]:
    """What is answered to messages sent in so many pieces each: one piece goes the loop's way, two do not."""
    with Served(ops) as served:
        wire = Wire(served.socket)
        wire.hello()
        replies = []
        for message in messages:
            if pieces == 1:
                wire.send(message)
            else:
                wire.send(message[:20])
                wait_until_received(served)
                wire.send(message[20:])
            answer = wire.receive()
            replies.append(HEADER.pack(*answer.header) + answer.payload)
        values = served.device.counters.values()
        return replies, {name: values[name] for name in ("reads", "writes", "guest_errors", "last_guest_error")}


def wait_until_received(served: Served) -> None:
    deadline = time.monotonic() + 20
    while not served.session.connection.midway:
        assert time.monotonic() < deadline
        time.sleep(0)


def test_both_ways_answer_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = mixed_accesses(seed=3, count=600)
    by_loop = transcript(messages, pieces=1)
    by_connection = transcript(messages, pieces=2)
    assert by_loop == by_connection
    assert len(by_loop[0]) > 100
    assert int(by_loop[1]["reads"]) > 50


def test_a_difference_between_the_ways_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the loop forgets to check one thing."""
    messages = mixed_accesses(seed=3, count=600)
    by_connection = transcript(messages, pieces=2)
    monkeypatch.setenv(CHOICE, "python")
    monkeypatch.setattr("mdev_user.vfio_user.access_loop._FAR", 1 << 65)
    assert transcript(messages, pieces=1) != by_connection


def test_the_loop_is_what_answers_plain_accesses(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    returned: list[object] = []
    kind = {"python": "access_loop.PythonLoop", "native": "native_loop.NativeLoop"}[loop]
    target = f"mdev_user.vfio_user.{kind}.serve"
    serve = pkgutil.resolve_name(target)

    def watched(self: object) -> object:
        returned.append(serve(self))
        return returned[-1]

    monkeypatch.setattr(target, watched)
    with Served() as served:
        client = Client.over(served.socket)
        for _ in range(50):
            client.region_read(BAR0, 0, 4)
            client.region_write(BAR0, 0, b"abcd")
        assert not returned
        client.reset()
        assert len(returned) == 1


def test_a_watcher_sees_accesses_from_one_to_the_next(client: Client, served: Served) -> None:
    client.region_read(BAR0, 0, 4)
    seen = []
    driver_read = served.device.read

    def watched(region: int, offset: int, count: int) -> bytes:
        seen.append((region, offset, count))
        return driver_read(region, offset, count)

    with served.step_lock:
        served.device.read = watched
    client.region_read(BAR0, 8, 4)
    with served.step_lock:
        served.device.read = driver_read
    client.region_read(BAR0, 8, 4)
    assert seen == [(BAR0, 8, 4)]


class Slow(TestDevice):
    """Takes longer than a step should where it is told to."""

    @override
    def open_device(self, device: VfioDevice) -> None:
        super().open_device(device)
        self.scratch[:] = bytes(SCRATCH_SIZE)

    @override
    def read(self, region: int, offset: int, count: int) -> bytes:
        if offset == 0x10:
            time.sleep(0.002)
        return super().read(region, offset, count)

    @override
    def write(self, region: int, offset: int, data: bytes) -> None:
        if offset == 0x20:
            time.sleep(0.03)
        super().write(region, offset, data)


def test_a_slow_access_is_counted_and_named() -> None:
    with Served(Slow()) as served:
        client = Client.over(served.socket)
        client.region_read(BAR0, 0x10, 4)
        counters = served.device.counters
        assert counters.slow_steps >= 1
        assert counters.slowest_step == "read region 0 +0x10"
        client.region_write(BAR0, 0x20, b"abcd")
        assert counters.slowest_step == "write region 0 +0x20"
        assert counters.slowest_step_ns >= 30_000_000
