"""The server's side of one vfio-user connection: a session serves one open device to one client, in one thread.

The host accepts, opens the device, runs the session and closes the device. Everything a client asks for is a step of
its device, under the step lock, and so is sending the reply; `outgoing` tells what becomes of a client that does not
read. Region accesses, which guests wait for, go through `accesses`, all else through `Connection`.
"""

import logging
import select
import socket
from contextlib import suppress
from threading import Lock
from time import perf_counter_ns

from mdev_user.errors import DmaFault, PeerError
from mdev_user.vfio.counters import SLOW_STEP_NS
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio_user.accesses import Accesses, Received
from mdev_user.vfio_user.commands import Role
from mdev_user.vfio_user.connection import Answered, Asked, Connection, Event, Negotiated, Refused
from mdev_user.vfio_user.device_requests import DeviceRequests
from mdev_user.vfio_user.eventfd import Eventfds, Watcher
from mdev_user.vfio_user.framing import Command, reply_message
from mdev_user.vfio_user.guest_memory import GuestMemory
from mdev_user.vfio_user.message_dma import Done, MessageDma
from mdev_user.vfio_user.messages import RegionRead, RegionWrite
from mdev_user.vfio_user.outgoing import Outgoing
from mdev_user.vfio_user.steps import DriverFailed, driver_failed, refused
from mdev_user.vfio_user.transport import ANCILLARY_SIZE, RECEIVE_FLAGS, close_fds, received_fds

_BUFFER_SIZE = 64 << 10
"""Bytes of one receive; a longer message takes several."""

Reply = tuple[bytes, tuple[int, ...]]
"""A message, empty for none, and the fds that travel with it."""

_log = logging.getLogger(__name__)


