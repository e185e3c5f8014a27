"""Program: the class of which a process of an mdev's own has one object."""

from collections.abc import Callable
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

from mdev_user.errors import DriverError, GuestError

T = TypeVar("T")


class Piece(NamedTuple):
    """Some bytes of the guest's memory as this process has mapped them. Another of its threads may change them."""

    pointer: int
    """Their address in this process, for C."""
    view: memoryview


class MappedMemory(Protocol):
    """The guest's memory in a process of its mdev's."""

    def pieces(self, address: int, length: int, *, write: bool = False) -> list[Piece]:
        """``length`` bytes at ``address``, in order, as they lie in the mappings that the guest's VMM has made.

        They are valid until `Program.unmapped` is called for some of them: what touches them later is killed. DmaFault
        where nothing is mapped, or not for writing, and where the VMM has not shared the memory as a file.
        """


class Surroundings(Protocol):
    """What a program is run by: a process of a host, or a test."""

    memory: MappedMemory
    buffer: memoryview

    def watch(self, fd: int, ready: Callable[[], None]) -> None: ...

    def unwatch(self, fd: int) -> None: ...

    def after(self, seconds: float, call: Callable[[], None]) -> None: ...


class Program:
    """Subclass it at the top of a module: an object of the class is made in the process, and its methods are called.

    They are called one after the other, in the process' main thread. What they take can be pickled; what they answer is
    of the type that their annotation says, of those that msgspec knows (numbers, bytes, text, tuples, lists, dicts,
    dataclasses). A GuestError goes to the job that called. Any other exception ends the process.

    When `__init__` has returned the process can open no file, start no program, reach no network and take no memory
    that others could share: load what is needed there.
    """

    memory: MappedMemory
    """The guest's memory."""
    buffer: memoryview
    """The bytes that the process has in common with the driver."""
    _surroundings: Surroundings

    @classmethod
    def _made(cls, surroundings: Surroundings, arguments: tuple[object, ...]) -> Self:
        """One in its process; what it is run by is there when its own `__init__` begins."""
        made = cls.__new__(cls)
        made.memory, made.buffer = surroundings.memory, surroundings.buffer
        made._surroundings = surroundings  # noqa: SLF001 - our own
        made.__init__(*arguments)  # type: ignore[misc]  # a subclass' takes what `Process` was told to give it
        return made

    def watch(self, fd: int, ready: Callable[[], None]) -> None:
        """Call ``ready`` between two calls, again and again, while ``fd`` can be read."""
        self._surroundings.watch(fd, ready)

    def unwatch(self, fd: int) -> None:
        """Do so no longer; to be called before ``fd`` is closed."""
        self._surroundings.unwatch(fd)

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call once, between two calls, so many seconds from now."""
        self._surroundings.after(seconds, call)

    def unmapped(self, address: int, length: int) -> None:
        """This memory of the guest's is about to go: forget the pieces of it. The guest's VMM waits meanwhile."""


class Pending(Generic[T]):
    """Returned by a method that answers later: the job waits, and other calls go on."""

    def __init__(self) -> None:
        self._outcome: tuple[T] | GuestError | None = None
        self._tell: Callable[[tuple[T] | GuestError], None] | None = None

    def done(self, value: T) -> None:
        """Answer, once. In the thread that calls the methods: see `Program.watch` for what other threads do."""
        self._settle((value,))

    def fail(self, error: GuestError) -> None:
        """Raise it in the job."""
        self._settle(error)

    def _then(self, tell: Callable[[tuple[T] | GuestError], None]) -> None:
        """Tell the outcome, when there is one."""
        self._tell = tell
        if self._outcome is not None:
            tell(self._outcome)

    def _settle(self, outcome: tuple[T] | GuestError) -> None:
        if self._outcome is not None:
            raise DriverError("a Pending is answered once")
        self._outcome = outcome
        if self._tell is not None:
            self._tell(outcome)
