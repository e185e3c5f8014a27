"""The tree in the file system: libfuse in a thread of this process, from `mount` to `unmount`.

mfusepy is imported here and nowhere else, and late: importing it fails where libfuse is absent.
"""

import ctypes
import ctypes.util
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

from mdev_user.errors import MountError
from mdev_user.sysfs import mountpoint as place
from mdev_user.sysfs.operations import Operations
from mdev_user.sysfs.tree import Tree

_log = logging.getLogger(__name__)
_DEVICE = Path("/dev/fuse")
_FUSE_CONF = Path("/etc/fuse.conf")
_STATUS = Path("/proc/self/status")
_CAP_SYS_ADMIN = 21  # capabilities(7)
_CONTAINER = f"in a container give --cap-add SYS_ADMIN --device {_DEVICE}"
_MOUNT_REFUSED = 4
"""What libfuse's main loop returns when mount(2) or fusermount3 failed (fuse_main(3)); the errno is on stderr only."""
_READY_SECONDS = 10.0
_END_SECONDS = 1.0
"""libfuse waits for requests in progress, which may be removes that wait for a user; the process need not."""
_THREADS = 1000
"""Each remove of an mdev in use holds one. libfuse's own limit is 10, and then the whole tree stands still.

A thread that was needed stays (see `_ThreadState`); there are as many as there ever were requests at once.
"""
_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


