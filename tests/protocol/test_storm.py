"""100,000 random and spoilt messages: the session survives or ends cleanly, and nothing is left of them."""

import fcntl
import gc
import os
import random
import socket
import threading
from collections.abc import Iterator

import pytest

from mdev_user.units import MiB
from protocol.device import TestDevice
from protocol.messages import any_message, broken_frame, hello
from protocol.migratable import Migratable
from protocol.served import Served, Wire, open_fds

MESSAGES = 100_000
PER_CONNECTION = 1000


@pytest.fixture
def files() -> Iterator[list[int]]:
    """Memory, sealed and not, eventfds, and what is neither."""
    sealed = os.memfd_create("ram", os.MFD_ALLOW_SEALING)
    os.ftruncate(sealed, MiB)
    fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    unsealed = os.memfd_create("ram")
    os.ftruncate(unsealed, MiB)
    files = [sealed, unsealed, os.eventfd(0), os.eventfd(0), *os.pipe(), os.open("/", os.O_RDONLY)]
    yield files
    for fd in files:
        os.close(fd)


def swallow(sock: socket.socket) -> None:
    """Read whatever comes until the end."""
    while True:
        try:
            data, ancillary, _flags, _ = sock.recvmsg(64 << 10, 1024)
        except ConnectionResetError:
            return
        for _level, _kind, numbers in ancillary:
            for at in range(0, len(numbers), 4):
                os.close(int.from_bytes(numbers[at : at + 4], "little"))
        if not data:
            return


def one_connection(chance: random.Random, files: list[int], messages: int) -> tuple[str, int]:
    """Send so many messages in pieces and glued; the last may break the frame.

    Returns why the session ended, and how many messages were an access or an error (others are not counted).
    """
    with Served(chance.choice([TestDevice, Migratable])()) as served:
        reader = threading.Thread(target=swallow, args=(served.socket,))
        reader.start()
        wire = Wire(served.socket)
        try:
            wire.send(hello())
            for _ in range(messages // 10):
                data = b"".join(any_message(chance) for _ in range(10))
                cut = chance.randrange(len(data))
                for part in (data[:cut], data[cut:]):
                    wire.send(part, chance.choices(files, k=chance.choice([0, 0, 1, 4])))
            if chance.random() < 0.5:
                wire.send(broken_frame(chance), chance.choices(files, k=chance.choice([0, 2])))
            served.socket.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass
        reason = served.ended()
        reader.join()
        assert not served.memory.mapped_files
    counters = served.device.counters
    return reason, counters.reads + counters.writes + counters.guest_errors


def storm(files: list[int], messages: int, seed: int) -> list[tuple[str, int]]:
    chance = random.Random(seed)
    return [one_connection(chance, files, PER_CONNECTION) for _ in range(messages // PER_CONNECTION)]


@pytest.mark.timeout(200)
def test_nothing_is_left_of_100_000_messages(files: list[int]) -> None:
    storm(files, 2 * PER_CONNECTION, seed=0)  # whatever is made once is made now
    gc.collect()
    fds, objects, threads = open_fds(), len(gc.get_objects()), threading.active_count()
    ends = storm(files, MESSAGES, seed=1)
    gc.collect()
    assert open_fds() == fds
    assert threading.active_count() == threads
    assert len(gc.get_objects()) < objects + 1000
    assert {reason.partition(":")[0] for reason, _ in ends} == {"the client went away", "the client broke the protocol"}
    assert sum(handled for _, handled in ends) > MESSAGES * 0.7


def test_what_a_storm_leaves_would_be_seen(files: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: fds of refused messages stay open."""
    leaked: list[int] = []
    monkeypatch.setattr("mdev_user.vfio_user.conversation.close_fds", leaked.extend)
    before = open_fds()
    storm(files, PER_CONNECTION, seed=1)
    assert open_fds() > before + 10
    for fd in leaked:
        os.close(fd)
