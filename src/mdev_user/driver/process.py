# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""Process: a program of an mdev's own that keeps state, and may die, leak or hang without hurting its host."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, cast, overload

from typing_extensions import override

from mdev_user.driver.answers import answers_of
from mdev_user.driver.members import Member
from mdev_user.driver.pools import told_of_profile
from mdev_user.driver.program import Pending, Program
from mdev_user.errors import DriverError, GuestError, ProcessEnded
from mdev_user.regs.mistakes import likeliest
from mdev_user.units import MiB
from mdev_user.vfio.programs import Decoder, Launch, RunningProgram, Timed
from mdev_user.vfio.work import Later

if TYPE_CHECKING:
    from mdev_user.driver.device import Device
    from mdev_user.driver.unit import AnyUnit

A = ParamSpec("A")
C = TypeVar("C", bound=Program)
F = TypeVar("F", bound="AnyUnit")
T = TypeVar("T")

# Any: the profile is the driver's own class; a Parent tries the function with each of its types when it is declared.
Bytes = int | Callable[[Any], int]

MOST_BUFFER = 1 << 30
"""Bytes that a process and its host may have in common."""
MOST_ANSWER = 64 * MiB


class Process(Member, Generic[C]):
    """A process for each mdev: ``renderer = Process(Renderer)``, and in a job ``await self.renderer.call(...)``.

    An object of the `Program` that is given is made in it, with the ``arguments`` for the mdev's profile. It is started
    by the first call, and ended by every reset and by the end of the device's use; nothing of it is saved.
    """

    def __init__(  # noqa: PLR0913 - by keyword, most with a default
        self,
        program: type[C],
        *,
        arguments: Callable[[Any], tuple[object, ...]] = lambda _profile: (),  # Any: as above
        memory: Bytes | None = None,
        buffer: Bytes = 0,
        seconds: float = 10.0,
        pending_seconds: float = 60.0,
        largest: int = MiB,
        nice: int = 5,
    ) -> None:
        """``memory`` is how many bytes of its own it may have; those of the guest and of files do not count.

        ``buffer`` bytes are common to it and the driver. It is killed when a call takes ``seconds``, when a `Pending`
        takes ``pending_seconds``, and when an answer is larger than ``largest`` bytes. ``nice`` is added to its host's
        niceness.
        """
        if not (isinstance(program, type) and issubclass(program, Program)) or "." in program.__qualname__:
            raise DriverError(f"Process: expected a Program at the top of a module, given {program!r}")
        if not (seconds > 0 and pending_seconds > 0 and 0 < largest <= MOST_ANSWER and 0 <= nice < 20):
            raise DriverError(
                f"Process({program.__name__}): expected seconds > 0, largest to {MOST_ANSWER} bytes, nice of 0 to 19"
            )
        self._program, self._arguments = program, arguments
        self._memory, self._buffer = memory, buffer
        self._seconds, self._pending_seconds, self._largest, self._nice = seconds, pending_seconds, largest, nice
        self._ended = ""
        self._answers: dict[str, Decoder] = {}

    def ended(self, method: Callable[[F, ProcessEnded], None]) -> Callable[[F, ProcessEnded], None]:
        """Decorates the method that is called when the process has ended by itself: it died, hung, or raised.

        Not when a reset, the end of use or `Calls.end` ended it. It is a step of its own, before any job is told and
        before another process is started.
        """
        self._ended = method.__name__
        return method

    @overload
    def __get__(self, obj: None, owner: object) -> Self: ...
    @overload
    def __get__(self, obj: "AnyUnit", owner: object) -> "Calls[C]": ...
    def __get__(self, obj: "AnyUnit | None", owner: object) -> "Self | Calls[C]":
        return self if obj is None else Calls(self, obj)

    @override
    def _settle_types(self, owner: str) -> None:
        self._answers = answers_of(self._program)

    def _launch(self, profile: object) -> Launch:
        return Launch(
            name=self._name,
            kind=self._program,
            arguments=self._arguments(profile),
            answers=self._answers,
            memory=None if self._memory is None else self._bytes("memory", self._memory, profile),
            buffer=self._bytes("buffer", self._buffer, profile),
            seconds=self._seconds,
            pending_seconds=self._pending_seconds,
            largest=self._largest,
            nice=self._nice,
        )

    def _bytes(self, what: str, given: Bytes, profile: object) -> int:
        try:
            size = given if isinstance(given, int) else given(profile)
        except AttributeError as error:  # of a profile, whose type no checker knows there
            raise DriverError(f"{self._name}: {what}: {told_of_profile(error, profile)}") from error
        if not isinstance(size, int) or size < 0 or (what == "buffer" and size > MOST_BUFFER):
            raise DriverError(f"{self._name}: {what}: expected a number of bytes, given {size!r}")
        return size


