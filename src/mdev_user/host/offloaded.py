"""The program of a process that computes for a host: ``python -m mdev_user.host.offloaded FD``."""

import ctypes
import pickle  # noqa: TID251 - between two processes of ours; what a guest chose is data in it
import signal
import sys
import traceback
from multiprocessing.connection import Connection

from mdev_user.errors import DriverError
from mdev_user.host.loader import import_again

_PR_SET_PDEATHSIG = 1


def main() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the front's to decide about
    connection = Connection(int(sys.argv[1]))
    while True:
        try:
            request = connection.recv_bytes()
        except (EOFError, ConnectionError):  # the host is gone
            return
        connection.send_bytes(answer(request))


def answer(request: bytes) -> bytes:
    """What the call that a host asks for gives, or raises."""
    try:
        module, source, call = pickle.loads(request)  # noqa: S301 - as above
        import_again(module, source)
        function, arguments, keywords = pickle.loads(call)  # noqa: S301 - as above
        value = function(*arguments, **keywords)
    except BaseException as error:  # noqa: BLE001 - driver code: SystemExit too
        return _failed(error)
    try:
        return pickle.dumps((True, value))
    except Exception as error:  # noqa: BLE001 - whatever the value's own code raises
        return _failed(DriverError(f"its answer cannot be sent back: {error}"))


def _failed(error: BaseException) -> bytes:
    """The exception itself if it can travel: some classes of exceptions cannot be made from their own arguments."""
    told = DriverError(f"{type(error).__name__}: {error}")
    for each in (error, told):
        each.add_note(f"in another process:\n{traceback.format_exc()}")
    try:
        data = pickle.dumps((False, error))
        if isinstance(pickle.loads(data)[1], Exception):  # noqa: S301 - as above
            return data
    except Exception:  # noqa: BLE001, S110 - then it is told in words
        pass
    return pickle.dumps((False, told))


if __name__ == "__main__":
    main()
