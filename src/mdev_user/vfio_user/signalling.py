"""Adding one to a stranger's eventfd, without ever waiting for the stranger.

A write to an eventfd whose counter is full waits until somebody reads it, unless the eventfd is non-blocking, and that
is the stranger's to choose and to change at any moment; Linux takes no RWF_NOWAIT for it (EOPNOTSUPP), and an eventfd
cannot be opened a second time (ENXIO). What never waits is the kernel's own signal. Linux AIO gives one when an
operation ends (io_submit(2), IOCB_FLAG_RESFD), and reading no bytes of an eventfd ends at once, in EINVAL.
"""

import ctypes
import os
import platform
import select
from collections.abc import Callable
from contextlib import suppress
from threading import Lock

Signal = Callable[[], None]

_SYSTEM_CALLS = {"x86_64": (206, 209), "aarch64": (0, 2)}
"""io_setup and io_submit, by machine."""
_DEPTH = 8
_RESFD = 1


class _Iocb(ctypes.Structure):
    """``struct iocb`` of include/uapi/linux/aio_abi.h, little endian; the operation is IOCB_CMD_PREAD (0)."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_int32),
        ("operation", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("fd", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("resfd", ctypes.c_uint32),
    )


class _Ring(ctypes.Structure):
    """The head of the ring in which the kernel notes what has ended (fs/aio.c, struct aio_ring)."""

    _fields_ = tuple((name, ctypes.c_uint32) for name in ("id", "count", "head", "tail", "magic", "compatible"))


_RING_MAGIC = 0xA10A10A1


class Signaller:
    """A context of Linux AIO, for all eventfds of a process. OSError where there is none to be had."""

    def __init__(self) -> None:
        calls = _SYSTEM_CALLS.get(platform.machine())
        if calls is None:
            raise OSError(f"no numbers of system calls for {platform.machine()}")
        library = ctypes.CDLL(None, use_errno=True)
        context = ctypes.c_ulong(0)
        if library.syscall(calls[0], _DEPTH, ctypes.byref(context)):
            raise OSError(ctypes.get_errno(), "io_setup")
        self._ring = _Ring.from_address(context.value)
        if self._ring.magic != _RING_MAGIC:
            raise OSError("io_setup gave no ring")
        # It ends at once: to let go of the GIL meanwhile, or to keep errno, takes longer than the call.
        self._submit = ctypes.PYFUNCTYPE(ctypes.c_long, ctypes.c_long, ctypes.c_ulong, ctypes.c_long, ctypes.c_void_p)(
            ("syscall", ctypes.PyDLL(None))
        )
        self._number, self._context = calls[1], context.value
        self._lock = Lock()
        self._try()

    def signal_of(self, fd: int) -> Signal:
        """What adds one to ``fd``; to be called only while that is open."""
        request = _Iocb(fd=fd, flags=_RESFD, resfd=fd)
        requests = (ctypes.c_void_p * 1)(ctypes.addressof(request))
        at = ctypes.addressof(requests)
        submit, number, context, ring, lock = self._submit, self._number, self._context, self._ring, self._lock

        def signal(_kept: object = (request, requests)) -> None:
            with lock:
                submit(number, context, 1, at)
                ring.head = ring.tail  # nobody asks how it ended

        return signal

    def _try(self) -> None:
        """Linux before 5.8 cannot read an eventfd like that."""
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self.signal_of(fd)()
            os.eventfd_read(fd)
        finally:
            os.close(fd)


def _waiting_signal_of(fd: int) -> Signal:
    """Where there is no AIO. One who fills the counter between the two calls makes the caller wait."""
    room = select.poll()
    room.register(fd, select.POLLOUT)

    def signal() -> None:
        if room.poll(0):
            with suppress(BlockingIOError):
                os.eventfd_write(fd, 1)

    return signal


class _Signallers:
    """The one of this process; a fork has none of its parent's contexts."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._made: Signaller | None = None
        self._tried = False
        os.register_at_fork(after_in_child=self._forget)

    def signal_of(self, fd: int) -> Signal:
        with self._lock:
            if not self._tried:
                self._tried = True
                with suppress(OSError):
                    self._made = Signaller()
            made = self._made
        return _waiting_signal_of(fd) if made is None else made.signal_of(fd)

    def _forget(self) -> None:
        self._lock, self._made, self._tried = Lock(), None, False


signal_of = _Signallers().signal_of
"""What adds one to an eventfd and never waits; to be called only while that is open."""
