"""Which loop answers accesses: the native one where it was built, else the one in Python.

A device's step lock and its table of plain registers are of the loop's own kind. ``MDEV_USER_LOOP``, ``native`` or
``python``, asks for one of the two.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from mdev_user.errors import InvalidValue
from mdev_user.vfio.plain import PlainTable
from mdev_user.vfio.step_lock import StepLock
from mdev_user.vfio_user import plain_table
from mdev_user.vfio_user.access_loop import AccessLoop, Line, PythonLoop
from mdev_user.vfio_user.accesses import Accesses
from mdev_user.vfio_user.token_lock import TokenLock

CHOICE = "MDEV_USER_LOOP"
"""The environment variable."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of loop."""

    name: str
    reason: str
    """Why this one, for people."""
    new: Callable[[], tuple[StepLock, PlainTable]]
    """The step lock of a device, and its table of plain registers."""


def chosen() -> Kind:
    """The kind for new devices. EINVAL when the environment asks for what is not there."""
    name, reason = choose(os.environ.get(CHOICE, ""), why_not_native())
    return Kind(name, reason, _new_native if name == "native" else _new_python)


def choose(wanted: str, absent: str) -> tuple[str, str]:
    """The name of a kind, and why this one; ``absent`` tells why the native one is not there, if it is not."""
    if wanted not in {"", "native", "python"}:
        raise InvalidValue(f"{CHOICE}: expected native or python, given {wanted!r}")
    if wanted == "native" and absent:
        raise InvalidValue(f"{CHOICE}=native: {absent}")
    if wanted:
        return wanted, f"{CHOICE} asks for it"
    return ("python", absent) if absent else ("native", "it is built")


@cache
def why_not_native() -> str:
    """Empty when the native loop is there."""
    try:
        import mdev_user.vfio_user._native  # noqa: F401, PLC0415 - it may be absent
    except ModuleNotFoundError:
        return "the native loop is not built"
    except ImportError as error:
        return f"the native loop cannot be loaded ({error})"
    return ""


def loop_of(line: Line, accesses: Accesses, lock: StepLock, table: PlainTable) -> AccessLoop | None:
    """The loop of a session of a device that has this lock and this table; None unless both are of one kind."""
    if isinstance(table, plain_table.PlainTable) and isinstance(lock, TokenLock):
        return PythonLoop(line, accesses, lock, table)
    if not why_not_native():
        from mdev_user.vfio_user import _native, native_loop  # noqa: PLC0415 - as above

        if isinstance(table, _native.PlainTable) and table.lock is lock:
            return native_loop.NativeLoop(line, accesses, table)
    return None


def _new_python() -> tuple[StepLock, PlainTable]:
    return TokenLock(), plain_table.PlainTable()


def _new_native() -> tuple[StepLock, PlainTable]:
    from mdev_user.vfio_user import _native  # noqa: PLC0415 - as above

    lock = _native.StepLock()
    return lock, _native.PlainTable(lock)
