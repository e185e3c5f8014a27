"""Pools and profiles: what a parent has, what an mdev of a type takes of it, and the accounts of both."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from threading import Lock

from mdev_user.errors import DriverError, NoSpace
from mdev_user.regs.mistakes import likeliest
from mdev_user.units import GiB, KiB, MiB


@dataclass(frozen=True)
class Profile:
    """A type of mdev: a frozen dataclass with one int for each `Pool` of the parent, what one mdev takes of it.

    Other fields are settings of the type, for the driver: any frozen value. What is not said of ``pretty_name`` and
    ``description``, the texts of the type's files ``name`` and ``description``, is made of the fields; an empty
    description is none.
    """

    pretty_name: str | None = field(default=None, kw_only=True)
    description: str | None = field(default=None, kw_only=True)


NO_END = (1 << 63) - 1
"""Available of a type that takes nothing of any pool: the framework counts its `Instances`."""

_TEXTS = {each.name for each in fields(Profile)}


class Pool:
    """Something that a parent has so much of: ``lanes = Pool(8)``.

    ``homogeneous``: as long as mdevs of one type take of it, no other type can.
    """

    def __init__(self, total: int, *, homogeneous: bool = False) -> None:
        if not isinstance(total, int) or total < 0:
            raise DriverError(f"Pool: expected a number of at least 0, given {total!r}")
        self.total = total
        self.homogeneous = homogeneous


class Instances:
    """At most so many mdevs, whatever their types: ``count = Instances(4)``, in place of pools.

    The framework counts them, and refuses one more with EUSERS before the driver hears of it; a pool that is used up
    refuses with ENOSPC.
    """

    def __init__(self, total: int) -> None:
        if not isinstance(total, int) or total < 1:
            raise DriverError(f"Instances: expected a number of at least 1, given {total!r}")
        self.total = total


class Accounts:
    """Who has taken what of a parent's pools.

    The one lock of a parent's shared state: creates and removes run at the same time, and one that counts and takes
    must see no other in between. Nothing is called while it is held.
    """

    def __init__(self, pools: Mapping[str, Pool], types: Mapping[str, Profile], prefix: str = "") -> None:
        """``prefix`` is what makes an mdev type's id, such as mtty-1, of the name of a type."""
        self._prefix = prefix
        self._pools = dict(pools)
        self._needs = {name: amounts(profile, pools) for name, profile in types.items()}
        self._taken = dict.fromkeys(types, 0)
        self._lock = Lock()

    def available(self, type_name: str) -> int:
        """How many more of this type could be created now."""
        with self._lock:
            return self._available(type_name)

    def take(self, type_name: str) -> None:
        """Take what one of this type needs, or raise NoSpace (ENOSPC) and take nothing."""
        with self._lock:
            if not self._available(type_name):
                raise NoSpace(self._shortage(type_name))
            self._taken[type_name] += 1

    def give_back(self, type_name: str) -> None:
        with self._lock:
            self._taken[type_name] -= 1

    def resize(self, pool: str, total: int) -> None:
        """Let there be so much of a pool from now on; what is taken stays taken, also where that is more."""
        with self._lock:
            self._pools[pool] = Pool(total, homogeneous=self._pools[pool].homogeneous)

    def free(self, pool: str) -> int:
        """How much of a pool nobody has; below 0 after a `resize` to less than was taken."""
        return self._pools[pool].total - sum(count * self._needs[name][pool] for name, count in self._taken.items())

    def _available(self, type_name: str) -> int:
        needs = {pool: amount for pool, amount in self._needs[type_name].items() if amount}
        if any(self._is_others(pool, type_name) for pool in needs):
            return 0
        return max(0, min((self.free(pool) // amount for pool, amount in needs.items()), default=NO_END))

    def _is_others(self, pool: str, type_name: str) -> bool:
        """Whether a homogeneous pool is another type's now."""
        return self._pools[pool].homogeneous and any(
            count and self._needs[name][pool] for name, count in self._taken.items() if name != type_name
        )

    def _shortage(self, type_name: str) -> str:
        type_id = f"{self._prefix}{type_name}"
        for pool, amount in self._needs[type_name].items():
            if amount and self._is_others(pool, type_name):
                return f"{pool} is homogeneous, and another type's as long as its mdevs exist: remove those first"
            if self.free(pool) < amount:
                free = shown(max(0, self.free(pool)))
                return f"{type_id} takes {shown(amount)} of {pool}, {free} are free: {self._cure(pool, amount)}"
        return f"no {type_id} is available"

    def _cure(self, pool: str, amount: int) -> str:
        total = self._pools[pool].total
        if total < amount:  # no remove would help
            return f"the parent has {shown(total)} in all; register it with {pool}={amount} or more"
        return "remove an mdev of this parent first"


def amounts(profile: Profile, pools: Iterable[str]) -> dict[str, int]:
    """What one mdev of a type takes of each pool."""
    return {pool: getattr(profile, pool) for pool in pools}


def shown(amount: int) -> str:
    for name, unit in (("GiB", GiB), ("MiB", MiB), ("KiB", KiB)):
        if amount and amount % unit == 0:
            return f"{amount // unit} {name}"
    return str(amount)


def check_limits(parent: str, pools: Mapping[str, Pool], counts: Mapping[str, Instances]) -> None:
    """DriverError unless something, and only one kind of thing, ends what can be created."""
    if not pools and not counts:
        raise DriverError(f"{parent}: expected at least one Pool, such as instances = Pool(16), or Instances(16)")
    if counts and (pools or len(counts) > 1):
        names = ", ".join([*pools, *counts])
        raise DriverError(f"{parent}: {names}: expected pools, or one Instances in their place: mdevs are counted once")


def check_types(parent: str, pools: Mapping[str, Pool], types: object) -> None:
    """DriverError unless every type says, for every pool, how much it takes, and one of it fits in the parent."""
    if not isinstance(types, Mapping) or not types:
        raise DriverError(f"{parent}: types: expected a dict of profiles by the name of the type, given {types!r}")
    for name, profile in types.items():
        if not isinstance(profile, Profile):
            raise DriverError(f"{parent}: types[{name!r}]: expected a Profile, given {profile!r}")
        _check_profile(f"{parent}: types[{name!r}]", pools, profile)


def told_of_profile(error: AttributeError, profile: object) -> str:
    """What is wrong when a function of the profile, such as the size of a `Memory`, raised ``error``."""
    if error.obj is not profile or not isinstance(profile, Profile) or error.name is None:
        return str(error)
    return _no_field(profile, error.name, {each.name for each in fields(profile)} - _TEXTS)


def _no_field(profile: Profile, name: str, names: Iterable[str]) -> str:
    meant = likeliest(name, names)
    hint = meant if "did you mean" in meant else f"; add it: {name}: int"
    return f"{type(profile).__name__} has no field {name}{hint}"


def _check_profile(what: str, pools: Mapping[str, Pool], profile: Profile) -> None:
    settings = {each.name for each in fields(profile)} - pools.keys() - _TEXTS
    for pool, each in pools.items():
        amount = getattr(profile, pool, None)
        if amount is None:
            raise DriverError(f"{what}: {_no_field(profile, pool, settings)}")
        if not isinstance(amount, int) or not 0 <= amount <= each.total:
            raise DriverError(f"{what}: {pool}: expected a number from 0 to {each.total}, the pool's, given {amount!r}")
    if pools and not any(amounts(profile, pools).values()):
        raise DriverError(f"{what} takes nothing of any pool: there would be no end to its instances")
