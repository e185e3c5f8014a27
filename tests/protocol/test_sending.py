"""A client that does not read holds up nobody but its own session, which can be ended at any time."""

import os
import socket
import struct
import threading
import time
from collections.abc import Callable

import pytest

from mdev_user.units import KiB, MiB
from mdev_user.vfio_user.framing import Command, command_message, reply_message
from protocol.device import TestDevice
from protocol.served import PATIENCE, Served, Wire

READ = struct.pack("=QII", 0, 0, 4 * KiB)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.001)


def release(served: Served) -> bool:
    served.step_lock.release()
    return False


def stop_reading(wire: Wire, served: Served) -> int:
    """Ask for more than the socket holds, reading nothing. Returns how many requests were sent."""
    sent = 0
    while not served.session._outgoing.waiting:
        wire.send(command_message(1, Command.REGION_READ, READ))
        sent += 1
        until(lambda: served.device.counters.reads == sent)  # noqa: B023 - waited for at once
        with served.step_lock:  # the reply is sent, or waits
            pass
    return sent


def test_a_client_that_does_not_read_does_not_hold_the_step_lock(wire: Wire, served: Served) -> None:
    stop_reading(wire, served)
    for _ in range(100):
        assert served.step_lock.acquire(timeout=PATIENCE)
        served.step_lock.release()


def test_every_reply_arrives_whole_once_the_client_reads_again(wire: Wire, served: Served) -> None:
    assert isinstance(served.ops, TestDevice)
    served.ops.scratch[:] = pattern = os.urandom(4 * KiB)
    for _ in range(stop_reading(wire, served)):
        assert wire.receive().payload == READ + pattern
    assert wire.works()
    assert not served.session._outgoing.waiting


def test_a_session_whose_client_does_not_read_can_be_closed(wire: Wire, served: Served) -> None:
    stop_reading(wire, served)
    served.session.close("removed by force")
    assert served.ended() == "removed by force"


def test_an_idle_session_can_be_closed_from_a_step_and_from_outside(wire: Wire, served: Served) -> None:
    with served.step_lock:
        served.session.close("removed by force")
        served.session.close("closed again")
    assert served.ended() == "removed by force"
    assert wire.closed()
    served.session.close("after the end")
    assert served.session.hung_up()


def test_a_session_closed_before_it_runs_ends_at_once() -> None:
    with Served() as served:
        served.session.close("too early")
        assert served.ended() == "too early"


def test_a_client_that_goes_while_it_is_sent_to_is_the_end(wire: Wire, served: Served) -> None:
    stop_reading(wire, served)
    wire.socket.close()
    assert served.ended()


def test_a_client_that_has_closed_its_sending_side_gets_what_it_asked_for(wire: Wire, served: Served) -> None:
    asked = stop_reading(wire, served)
    wire.socket.shutdown(socket.SHUT_WR)
    assert all(not wire.receive().errno for _ in range(asked))
    assert served.ended() == "the client went away"


def test_a_client_that_has_closed_its_sending_side_and_does_not_read_is_not_waited_for(
    wire: Wire, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mdev_user.vfio_user.server._FAREWELL", 0.05)
    stop_reading(wire, served)
    wire.socket.shutdown(socket.SHUT_WR)
    assert served.ended() == "the client went away"


def test_a_jobs_message_that_does_not_fit_is_sent_in_the_background(wire: Wire, served: Served) -> None:
    """The thread of a job must not wait for a client; the session's thread sits in its receive meanwhile."""
    data = os.urandom(MiB)
    done: list[object] = []
    with served.step_lock:
        served.session.send_dma_write(0x1000, data, done.append)
    assert served.session._outgoing.waiting
    request = wire.receive()
    assert request.payload[16:] == data
    wire.send(reply_message(request.header.id, Command.DMA_WRITE, request.payload[:16]))
    until(lambda: done)
    assert done == [b""]
    assert wire.works()


def test_messages_of_jobs_and_replies_do_not_mix(served: Served) -> None:
    """The job's message is half sent when the reply to a request comes to be sent."""
    wire = Wire(served.socket)
    wire.hello()
    data = os.urandom(MiB)
    done: list[object] = []
    with served.step_lock:
        served.session.send_dma_write(0x1000, data, done.append)
        served.session.send_dma_write(0x2000, data, done.append)
    for _ in range(5):
        wire.send(command_message(9, Command.REGION_READ, struct.pack("=QII", 0x10, 7, 4)))
        wire.send(command_message(10, Command.DEVICE_RESET))
    kinds = []
    for _ in range(12):
        message = wire.receive()
        kinds.append(message.header.command)
        if message.header.command == Command.DMA_WRITE:
            assert message.payload[16:] == data
            wire.send(reply_message(message.header.id, Command.DMA_WRITE, message.payload[:16]))
    assert sorted(kinds) == sorted([Command.DMA_WRITE] * 2 + [Command.REGION_READ, Command.DEVICE_RESET] * 5)
    until(lambda: len(done) == 2)
    assert wire.works()


def test_a_session_with_a_message_under_way_in_the_background_can_be_closed(wire: Wire, served: Served) -> None:
    done: list[object] = []
    with served.step_lock:
        served.session.send_dma_write(0x1000, bytes(MiB), done.append)
    served.session.close("removed by force")
    assert served.ended() == "removed by force"
    assert isinstance(done[0], OSError | Exception)
    assert not [thread for thread in threading.enumerate() if thread.name == "vfio-user-send"]


def test_a_fd_travels_with_a_reply_that_had_to_wait(wire: Wire, served: Served) -> None:
    asked = stop_reading(wire, served)
    wire.send(command_message(2, Command.DEVICE_GET_REGION_INFO, struct.pack("=IIIIQQ", 32, 0, 4, 0, 0, 0)))
    for _ in range(asked):
        assert not wire.receive().fds
    (fd,) = wire.receive().fds
    os.close(fd)
    assert wire.works()


def test_a_blocking_send_under_the_lock_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: without MSG_DONTWAIT the session holds its step lock while the client does not read."""
    monkeypatch.setattr("mdev_user.vfio_user.outgoing._DONT_WAIT", 0)
    with Served() as served:
        wire = Wire(served.socket)
        wire.hello()
        message = command_message(1, Command.REGION_READ, READ)
        sender = threading.Thread(target=lambda: wire.send(message * 2000))
        sender.start()
        until(lambda: not served.step_lock.acquire(timeout=0.2) or release(served))
        for _ in range(2000):
            wire.receive()
        sender.join()
