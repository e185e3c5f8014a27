# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""Jobs: the work that a device does by itself, in steps between its awaits.

A job is started by calling it; what is remembered of one that is under way is its name and its arguments. Everything
that a step did is settled before the guest can see any of it.
"""

from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass, field
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, overload

from typing_extensions import override

from mdev_user.driver.members import Member
from mdev_user.driver.state import is_frozen
from mdev_user.errors import DriverError, GuestError
from mdev_user.regs.refs import Ref

if TYPE_CHECKING:
    from mdev_user.driver.function import AnyFunction

F = TypeVar("F", bound="AnyFunction")
A = ParamSpec("A")

MOST_PENDING = 1024


@dataclass(frozen=True, eq=False)
class PendingJob:
    """A job that was started and has not ended: all that is saved of it."""

    name: str
    arguments: tuple[object, ...]
    keywords: dict[str, object] = field(default_factory=dict)


class Job(Member, Generic[A]):
    """A declared job; on a device in use, what starts it."""

    def __init__(
        self, body: Callable[..., Coroutine[object, object, None]], busy: Ref[bool] | None, limit: int
    ) -> None:
        self._body, self._busy, self._limit = body, busy, limit
        self.__doc__ = body.__doc__

    @overload
    def __get__(self, obj: None, owner: object) -> Self: ...
    @overload
    def __get__(self, obj: "AnyFunction", owner: object) -> Callable[A, bool]: ...
    def __get__(self, obj: "AnyFunction | None", owner: object) -> Self | Callable[A, bool]:
        if obj is None:
            return self
        device = obj._device

        def start(*arguments: A.args, **keywords: A.kwargs) -> bool:
            return device.start(self, PendingJob(self._name, arguments, keywords))

        return start

    def _check(self, work: PendingJob) -> None:
        if not all(map(is_frozen, (*work.arguments, *work.keywords.values()))):
            raise DriverError(f"{self._name}{work.arguments}: a job's arguments are saved: expected frozen values")


class _Decorator(Protocol):
    def __call__(self, body: Callable[Concatenate[F, A], Coroutine[object, object, None]]) -> Job[A]: ...


def job(*, busy: Ref[bool] | None = None, limit: int = 1) -> _Decorator:
    """Make an ``async def`` a job: calling it starts it, to run soon, and says whether it was started.

    ``busy`` is a Flag that is set from the start of the job to its end. At most ``limit`` of one job are under way (a
    guest starts them, so there must be an end); a call beyond that starts nothing and is counted as a guest's error. A
    GuestError that leaves a job ends it and is counted. A reset, and the end of the device's use, cancel it.
    """
    if busy is not None and not (isinstance(busy, Ref) and busy.is_bit and busy.place.bar and not busy.place.repeated):
        raise DriverError(f"@job: busy: expected a Flag of a register, such as Regs.status.busy, given {busy!s}")
    if not (isinstance(limit, int) and 1 <= limit <= MOST_PENDING):
        raise DriverError(f"@job: limit: expected 1 to {MOST_PENDING}, given {limit!r}")
    if busy is not None and limit != 1:
        raise DriverError(f"@job: with busy only one is under way at a time: limit={limit!r} contradicts it")

    def decorate(body: Callable[Concatenate[F, A], Coroutine[object, object, None]]) -> Job[A]:
        if not iscoroutinefunction(body):
            raise DriverError(f"{getattr(body, '__name__', body)}: a job is an async def")
        return Job(body, busy, limit)

    return decorate


class Stepped(Awaitable[None]):
    """A driver's coroutine with what belongs to the end of each of its steps."""

    def __init__(
        self, work: Coroutine[object, object, None], settle: Callable[[], None], counted: Callable[[GuestError], None]
    ) -> None:
        """``counted`` is told of a guest's error that the host has counted and throws in."""
        self._work, self._settle, self._counted = work, settle, counted

    @override
    def __await__(self) -> Generator[object, object, None]:
        work = self._work
        resume: Callable[[], object] = lambda: work.send(None)  # noqa: E731 - replaced below
        while True:
            try:
                request = resume()
            except StopIteration:
                return
            self._settle()
            try:
                outcome = yield request
            except GeneratorExit:
                work.close()
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, it is for the driver's code
                if isinstance(error, GuestError):
                    self._counted(error)
                resume = _Throw(work, error)
            else:
                resume = _Send(work, outcome)


@dataclass(frozen=True, slots=True)
class _Send:
    work: Coroutine[object, object, None]
    outcome: object

    def __call__(self) -> object:
        return self.work.send(self.outcome)


@dataclass(frozen=True, slots=True)
class _Throw:
    work: Coroutine[object, object, None]
    error: Exception

    def __call__(self) -> object:
        return self.work.throw(self.error)
