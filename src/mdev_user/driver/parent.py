"""Parent: a device, physical or pretended, that is cut into slices; the class that an author subclasses."""

from collections.abc import Mapping
from inspect import Parameter, Signature
from typing import Any, ClassVar, Generic, TypeVar
from uuid import UUID

from typing_extensions import override

from mdev_user.driver.attributes import Readable, check_groups, initial_settings
from mdev_user.driver.backend import B, Backing, backend_of, check_backends
from mdev_user.driver.device import Device
from mdev_user.driver.function import Function
from mdev_user.driver.members import declarations, of_kind
from mdev_user.driver.parts import Part, Parts
from mdev_user.driver.pools import Accounts, Instances, Pool, Profile, amounts, check_limits, check_types, shown
from mdev_user.errors import DriverError
from mdev_user.mdev.device import Mdev
from mdev_user.mdev.types import MdevAttribute, MdevType
from mdev_user.regs.mistakes import likeliest
from mdev_user.vfio_mdev.ops import MdevParentOps

P = TypeVar("P", bound=Profile)

_NOBODY = UUID(int=0)
_MOST = (1 << 63) - 1


class Parent(MdevParentOps, Generic[P, B]):
    """Subclass it and declare ``function``, a `Pool` for each field of its profile, and ``types``.

    ``types`` are profiles by name; the mdev type ``small`` of a function class Crc is ``crc-small``. How many more of
    each can be created follows from the pools, or from `Instances` in their place. The totals are options of the
    parent: ``Card(lanes=16)``. An `Attribute` is a file in the parent's own directory. ``identity`` is that of the
    physical device, where it is not the function's.

    What its mdevs share, a real device or an `Engine`, is its *backend*, which `open` makes: ``Parent[Slice, Gpu]`` has
    a ``Function[Slice, Gpu]``, whose ``self.backend`` is that Gpu.
    """

    function: type[Function[P, B]]
    types: Mapping[str, P]
    _pools: ClassVar[Mapping[str, Pool]] = {}
    _instances: ClassVar[Mapping[str, Instances]] = {}
    """At most one, in place of the pools."""
    _is_named: ClassVar[bool] = False
    """Whether the author said what the driver is called, and it is not the function's name."""
    _is_identified: ClassVar[bool] = False
    """Whether the author said what the physical device is, and it is not the function's identity."""
    _readables: ClassVar[Mapping[MdevAttribute, Readable]] = {}

    @override
    def __init_subclass__(cls) -> None:
        name, members = cls.__name__, declarations(cls)
        function = getattr(cls, "function", None)
        if not (isinstance(function, type) and issubclass(function, Function)):
            raise DriverError(f"{name}.function: expected a Function class, given {function!r}")
        cls._readables = {each._mdev_attribute: each for _name, each in of_kind(members, Readable)}  # noqa: SLF001 - our own
        cls.parent_attributes = tuple(cls._readables)
        for each in cls._readables.values():
            each._settle_types(name)  # noqa: SLF001 - our own
        check_groups(name, cls._readables.values())
        _check_backend(cls, function)
        cls._pools = dict(of_kind(members, Pool))
        cls._instances = dict(of_kind(members, Instances))
        check_limits(name, cls._pools, cls._instances)
        check_types(name, cls._pools, getattr(cls, "types", None))
        cls._is_named = cls._is_named or "driver_name" in vars(cls)
        if not cls._is_named:
            cls.driver_name = function.__name__.lower()
        cls._is_identified = cls._is_identified or "identity" in vars(cls)
        if not cls._is_identified:
            cls.identity = function.identity
        cls.attributes = tuple(each._mdev_attribute for each in function._plan.attributes)  # noqa: SLF001 - our own
        options = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=total, annotation=int)
            for name, total in cls._totals().items()
        ]
        # What inspect, and so whoever takes options from a command line, looks for; an author's own __init__ says more.
        own = cls.__init__ is not Parent.__init__
        cls.__signature__ = None if own else Signature(options)  # type: ignore[attr-defined]  # as above
        for profile in cls.types.values():  # whatever is wrong with a type is told now, and not at its first create
            Device(function, profile, _NOBODY)

    def __init__(self, **totals: int) -> None:
        """``totals`` by the name of the pool; the declared ones where not given. A type may then be never available."""
        declared = self._totals()
        for name in totals.keys() - declared.keys():
            raise DriverError(f"{type(self).__name__} has no pool {name}{likeliest(name, declared)}")
        given = {name: _count(f"the total of {name}", totals.get(name, total)) for name, total in declared.items()}
        pools = {name: Pool(given[name], homogeneous=each.homogeneous) for name, each in self._pools.items()}
        self.max_instances = next((given[name] for name in self._instances), None)
        self._accounts = Accounts(pools, self.types, f"{self.driver_name}-")
        self._backing = Backing(self.open, self.close)
        # Any: values of all declared types. Each is replaced whole, so that who reads it needs no lock.
        self._settings: dict[str, Any] = initial_settings(self._readables.values())  # Any: as above
        self.mdev_types = tuple(self._mdev_type(name, profile) for name, profile in self.types.items())

    @classmethod
    def _totals(cls) -> dict[str, int]:
        """As declared, by name."""
        pools = {name: each.total for name, each in cls._pools.items()}
        return {**pools, **{name: each.total for name, each in cls._instances.items()}}

    def open(self) -> B:
        """Make what all its mdevs share: called once, before the first of them, when a host has made the parent.

        Whatever it raises, there is no such parent. The mdevs use what it returns in several threads at once. When the
        driver is reloaded, the new parent opens its own while the old one's is in use; the old one's is closed when no
        mdev has it any more. A driver whose backend is None need not define it.
        """
        return None  # type: ignore[return-value]  # whoever says another type in the brackets defines his own

    def close(self, backend: B) -> None:
        """The parent is gone, and its mdevs with it: end what `open` made. Not called when the host itself dies."""

    def make_backend(self) -> None:
        """Call `open`, unless it was: whoever loads the parent does, and otherwise its first create."""
        self._backing.get()

    def end_backend(self) -> None:
        """Call `close`, if there is a backend."""
        self._backing.end()

    @override
    def create(self, mdev: Mdev) -> Device:
        self._accounts.take(mdev.type.name)
        try:
            return Device(self.function, self.types[mdev.type.name], mdev.uuid, self._backing.get())
        except BaseException:
            self._accounts.give_back(mdev.type.name)
            raise

    @override
    def remove(self, mdev: Mdev) -> None:
        self._accounts.give_back(mdev.type.name)

    @override
    def get_available(self, mdev_type: MdevType) -> int:
        return self._accounts.available(mdev_type.name)

    @override
    def show(self, mdev: Mdev, attribute: MdevAttribute) -> str:
        device = _device(mdev)
        return device.attribute(attribute)._show(device.function)  # noqa: SLF001 - our own

    @override
    def store(self, mdev: Mdev, attribute: MdevAttribute, data: bytes) -> None:
        device = _device(mdev)
        device.check_store()
        device.attribute(attribute)._store(device.function, data)  # noqa: SLF001 - our own
        device.settle()

    @override
    def show_parent(self, attribute: MdevAttribute) -> str:
        return self._readables[attribute]._show(self)  # noqa: SLF001 - our own

    @override
    def store_parent(self, attribute: MdevAttribute, data: bytes) -> None:
        self._readables[attribute]._store(self, data)  # noqa: SLF001 - our own

    def _mdev_type(self, name: str, profile: P) -> MdevType:
        takes = ", ".join(f"{pool}: {shown(amount)}" for pool, amount in amounts(profile, self._pools).items())
        pretty_name = profile.pretty_name or f"{self.function.__name__} {name}"
        description = takes if profile.description is None else profile.description
        return MdevType(name, pretty_name, description or None)