class Mount:
    """A tree and the place where it is mounted. As root everybody may see it, as sysfs; otherwise only its user.

    ``max_threads`` is how many requests can be in progress at once (libfuse >= 3.12; older ones have no limit).
    """

    def __init__(self, tree: Tree, mountpoint: Path, max_threads: int = _THREADS) -> None:
        self._tree = tree
        self._mountpoint = mountpoint.absolute()
        self._max_threads = max_threads
        self._ready = Event()
        self._thread: Thread | None = None
        self._failure: BaseException | None = None

    def mount(self) -> None:
        """Mount and return when the tree answers. MountError says what is missing and how to get it."""
        check_preconditions(allow_other=_is_root())
        place.detach_stale(self._mountpoint)
        self._mountpoint.mkdir(parents=True, exist_ok=True)
        self._ready.clear()
        self._thread = Thread(target=self._serve, name="sysfs", daemon=True)
        with _undisturbed():
            self._thread.start()
            answered = self._ready.wait(_READY_SECONDS)
        if not answered or self._failure is not None:
            self.unmount()
            raise MountError(f"cannot mount the sysfs tree on {self._mountpoint}: {_told(self._failure)}")
        _log.info("the sysfs tree is mounted on %s", self._mountpoint)

    def unmount(self) -> None:
        """Take the tree away; requests in progress end in ENOTCONN or ECONNABORTED. Nothing if not mounted."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        if thread.is_alive():
            place.detach(self._mountpoint)
        thread.join(_END_SECONDS)

    def _serve(self) -> None:
        try:
            _run(self._tree, self._mountpoint, self._max_threads, self._ready)
        except BaseException as error:  # noqa: BLE001 - the mounting thread reports it
            self._failure = error
            _log.debug("libfuse ended", exc_info=True)
        finally:
            self._ready.set()


def check_preconditions(*, allow_other: bool) -> None:
    """What libfuse would only answer with a number: MountError with the cure."""
    if not _DEVICE.exists():
        raise MountError(f"{_DEVICE} is absent: modprobe fuse, or give the container --device {_DEVICE}")
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        raise MountError(f"{_DEVICE} may not be opened by uid {os.geteuid()}: chmod 0666 {_DEVICE}, as usual")
    if ctypes.util.find_library("fuse3") is None:
        raise MountError("libfuse 3 is absent: apt install libfuse3-3 (libfuse3-4 on Debian 13)")
    if _is_root():
        _check_capability()
        return
    if shutil.which("fusermount3") is None:
        raise MountError("fusermount3 is absent, which mounts for an ordinary user: apt install fuse3")
    if allow_other and "user_allow_other" not in _FUSE_CONF.read_text().split("\n"):
        raise MountError(f"other users may not see the tree: add the line user_allow_other to {_FUSE_CONF}")


def _check_capability() -> None:
    """Root in a container has none, and mounts nothing."""
    lines = _STATUS.read_text().split("\n")
    effective = next(int(each.split()[1], 16) for each in lines if each.startswith("CapEff:"))
    if not effective >> _CAP_SYS_ADMIN & 1:
        raise MountError(f"root without CAP_SYS_ADMIN may not mount: {_CONTAINER}")


def _told(failure: BaseException | None) -> str:
    if failure is None:
        return "no answer"
    if failure.args == (_MOUNT_REFUSED,):
        return f"mount(2) was refused, libfuse said on stderr why; {_CONTAINER}, and let its security profile mount"
    if isinstance(failure, RuntimeError):  # as mfusepy says it: a number
        return f"libfuse ended with {failure}, and said on stderr why"
    return str(failure)


class _ThreadState(threading.local):
    """Keeps Python's state of a thread that libfuse made, for as long as the thread lives.

    Python would make one for each request and destroy it afterwards, which costs as much as the request. It is kept
    by one PyGILState_Ensure without its Release, made here: once in each thread, on its first access to `kept`.
    """

    kept = True

    def __init__(self) -> None:
        ctypes.pythonapi.PyGILState_Ensure()


class _Session:
    """One use of libfuse, as `Operations` sees it."""

    def __init__(self, begin: Callable[[], None], open_hints: Sequence[str], caller: Callable[[], int]) -> None:
        self.begin = begin
        self.caller = caller
        self.open_hints = open_hints
        self._threads = _ThreadState()

    def keep_thread(self) -> bool:
        return self._threads.kept


def preload() -> None:
    """Load libfuse into a process that will be forked, and do nothing else; where it is absent `Mount` says so."""
    with suppress(OSError, ImportError, AttributeError):
        os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")
        import mfusepy  # noqa: F401, PLC0415 - fails where libfuse is absent


def _run(tree: Tree, mountpoint: Path, max_threads: int, ready: Event) -> None:
    os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")  # where both are installed mfusepy would take libfuse 2
    import mfusepy  # noqa: PLC0415 - fails where libfuse is absent

    # It logs every errno that is answered with its traceback at DEBUG.
    logging.getLogger("fuse").setLevel(logging.WARNING)
    version = (mfusepy.fuse_version_major, mfusepy.fuse_version_minor)
    if version < (3, 0):
        raise MountError(f"libfuse {version} was loaded, expected 3: unset FUSE_LIBRARY_PATH and FUSE_LIBRARY_NAME")
    # Two writes to one file would wait for each other; mfusepy knows the bit's place from 3.15 on.
    hints = ["direct_io", "parallel_direct_writes"] if version >= (3, 15) else ["direct_io"]
    now = mfusepy.c_timespec(*divmod(time.time_ns(), 10**9))
    times = {"st_atimespec": now, "st_mtimespec": now, "st_ctimespec": now}
    options: dict[str, str | int] = {"fsname": place.SUBTYPE, "subtype": place.SUBTYPE, "default_permissions": True}
    options |= {"max_threads": max_threads} if version >= (3, 12) else {}
    options |= {"allow_other": True} if _is_root() else {}
    operations = Operations(tree, times, _Session(ready.set, hints, lambda: mfusepy.fuse_get_context()[0]))
    mfusepy.FUSE(operations, str(mountpoint), raw_fi=True, foreground=True, max_idle_threads=_THREADS, **options)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Libfuse changes to / and takes signals that have no handler: put both back once it has begun to serve."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    here = os.open(".", os.O_PATH | os.O_DIRECTORY)
    try:
        yield
    finally:
        os.fchdir(here)
        os.close(here)
        if threading.current_thread() is threading.main_thread():
            for number, disposition in before.items():
                signal.signal(number, disposition or signal.SIG_DFL)


def _is_root() -> bool:
    return os.geteuid() == 0
