"""The host's poll thread: calls back when a listening socket or an eventfd becomes readable."""

import logging
import os
import select
from collections.abc import Callable
from threading import Thread

_log = logging.getLogger(__name__)


class PollThread:
    """Callbacks run in this one thread and must be quick."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._stop, select.EPOLLIN)
        self._thread = Thread(target=self._run, name="poll", daemon=True)
        self._thread.start()

    def add(self, fd: int, callback: Callable[[], None], events: int = select.EPOLLIN) -> None:
        self._callbacks[fd] = callback
        self._epoll.register(fd, events)

    def remove(self, fd: int) -> None:
        """To be called before the fd is closed. A callback that has begun may still be running."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def stop(self) -> None:
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        self._epoll.close()
        os.close(self._stop)

    def _run(self) -> None:
        while True:
            for fd, _events in self._epoll.poll():
                if fd == self._stop:
                    return
                self._call(fd)

    def _call(self, fd: int) -> None:
        callback = self._callbacks.get(fd)
        if callback is None:  # removed since the kernel reported it
            return
        try:
            callback()
        except Exception:  # noqa: BLE001 - one mdev's trouble must not stop the thread that serves all
            _log.exception("poll thread: a callback failed")