class Session:
    """One client's use of a device. ``reason`` tells why it ended and is empty until then."""

    def __init__(
        self,
        sock: socket.socket,
        device: VfioDevice,
        step_lock: Lock,
        memory: GuestMemory,
        watcher: Watcher,
    ) -> None:
        """Owns ``sock`` (blocking, no timeout) from here on: it is closed when `run` returns."""
        self.reason = ""
        self.connection = Connection(Role.SERVER)
        self._device = device
        self._socket = sock
        self._socket_lock = Lock()
        self._step_lock = step_lock
        self._buffer = bytearray(_BUFFER_SIZE)
        self._outgoing = Outgoing(sock, step_lock)
        self._accesses = Accesses(device, step_lock, self._outgoing)
        self._dma = MessageDma(self.connection, self._send_of_job)
        self._eventfds = Eventfds(watcher, self.fail)
        self._requests = DeviceRequests(device, memory, self._eventfds)

    @property
    def largest_unshared(self) -> int:
        """Bytes of the largest DMA mapping without a file. Over a few MiB: the guest's RAM is not shared with us."""
        return self._requests.largest_unshared

    def run(self) -> None:
        """Serve, in this thread, until the client goes or breaks the protocol, the driver fails, or `close`."""
        try:
            self._serve()
        except PeerError as error:
            self._because(f"the client broke the protocol: {error}")
        except DriverFailed as error:
            self._because(str(error))
        except OSError as error:
            self._because(f"the connection broke: {error}")
        except Exception as error:  # noqa: BLE001 - our own bug must not reach the host either
            _log.exception("a vfio-user session failed; only its mdev's connection ends")
            self._because(f"internal error: {error!r}")
        finally:
            self._end()

    def close(self, reason: str = "closed by the server") -> None:
        """End the session at once, from any thread, with or without the step lock."""
        self._because(reason)
        self._hang_up()

    def fail(self, error: Exception, step: str) -> None:
        """A step that is not this session's thread's (a job, say) raised a bug of the driver: the session ends."""
        self.close(f"{driver_failed(error)} (in {step})")

    def hung_up(self) -> bool:
        """Whether the client has closed its end, which the session's thread may have yet to see."""
        with self._socket_lock:
            if self._socket.fileno() < 0:
                return True
            poll = select.poll()
            poll.register(self._socket, select.POLLRDHUP)
            return bool(poll.poll(0))

    def send_dma_read(self, iova: int, length: int, done: Done) -> None:
        """Read guest memory by messages, under the step lock; ``done`` is called as a step. EFAULT at once if gone."""
        self._dma.read(iova, length, done)

    def send_dma_write(self, iova: int, data: bytes, done: Done) -> None:
        """Write guest memory by messages, under the step lock; ``done`` is called as a step. EFAULT at once if gone."""
        self._dma.write(iova, data, done)

    def _serve(self) -> None:
        view = memoryview(self._buffer)
        while True:
            size, ancillary, flags = self._receive()
            if not size:
                midway = self.connection.midway
                self._because("the client went away in the middle of a message" if midway else "the client went away")
                return
            self.connection.receive(view[:size], received_fds(ancillary, flags))
            while self._handle_next():
                pass

    def _receive(self) -> Received:
        if self.connection.idle:
            return self._accesses.serve(self._socket, self._buffer)
        return self._socket.recvmsg_into([self._buffer], ANCILLARY_SIZE, RECEIVE_FLAGS)[:3]

    def _handle_next(self) -> bool:
        with self._step_lock:
            event = self.connection.next_event()
            if event is None:
                return False
            try:
                reply, fds = self._reply_to(event)
            finally:
                close_fds(event.fds.take())
            if fds:
                self._outgoing.send_with(reply, fds)
            elif reply:
                self._outgoing.send(reply)
        if self._outgoing.waiting:
            self._outgoing.drain()
        return True

    def _reply_to(self, event: Event) -> Reply:
        match event:
            case Asked():
                reply, fds = self._asked(event)
                return (b"", ()) if event.no_reply else (reply, fds)
            case Answered():
                self._answered(event)
                return b"", ()
            case Negotiated():
                return event.reply, ()
            case Refused():
                self._device.counters.guest_error(event.error)
                return event.reply, ()

    def _asked(self, event: Asked) -> Reply:
        match event.request:
            case RegionRead(offset, region, count):
                return self._accesses.read(event.id, offset, region, count), ()
            case RegionWrite(offset, region, data):
                return self._accesses.write(event.id, offset, region, data), ()
            case _:
                return self._perform(event)

    def _perform(self, event: Asked) -> Reply:
        started = perf_counter_ns()
        fds: tuple[int, ...] = ()
        try:
            payload, fds = self._requests.perform(event.request, event.fds)
            reply = reply_message(event.id, event.command, payload)
        except Exception as error:  # noqa: BLE001 - refused() raises on what is not the guest's fault
            reply = refused(self._device.counters, event.id, event.command, error)
        elapsed = perf_counter_ns() - started
        if elapsed > SLOW_STEP_NS:
            self._device.counters.slow_step(Command(event.command).name.lower().replace("_", " "), elapsed)
        return reply, fds

    def _answered(self, event: Answered) -> None:
        try:
            self._dma.answered(event)
        except Exception as error:
            raise driver_failed(error) from error

    def _send_of_job(self, message: bytes) -> None:
        self._outgoing.send(message)
        if self._outgoing.waiting:
            self._outgoing.drain_in_background()

    def _because(self, reason: str) -> None:
        if not self.reason:
            self.reason = reason

    def _hang_up(self) -> None:
        # The lock keeps a socket that another thread has just closed from being somebody else's by now.
        with self._socket_lock, suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _end(self) -> None:
        self._hang_up()
        with self._step_lock:
            waiting = self._dma.end()
            self._eventfds.close_all()
        self._outgoing.end()
        for done in waiting:
            self._tell_gone(done)
        close_fds(self.connection.take_fds())
        with self._socket_lock:
            self._socket.close()

    def _tell_gone(self, done: Done) -> None:
        with self._step_lock:
            try:
                done(DmaFault("the client went away before it answered"))
            except Exception as error:  # noqa: BLE001 - the session is over: there is only the log to tell
                driver_failed(error)
