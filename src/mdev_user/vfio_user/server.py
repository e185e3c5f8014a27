"""The server's side of one vfio-user connection: a session serves one open device to one client, in one thread.

The host accepts, opens the device, runs the session and closes the device. What a client asks for is the matter of
`Conversation`; `outgoing` tells what becomes of a client that does not read. Region accesses, which guests wait for,
have a loop of their own (`access_loop`).
"""

import logging
import select
import socket
from contextlib import suppress
from threading import Lock

from mdev_user.errors import PeerError
from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.step_lock import StepLock
from mdev_user.vfio_user import farewell
from mdev_user.vfio_user.access_loop import Line, Received
from mdev_user.vfio_user.conversation import Conversation
from mdev_user.vfio_user.eventfd import Eventfds, Watcher
from mdev_user.vfio_user.guest_memory import GuestMemory
from mdev_user.vfio_user.loops import loop_of
from mdev_user.vfio_user.message_dma import Done, Wanted, still
from mdev_user.vfio_user.outgoing import Outgoing
from mdev_user.vfio_user.steps import DriverFailed, driver_failed
from mdev_user.vfio_user.transport import ANCILLARY_SIZE, RECEIVE_FLAGS, credentials_of, received_fds
from mdev_user.vfio_user.traps import Traps

_BUFFER_SIZE = 64 << 10
"""Bytes of one receive; a longer message takes several."""
_FAREWELL = 1.0
"""Seconds in which a client that has closed its sending side reads what it asked for."""

_log = logging.getLogger(__name__)


class Session:
    """One client's use of a device. ``reason`` tells why it ended and is empty until then."""

    def __init__(
        self,
        sock: socket.socket,
        device: VfioDevice,
        step_lock: StepLock,
        memory: GuestMemory,
        watcher: Watcher,
        busy_poll: int = 0,
    ) -> None:
        """Owns ``sock`` (blocking, no timeout) from here on: it is closed when `run` returns.

        ``busy_poll`` is for how many nanoseconds a message is looked for before the thread sleeps until there is one.
        """
        self.reason = ""
        self._socket = sock
        self._socket_lock = Lock()
        self._buffer = bytearray(_BUFFER_SIZE)
        self._outgoing = Outgoing(sock, step_lock)
        eventfds = Eventfds(watcher, self.fail, memory.share)
        traps = Traps(credentials_of(sock)[1])
        self._conversation = Conversation(device, step_lock, memory, eventfds, self._outgoing, traps)
        self.connection = self._conversation.connection
        line = Line(sock, self._outgoing, self._buffer, busy_poll, traps)
        self._loop = loop_of(line, self._conversation.accesses, step_lock, device.plain)

    @property
    def largest_unshared(self) -> int:
        """Bytes of the largest DMA mapping without a file. Over a few MiB: the guest's RAM is not shared with us."""
        return self._conversation.requests.largest_unshared

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

    def send_dma_read(self, iova: int, length: int, done: Done, wanted: Wanted = still) -> None:
        """Read guest memory by messages, under the step lock; ``done`` is called as a step. EFAULT at once if gone."""
        self._conversation.dma.read(iova, length, done, wanted)

    def send_dma_write(self, iova: int, data: bytes, done: Done, wanted: Wanted = still) -> None:
        """Write guest memory by messages, under the step lock; ``done`` is called as a step. EFAULT at once if gone."""
        self._conversation.dma.write(iova, data, done, wanted)

    def _serve(self) -> None:
        view = memoryview(self._buffer)
        while True:
            if self._outgoing.waiting:
                self._outgoing.drain()
            size, ancillary, flags = self._receive()
            if not size:
                midway = self.connection.midway
                self._because("the client went away in the middle of a message" if midway else "the client went away")
                self._outgoing.finish(_FAREWELL)
                return
            self.connection.receive(view[:size], received_fds(ancillary, flags))
            while self._conversation.handle_next():
                pass

    def _receive(self) -> Received:
        if self._loop is not None and self.connection.idle:
            return self._loop.serve()
        return self._socket.recvmsg_into([self._buffer], ANCILLARY_SIZE, RECEIVE_FLAGS)[:3]

    def _because(self, reason: str) -> None:
        if not self.reason:
            self.reason = reason

    def _hang_up(self) -> None:
        # The lock keeps a socket that another thread has just closed from being somebody else's by now.
        with self._socket_lock, suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _end(self) -> None:
        self._hang_up()
        self._conversation.end()
        self._outgoing.end()
        with self._socket_lock:
            farewell.close(self._socket)
