# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""Jobs: the work that a device does by itself, in steps between its awaits.

A job is started by calling it; what is remembered of one that is under way is its name and its arguments.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import Parameter, iscoroutinefunction, signature
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, overload

from typing_extensions import override

from mdev_user.driver.members import Member
from mdev_user.driver.saving.kinds import Encoded, Kind, hints_of
from mdev_user.driver.stepping import Slept
from mdev_user.errors import DriverError, StateError
from mdev_user.regs.mistakes import likeliest
from mdev_user.regs.refs import Ref
from mdev_user.vfio.work import MOST_PENDING

if TYPE_CHECKING:
    from mdev_user.driver.unit import AnyUnit

F = TypeVar("F", bound="AnyUnit")
A = ParamSpec("A")


@dataclass(slots=True, eq=False)  # not frozen: that would take as long to make as all the rest of a call
class PendingJob:
    """A job that was started and has not ended: all that is saved of it."""

    unit: str
    """The name of the unit that it is a job of."""
    name: str
    arguments: dict[str, object]
    """By the name of the parameter, as far as they were given."""
    slept: Slept = field(default_factory=Slept)


class Job(Member, Generic[A]):
    """A declared job; on a device in use, what starts it."""

    def __init__(
        self, body: Callable[..., Coroutine[object, object, None]], busy: Ref[bool] | None, limit: int
    ) -> None:
        self._body, self._busy, self._limit = body, busy, limit
        self._parameters: Parameters
        self.__doc__ = body.__doc__

    @overload
    def __get__(self, obj: None, owner: object) -> Self: ...
    @overload
    def __get__(self, obj: "AnyUnit", owner: object) -> "Starter[A]": ...
    def __get__(self, obj: "AnyUnit | None", owner: object) -> "Self | Starter[A]":
        return self if obj is None else Starter(self, obj)

    @override
    def _settle_types(self, owner: str) -> None:
        self._parameters = Parameters(f"{owner}.{self._name}", self._body)

    def _same(self, _work: PendingJob, _under_way: Sequence[PendingJob]) -> PendingJob | None:
        """The one under way that a call is about, where it starts none of its own."""
        return None


class Starter(Generic[A]):
    """A job of a device in use: called, it starts."""

    __slots__ = ("_job", "_unit")

    def __init__(self, job: Job[A], unit: "AnyUnit") -> None:
        self._job, self._unit = job, unit

    def __call__(self, *arguments: A.args, **keywords: A.kwargs) -> bool:
        job, unit = self._job, self._unit
        given = job._parameters.checked(arguments, keywords)
        return unit._device.start(unit, job, PendingJob(unit._name, job._name, given))

    def cancel(self, *arguments: A.args, **keywords: A.kwargs) -> bool:
        """End those that were started with these arguments at their await; whether there were any.

        One that cancels itself goes on to its next await.
        """
        job, unit = self._job, self._unit
        given = job._parameters.checked(arguments, keywords)
        return unit._device.cancel(unit, PendingJob(unit._name, job._name, given))


class Worker(Job[A]):
    """A job of which one is under way for the same arguments."""

    @override
    def _same(self, work: PendingJob, under_way: Sequence[PendingJob]) -> PendingJob | None:
        return next((each for each in under_way if each.arguments == work.arguments), None)