def _check_backend(parent: type[Parent[Any, Any]], function: type[Function[Any, Any]]) -> None:  # Any: of whatever kind
    """DriverError unless it makes what its function, and the parts of that, were promised."""
    plan, name = function._plan, function.__name__  # noqa: SLF001 - our own
    parts = {each._kind.__name__: backend_of(each._kind, Part) for each in plan.of_kind(Parts)}  # noqa: SLF001 - as above
    wanted = backend_of(function, Function)
    check_backends(parent.__name__, backend_of(parent, Parent), name, wanted, parts)
    if (wanted is not None or plan.shares) and parent.open is Parent.open:
        what = "an Engine, of which it has a Share" if wanted is None else getattr(wanted, "__name__", wanted)
        raise DriverError(f"{parent.__name__}: the backend of {name} is {what}: define def open(self)")


def _count(what: str, value: object) -> int:
    """``value``, or a DriverError for what is no count: in decimal, as people count."""
    if isinstance(value, int) and 0 <= value <= _MOST:
        return value
    raise DriverError(f"{what}: expected a number from 0 to {_MOST}, given {value!r}")


def _device(mdev: Mdev) -> Device:
    device = mdev.drvdata
    if not isinstance(device, Device):
        raise DriverError(f"{mdev.parent.name}: create returned {device!r}: expected a Device")
    return device
