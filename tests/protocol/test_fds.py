"""File descriptors with every command, however many and however they arrive: none is kept, none is lost."""

import os
from collections.abc import Iterator
from errno import EINVAL

import pytest

from mdev_user.vfio_user.framing import Command, command_message
from protocol.messages import COMMANDS, PAYLOADS, VALID_READ, hello
from protocol.served import Served, Wire, open_fds

TAKING_ONE = {Command.DMA_MAP, Command.DEVICE_SET_IRQS}


@pytest.fixture
def fds() -> Iterator[list[int]]:
    """Files that are no memory and no eventfds."""
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
    yield fds
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize("count", [1, 2, 16, 17, 20])
@pytest.mark.parametrize("command", COMMANDS)
def test_fds_where_none_belong_are_closed_before_the_errno_is_sent(
    wire: Wire, fds: list[int], command: int, count: int
) -> None:
    before = open_fds()
    for payload in PAYLOADS[command]:
        answer = wire.ask(command, payload, fds[:count])
        assert answer.errno
        assert open_fds() == before
        assert wire.works()


def test_a_leak_would_be_seen(wire: Wire, fds: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the one line that closes refused fds does nothing."""
    leaked: list[int] = []
    monkeypatch.setattr("mdev_user.vfio_user.conversation.close_fds", leaked.extend)
    before = open_fds()
    assert wire.ask(Command.DEVICE_RESET, b"", fds[:3]).errno == EINVAL
    assert open_fds() == before + 3
    for fd in leaked:
        os.close(fd)


def test_fds_belong_to_the_last_message_that_starts_in_what_was_received(wire: Wire, served: Served) -> None:
    """Two messages in one send: the kernel cannot say whose fds they are, and we take them for the second's."""
    fd = os.eventfd(0)
    arm = command_message(2, Command.DEVICE_SET_IRQS, PAYLOADS[Command.DEVICE_SET_IRQS][0])
    wire.send(VALID_READ + arm, [fd])
    assert not wire.receive().errno
    assert not wire.receive().errno
    wire.send(arm + VALID_READ, [fd])
    assert not wire.receive().errno  # takes the vector away
    assert wire.receive().errno == EINVAL
    os.close(fd)
    assert wire.works()


@pytest.mark.parametrize("cut", range(1, 36))
def test_fds_are_their_messages_wherever_it_is_cut(wire: Wire, cut: int) -> None:
    arm = command_message(2, Command.DEVICE_SET_IRQS, PAYLOADS[Command.DEVICE_SET_IRQS][0])
    for first, second in ((True, False), (False, True)):
        before = open_fds()
        fd = os.eventfd(0)
        wire.send(arm[:cut], [fd] if first else [])
        wire.send(arm[cut:], [fd] if second else [])
        os.close(fd)
        assert not wire.receive().errno
        assert open_fds() in {before, before + 1}  # the first arms, the second replaces
    assert wire.works()


def test_a_message_that_collects_too_many_fds_ends_the_connection(wire: Wire, served: Served, fds: list[int]) -> None:
    before = open_fds()
    for byte, pair in zip(VALID_READ, (fds[i : i + 2] for i in range(0, 20, 2)), strict=False):
        try:
            wire.send(bytes([byte]), pair)
        except BrokenPipeError:
            break
    assert "more than 16 file descriptors" in served.ended()
    assert open_fds() == before - 1  # the server's end of the socket


def test_fds_of_a_message_that_never_ends_are_closed(wire: Wire, served: Served, fds: list[int]) -> None:
    before = open_fds()
    wire.send(VALID_READ[:20], fds[:5])
    wire.socket.close()
    served.ended()
    assert open_fds() == before - 2


def test_fds_behind_a_broken_frame_are_closed(wire: Wire, served: Served, fds: list[int]) -> None:
    before = open_fds()
    wire.send(bytes(16), fds[:5])
    assert served.ended()
    assert open_fds() == before - 1


def test_fds_of_messages_behind_a_broken_frame_are_closed(served: Served, fds: list[int]) -> None:
    wire = Wire(served.socket)
    before = open_fds()
    wire.send(VALID_READ + hello(), fds[:2])  # before VERSION: it is told so, and that was all
    assert served.ended()
    assert open_fds() == before - 1