class Parameters:
    """The parameters of a job, with the types of what is saved of its arguments."""

    def __init__(self, what: str, body: Callable[..., object]) -> None:
        hints = hints_of(what, body)
        self._what = what
        self._signature = signature(body)
        _unit, *parameters = self._signature.parameters.values()
        self._by_place = all(each.kind is Parameter.POSITIONAL_OR_KEYWORD for each in parameters)
        self._required = [each.name for each in parameters if each.default is Parameter.empty]
        self.kinds: dict[str, Kind] = {}
        for each in parameters:
            if each.kind not in {Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY}:
                raise DriverError(f"{what}: {each}: a job's arguments are saved by name: expected one of its own each")
            if each.name not in hints:
                raise DriverError(f"{what}: {each.name}: a job's arguments are saved: say of which type it is")
            self.kinds[each.name] = Kind(f"{what}: {each.name}", hints[each.name])

    def checked(self, arguments: tuple[object, ...], keywords: dict[str, object]) -> dict[str, object]:
        """The arguments by name. TypeError, as of any call, and DriverError for one that cannot be saved."""
        if not (self.kinds or arguments or keywords):
            return {}
        if self._by_place and not keywords and len(arguments) == len(self.kinds):  # as most are called
            return {name: kind.checked(each) for (name, kind), each in zip(self.kinds.items(), arguments, strict=True)}
        given = self._signature.bind(None, *arguments, **keywords).arguments
        return {name: kind.checked(given[name]) for name, kind in self.kinds.items() if name in given}

    def decode(self, saved: Mapping[str, Encoded]) -> dict[str, object]:
        """The arguments that were saved; StateError when they are not those of this job."""
        for name in saved:
            if name not in self.kinds:
                raise StateError(f"{self._what} has no parameter {name!r:.80}{likeliest(name[:80], self.kinds)}")
        for name in self._required:
            if name not in saved:
                raise StateError(f"{self._what}: expected an argument {name}, given {len(saved)} others")
        return {name: kind.decode(saved[name]) for name, kind in self.kinds.items() if name in saved}


class _Decorator(Protocol):
    def __call__(self, body: Callable[Concatenate[F, A], Coroutine[object, object, None]]) -> Job[A]: ...


def job(*, busy: Ref[bool] | None = None, limit: int = 1) -> _Decorator:
    """Make an ``async def`` a job: calling it starts it, to run soon, and says whether it was started.

    ``busy`` is a Flag that is set from the start of the job to its end. At most ``limit`` of one job are under way (a
    guest starts them, so there must be an end); a call beyond that starts nothing and is counted as a guest's error. A
    GuestError that leaves a job ends it and is counted. A reset, and the end of the device's use, cancel it; so does
    ``self.name.cancel(...)`` those that were started with these arguments, at their await.
    """
    return _decorator("job", Job, busy, limit)


def worker(*, busy: Ref[bool] | None = None, limit: int = 1) -> _Decorator:
    """Make an ``async def`` a `job` that serves a queue: ``self.serve(queue)`` for every ring of its doorbell.

    One is under way for the same arguments: called meanwhile, it runs once more when it has ended, so that no ring of
    a doorbell is lost. ``limit`` is of different arguments: the number of queues.
    """
    return _decorator("worker", Worker, busy, limit)


# Any: of whatever parameters
def _decorator(name: str, kind: type[Job[Any]], busy: Ref[bool] | None, limit: int) -> _Decorator:
    if busy is not None and not (isinstance(busy, Ref) and busy.is_bit and busy.place.bar and not busy.place.repeated):
        raise DriverError(f"@{name}: busy: expected a Flag of a register, such as Regs.status.busy, given {busy!s}")
    if not (isinstance(limit, int) and 1 <= limit <= MOST_PENDING):
        raise DriverError(f"@{name}: limit: expected 1 to {MOST_PENDING}, given {limit!r}")
    if busy is not None and limit != 1:
        raise DriverError(f"@{name}: with busy only one is under way at a time: limit={limit!r} contradicts it")

    def decorate(body: Callable[Concatenate[F, A], Coroutine[object, object, None]]) -> Job[A]:
        if not iscoroutinefunction(body):
            raise DriverError(f"{getattr(body, '__name__', body)}: a job is an async def")
        if not signature(body).parameters:
            own = body.__name__
            raise DriverError(f"{own}: @{name}: expected async def {own}(self, ...), given async def {own}()")
        return kind(body, busy, limit)

    return decorate
