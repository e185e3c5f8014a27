"""Backend: what all mdevs of a parent share, made once for all of them, and the check that all mean the same."""

from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any, Generic, get_args, get_origin

from typing_extensions import TypeVar

from mdev_user.errors import DriverError

B = TypeVar("B", default=None)


class Backing(Generic[B]):
    """A parent's backend, from when it is first needed to when the parent is let go.

    The lock is held while the driver makes or ends it, so that nobody finds one that is half made.
    """

    def __init__(self, opens: Callable[[], B], closes: Callable[[B], None]) -> None:
        self._opens, self._closes = opens, closes
        self._lock = Lock()
        self._opened: list[B] = []
        """At most one."""

    def get(self) -> B:
        with self._lock:
            if not self._opened:
                self._opened.append(self._opens())
            return self._opened[0]

    def end(self) -> None:
        """Nothing when it is not open. What the driver raises leaves none behind."""
        with self._lock:
            if self._opened:
                self._closes(self._opened.pop())


def check_backends(parent: str, given: object, function: str, wanted: object, parts: Mapping[str, object]) -> None:
    """DriverError unless a parent makes what its function, and the function's parts, were promised in brackets."""
    if not _may_be(given, wanted):
        raise DriverError(
            f"{parent}: the backend of {function} is {_named(wanted)}, that of {parent} {_named(given)}: say the same "
            f"in the brackets of both, and define def open(self) -> {_named(wanted)}"
        )
    for part, own in parts.items():
        if own is not None and not _may_be(wanted, own):
            raise DriverError(
                f"{part}: its backend is {_named(own)}, and that of {function} {_named(wanted)}: they are one object"
            )


def backend_of(kind: type, root: type) -> object:
    """What stands for ``B`` where ``kind`` names its base ``root``: a class, None, or what only a checker can read."""
    *_profile, backend = _arguments(kind, root)
    return None if backend is type(None) else backend


def _arguments(kind: type, root: type) -> tuple[object, ...]:
    if kind is root:
        return tuple(kind.__parameters__)  # type: ignore[attr-defined]  # a generic class has them
    for base in vars(kind).get("__orig_bases__", kind.__bases__):
        origin = get_origin(base) or base
        if isinstance(origin, type) and issubclass(origin, root):
            given = dict(zip(getattr(origin, "__parameters__", ()), get_args(base), strict=False))
            return tuple(given.get(each, _default(each)) for each in _arguments(origin, root))
    raise DriverError(f"{kind.__name__}: expected a subclass of {root.__name__}")


def _default(argument: object) -> object:
    """Of a type parameter that was given nothing; everything else is what it is."""
    return None if argument is B else argument


def _may_be(given: object, wanted: object) -> bool:
    """Whether nothing is known against it: a checker knows more of types that are no classes."""
    # Any: a class to isinstance() in some versions of Python, and not in others
    if any((each is not None and not isinstance(each, type)) or each is Any for each in (given, wanted)):
        return True
    if given is None or wanted is None:
        return given is wanted
    return issubclass(given, wanted)  # type: ignore[arg-type]  # a class, by the line above


def _named(kind: object) -> str:
    return getattr(kind, "__name__", str(kind))