class Calls(Generic[C]):
    """The process of one device: what its driver does with it."""

    __slots__ = ("_process", "_unit")

    def __init__(self, process: Process[C], unit: "AnyUnit") -> None:
        self._process, self._unit = process, unit

    @overload
    async def call(
        self, method: Callable[Concatenate[C, A], Pending[T]], /, *arguments: A.args, **keywords: A.kwargs
    ) -> T: ...
    @overload
    async def call(self, method: Callable[Concatenate[C, A], T], /, *arguments: A.args, **keywords: A.kwargs) -> T: ...
    # Any: what the overloads say
    async def call(self, method: Callable[..., Any], /, *arguments: object, **keywords: object) -> Any:
        """In a job: call a method of the program, and go on with its answer.

        Calls are performed in the order in which they were made. ProcessEnded, which is a GuestError, when the process
        ends before it answers. GuestError when there is none while the device is copied to another host: it could not
        be moved then.
        """
        return (await self._asked(method, arguments, keywords)).value

    @overload
    async def timed(
        self, method: Callable[Concatenate[C, A], Pending[T]], /, *arguments: A.args, **keywords: A.kwargs
    ) -> Timed[T]: ...
    @overload
    async def timed(
        self, method: Callable[Concatenate[C, A], T], /, *arguments: A.args, **keywords: A.kwargs
    ) -> Timed[T]: ...
    # Any: what the overloads say
    async def timed(self, method: Callable[..., Any], /, *arguments: object, **keywords: object) -> Any:
        """As `call`, with the time that it took in the process."""
        return await self._asked(method, arguments, keywords)

    @property
    def alive(self) -> bool:
        """Whether it was started and has not ended."""
        return self._running().alive

    @property
    def buffer(self) -> memoryview:
        """The bytes that the process has in common with the driver, while the device is open."""
        return self._running().buffer

    def end(self) -> None:
        """End the process; the next call starts another one. Jobs that wait for an answer get ProcessEnded."""
        self._running().end("the driver ended it")

    async def _asked(
        self, method: Callable[..., object], arguments: tuple[object, ...], keywords: Mapping[str, object]
    ) -> Timed[object]:
        name = getattr(method, "__name__", "")
        if name not in self._process._answers:
            raise DriverError(
                f"{self._process._name}.call({name or method!r}): expected a public method of "
                f"{self._process._program.__name__}{likeliest(name, self._process._answers)}"
            )
        running = self._running()
        if self._unit._device.copies and not running.alive:
            error = GuestError(f"{self._process._name}: the device is being migrated, and no process can be started")
            self._unit._device.refuse(error)
            raise error
        answer = await Later(lambda *whom: running.call(name, arguments, keywords, *whom), goes_on_there=True)
        return cast("Timed[object]", answer)

    def _running(self) -> RunningProgram:
        unit, process = self._unit, self._process
        name = f"{unit._name}.{process._name}".lstrip(".")
        if (programs := unit._device._runner().programs) is None:
            raise DriverError(f"{name}: whoever runs this device cannot run a process for it")
        return programs.program(name, lambda: process._launch(unit.profile), self._has_ended)

    def _has_ended(self, error: ProcessEnded) -> None:
        if self._process._ended:
            getattr(self._unit, self._process._ended)(error)
            self._unit._settle()


def live_processes(device: "Device") -> Sequence[str]:
    """The names of an open device's processes that are alive."""
    programs = device._runner().programs
    return () if programs is None else programs.live_programs()
