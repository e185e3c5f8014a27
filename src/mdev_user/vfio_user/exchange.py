"""One message at a time, in the caller's thread: what a conformance harness or a fuzzer drives.

The same `Conversation` as a session's, without its socket: bytes and file descriptors in, messages out.
"""

from collections import deque
from collections.abc import Sequence

from mdev_user.vfio.device import VfioDevice
from mdev_user.vfio.step_lock import StepLock
from mdev_user.vfio_user.connection import Fds
from mdev_user.vfio_user.conversation import Conversation
from mdev_user.vfio_user.eventfd import Eventfds, Watcher
from mdev_user.vfio_user.guest_memory import GuestMemory
from mdev_user.vfio_user.message_dma import Done, Wanted, still
from mdev_user.vfio_user.token_lock import TokenLock
from mdev_user.vfio_user.traps import Traps

Message = tuple[bytes, tuple[int, ...]]
"""One message of the server's, and the fds that travel with it; they stay the device's."""


class Exchange:
    """One client's use of an open device, whose steps its calls are. ``failures`` are bugs in steps of other threads.

    ```python
    exchange = Exchange(device, watcher)
    ((reply, fds),) = exchange.process(message)
    ```
    """

    def __init__(
        self,
        device: VfioDevice,
        watcher: Watcher,
        memory: GuestMemory | None = None,
        step_lock: StepLock | None = None,
    ) -> None:
        """A ``step_lock`` is needed where others have steps of the device too; nobody may hold it in a call."""
        self.failures: list[tuple[Exception, str]] = []
        self._sent = _Collected()
        eventfds = Eventfds(watcher, self._failed)
        lock = TokenLock() if step_lock is None else step_lock
        self._conversation = Conversation(device, lock, memory or GuestMemory(), eventfds, self._sent, Traps())

    @property
    def midway(self) -> bool:
        """Part of a message has been given."""
        return self._conversation.connection.midway

    def process(self, data: bytes, fds: Sequence[int] = ()) -> list[Message]:
        """Handle the messages that ``data`` completes, as a rule one, and return what the server sent.

        ``fds`` came with ``data`` and are its own from here on. PeerError or DriverFailed when a connection would end:
        then only `close` is left.
        """
        self._conversation.connection.receive(data, Fds(tuple(fds)))
        while self._conversation.handle_next():
            pass
        return self.take_sent()

    def take_sent(self) -> list[Message]:
        """What was sent since: messages for DMA that jobs have asked for."""
        return self._sent.take()

    def send_dma_read(self, iova: int, length: int, done: Done, wanted: Wanted = still) -> None:
        """As `Session.send_dma_read`, for the device's jobs."""
        self._conversation.dma.read(iova, length, done, wanted)

    def send_dma_write(self, iova: int, data: bytes, done: Done, wanted: Wanted = still) -> None:
        """As `Session.send_dma_write`, for the device's jobs."""
        self._conversation.dma.write(iova, data, done, wanted)

    def close(self) -> None:
        """The client is gone: its eventfds and fds are closed. The device stays open; its mappings are its own."""
        self._conversation.end()

    def _failed(self, error: Exception, step: str) -> None:
        self.failures.append((error, step))


class _Collected:
    """A `Sender` that keeps what is sent."""

    waiting: tuple[()] = ()

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()

    def send(self, message: bytes) -> None:
        self._messages.append((message, ()))

    def send_with(self, message: bytes, fds: tuple[int, ...]) -> None:
        self._messages.append((message, fds))

    def drain(self) -> None:
        """Nothing ever waits."""

    def drain_in_background(self) -> None:
        """Nothing ever waits."""

    def take(self) -> list[Message]:
        messages, self._messages = list(self._messages), deque()
        return messages
