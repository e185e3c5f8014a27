"""The host process: ``python -m mdev_user.host FD DEVICES LOG_LEVEL``, started by the front and by nobody else.

It lives as long as its end of the socket pair: when the front is gone, so is the host.
"""

import ctypes
import errno
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread

import msgspec

from mdev_user.errors import MdevUserError, errno_of, text_of
from mdev_user.host.log_limit import LogLimit
from mdev_user.host.service import Service
from mdev_user.host.wire import LARGEST, Answer, Packet

_log = logging.getLogger("mdev_user.host")

# Calls may wait (a remove of an mdev in use): a thread each, kept and used again, and no number that 30 of them reach.
_MOST_CALLS = 4096
_PR_SET_PDEATHSIG = 1
_LONGEST_MESSAGE = 8192
_SWITCH_INTERVAL = 0.0001
"""Seconds that a thread may compute before it lets another one that waits. Each access of a guest may wait twice for
that: with Python's own 5 ms p99 was 12 ms beside a neighbour that sends posted writes without end (0.5 ms: 1 to 3),
and with 0.5 ms it was 514 us beside one that draws, with this 225.
"""
_FAREWELL = 2.0
"""Seconds for disconnecting users and taking sockets away."""


class HostProcess:
    """Receives calls, does each in a thread of its own, and sends its answer."""

    def __init__(self, channel: socket.socket, service: Service) -> None:
        self._channel = channel
        self._service = service
        self._threads = ThreadPoolExecutor(_MOST_CALLS, thread_name_prefix="call")
        self._decoder = msgspec.msgpack.Decoder(Packet)
        self._checker = msgspec.msgpack.Decoder(Answer)
        self._encoder = msgspec.msgpack.Encoder()

    def run(self) -> None:
        """Until the front closes its end."""
        while packet := self._receive():
            self._threads.submit(self._answer, packet)

    def _receive(self) -> Packet | None:
        data, fds, _flags, _ = socket.recv_fds(self._channel, LARGEST, 1, socket.MSG_CMSG_CLOEXEC)
        if not data:
            return None
        packet = self._decoder.decode(data)
        for fd in fds:  # in the order of the calls: the probe that comes next finds it
            self._service.take(packet.call, fd)
        return packet

    def _answer(self, packet: Packet) -> None:
        try:
            for answer in self._answers(packet):
                self._channel.send(self._encode(answer))
        except OSError:  # the front is gone; run() sees it too
            _log.debug("an answer came too late")

    def _answers(self, packet: Packet) -> Iterator[Answer]:
        """One, or as many as what the service gave is in."""
        answer = self._do(packet)
        values = answer.value if isinstance(answer.value, list) else [answer.value]
        for value in values:
            yield msgspec.structs.replace(answer, value=value, more=value is not values[-1])

    def _encode(self, answer: Answer) -> bytes:
        """What a driver returned may be nothing that can travel; whoever waits for it is told so."""
        try:
            data = self._encoder.encode(answer)
            self._checker.decode(data)
        except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
            return self._refuse(answer, str(error))
        return data if len(data) <= LARGEST else self._refuse(answer, f"{len(data)} bytes, expected up to {LARGEST}")

    def _refuse(self, answer: Answer, reason: str) -> bytes:
        message = f"the driver's answer cannot be taken: {reason}"
        _log.error("%s", message)
        return self._encoder.encode(Answer(answer.number, errno=errno.EIO, message=message, kind="DriverError"))

    def _do(self, packet: Packet) -> Answer:
        try:
            value = self._service.do(packet.call)
        except BaseException as error:  # noqa: BLE001 - driver code: its error is the caller's answer, SystemExit too
            kind, ours = type(error).__name__, isinstance(error, MdevUserError | OSError)
            if not ours:
                _log.exception("%s failed", packet.call)
            message = text_of(error) if ours else f"the driver failed: {kind}: {error}"
            return Answer(packet.number, errno=errno_of(error), message=message[:_LONGEST_MESSAGE], kind=kind)
        return Answer(packet.number, value=value)  # type: ignore[arg-type]  # the encoder takes what the table gives


def _end_with_the_front() -> None:
    """The socket's end is what normally ends us; a driver that holds the GIL for ever needs the kernel's help."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main() -> None:
    fd, devices, level = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    _end_with_the_front()
    # Ctrl-C and the end of a terminal reach the whole process group; the front decides what happens then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # it was blocked until here
    logging.basicConfig(level=level, format="%(asctime)s %(levelname).1s host %(process)d: %(message)s")
    channel = socket.socket(fileno=fd)
    service = Service(devices)
    limit = LogLimit(lambda: service.endpoints.jobs.working_for)
    for handler in logging.getLogger().handlers:
        handler.addFilter(limit)
    # A full collection holds up every guest of this host; what is loaded by now will never be garbage (10 ms of it).
    gc.freeze()
    sys.setswitchinterval(_SWITCH_INTERVAL)
    HostProcess(channel, service).run()
    # Neither a driver that is stuck nor a thread of its own may keep a host alive that nobody talks to.
    ending = Thread(target=service.endpoints.stop, daemon=True)
    ending.start()
    ending.join(_FAREWELL)
    logging.shutdown()
    os._exit(0)


if __name__ == "__main__":
    main()
