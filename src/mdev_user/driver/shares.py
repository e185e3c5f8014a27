# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""Share: the part that each mdev has of its parent's engine, as its function declares it."""

from collections.abc import Callable, Iterable
from dataclasses import astuple
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeAlias, overload

from typing_extensions import override

from mdev_user.driver.accounts import Accounts
from mdev_user.driver.attributes import Attribute
from mdev_user.driver.engine import Claim, Engine
from mdev_user.driver.members import Member
from mdev_user.driver.saving.kinds import Encoded, Kind, encoded
from mdev_user.errors import DriverError, StateError

if TYPE_CHECKING:
    from mdev_user.driver.unit import AnyUnit

_MOST = 1 << 53
"""Of an account that was saved: what is added to it is not lost, and does not overflow."""
Setting: TypeAlias = int | Attribute[int]


class Share(Member):
    """``drawing = Share(weight, frame_rate=frame_rate_limit)``; on a device in use, ``self.drawing`` is a `Claim`.

    ``weight`` and ``frame_rate`` (in a second, 0: no limit) are numbers or attributes of the function, whose values are
    looked up at every turn. ``engine`` gives the `Engine` of the parent's backend, where that is not one itself:
    ``engine=lambda gpu: gpu.engine``. Its accounts outlive resets and users, and are saved.
    """

    _kind: Kind
    _reset: bytes

    def __init__(
        self,
        weight: Setting = 1,
        *,
        frame_rate: Setting = 0,
        engine: Callable[[Any], Engine] | None = None,  # Any: the backend is the driver's own class
    ) -> None:
        self._weight, self._frame_rate, self._engine = weight, frame_rate, engine
        for name, each, least in (("weight", weight, 1), ("frame_rate", frame_rate, 0)):
            _check(name, each, least)

    @overload
    def __get__(self, obj: None, owner: object) -> Self: ...
    @overload
    def __get__(self, obj: "AnyUnit", owner: object) -> Claim: ...
    def __get__(self, obj: "AnyUnit | None", owner: object) -> Self | Claim:
        return self  # of a device in use, the dictionary has the claim

    def _claim(self, unit: "AnyUnit") -> Claim:
        backend: Any = unit.backend  # Any: the driver's own class
        engine = backend if self._engine is None else self._engine(backend)
        if not isinstance(engine, Engine):
            raise DriverError(
                f"{type(unit).__name__}.{self._name}: expected a backend that is an Engine, or engine=... that gives "
                f"one of it, given {engine!r}"
            )
        device = unit._device
        accounts = partial(unit._settings.__getitem__, self._name)
        weight, frame_rate = _reader(unit, self._weight), _reader(unit, self._frame_rate)
        return Claim(engine, device.jobs_clock, device.jobs_spent, weight, frame_rate, accounts)

    # --- its accounts are saved, as an attribute is that only the driver sets --------------------------------

    @property
    def _initial(self) -> Accounts:
        return Accounts()

    @override
    def _settle_types(self, owner: str) -> None:
        self._kind = Kind(f"{owner}.{self._name}", tuple[float, float, int, int, float, float])
        self._reset = encoded(astuple(Accounts()))

    def _save(self, value: Accounts) -> bytes | None:
        data = encoded(astuple(value))
        return None if data == self._reset else data

    def _load(self, data: Encoded) -> Accounts:
        accounts = Accounts(*self._kind.decode(data))  # type: ignore[misc]  # of that type
        if not all(0 <= each < _MOST for each in astuple(accounts)):
            raise StateError(f"{self._kind.what}: expected numbers from 0, given {accounts}")
        return accounts

    def _attributes(self) -> Iterable[Attribute[int]]:
        return [each for each in (self._weight, self._frame_rate) if isinstance(each, Attribute)]


def claims_of(unit: "AnyUnit") -> list[Claim]:
    """Those of a unit that was made, which it has from now on; none where a class is only tried, without a backend."""
    for share in unit._plan.shares:
        unit._settings[share._name] = Accounts()
    if unit.backend is None:
        return []
    for share in unit._plan.shares:
        unit._state[share._name] = share._claim(unit)
    return [unit._state[each._name] for each in unit._plan.shares]


def check_shares(function: str, shares: Iterable[Share], attributes: Iterable[object]) -> None:
    """DriverError for a share by an attribute that its function does not have."""
    known = [id(each) for each in attributes]
    for share in shares:
        for each in share._attributes():
            if id(each) not in known:
                raise DriverError(f"{function}.{share._name}: expected an attribute of {function}, given {each._name}")


def _check(name: str, setting: object, least: int) -> None:
    attribute = setting if isinstance(setting, Attribute) else None
    lowest = setting if attribute is None else attribute._least
    if not isinstance(lowest, int) or lowest < least:
        hint = f"{setting!r}" if attribute is None else f"an attribute that can be {lowest}: say its range"
        raise DriverError(
            f"Share: {name}: expected a number of at least {least}, or an attribute of such, given {hint}"
        )


def _reader(unit: "AnyUnit", setting: Setting) -> Callable[[], int]:
    if isinstance(setting, Attribute):
        return partial(unit._settings.__getitem__, setting._name)
    return lambda: setting
