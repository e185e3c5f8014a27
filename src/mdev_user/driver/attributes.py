# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""Attributes of an mdev or a parent: files in its sysfs directory, as typed values."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import Enum
from typing import Any, Generic, Protocol, Self, TypeVar, overload

from typing_extensions import override

from mdev_user.driver.arity import check_arity
from mdev_user.driver.members import Member
from mdev_user.driver.saving.kinds import Encoded, Kind, encoded
from mdev_user.errors import DriverError, InvalidValue, StateError
from mdev_user.mdev.types import MdevAttribute
from mdev_user.regs.mistakes import likeliest

T = TypeVar("T")
F = TypeVar("F")
_Told = TypeVar("_Told", bound=Callable[..., None])

_BOOLEANS = {"1": True, "y": True, "on": True, "true": True, "0": False, "n": False, "off": False, "false": False}
"""As Linux's kstrtobool, lower case."""


class Settings(Protocol):
    """What has attributes: a device, or a parent."""

    # Any: values of all declared types, by the name of the attribute.
    _settings: dict[str, Any]  # Any: as above


class Readable(Member):
    """A file that can be read."""

    _group = ""
    _writable = False

    @property
    def _mdev_attribute(self) -> MdevAttribute:
        return MdevAttribute(self._group, self._name, readable=True, writable=self._writable)

    def _show(self, owner: Settings) -> str:
        return f"{_text(getattr(owner, self._name))}\n"

    def _store(self, owner: Settings, data: bytes) -> None:
        if not self._writable:
            raise InvalidValue(f"{self._name} cannot be written")
        owner._settings[self._name] = self._parsed(data.decode(errors="replace").strip())

    def _parsed(self, text: str) -> object:
        """The value that a writer means. InvalidValue (EINVAL) when there is none."""
        raise NotImplementedError(text)


class Attribute(Readable, Generic[T]):
    """A setting: ``clock = Attribute(100, unit="MHz", range=(10, 400), group="engine")``.

    Of the type of its initial value: int, bool, str or an Enum; ``of_type=lambda profile: profile.clock`` is the
    initial value where the mdev's type says it. The operator writes the file ``group/name``, which is
    a step of the device; what does not parse, or is out of ``range``, is EINVAL. It outlives resets and users. With
    ``writable=False`` only the driver sets it. Then it belongs to the device's state and is saved; what an operator
    wrote is not: where a device is migrated to, that is the operator's there to say.
    """

    _kind: Kind
    _reset: bytes

    def __init__(
        self,
        initial: T,
        *,
        unit: str = "",
        range: "tuple[T, T] | None" = None,  # noqa: A002 - the word for it
        group: str = "",
        writable: bool = True,
        of_type: Callable[[Any], T] | None = None,  # Any: the profile is the driver's own class
    ) -> None:
        if not isinstance(initial, int | str | Enum):
            raise DriverError(f"Attribute: expected an int, bool, str or Enum, given {initial!r}")
        self._initial, self._unit, self._range = initial, unit, range
        self._group, self._writable, self._of_type, self._told = group, writable, of_type, ""
        if range is not None and not range[0] <= initial <= range[1]:  # type: ignore[operator]  # has an order
            raise DriverError(f"Attribute: expected an initial value from {range[0]} to {range[1]}, given {initial!r}")

    @overload
    def __get__(self, obj: None, owner: object) -> Self: ...
    @overload
    def __get__(self, obj: Settings, owner: object) -> T: ...
    def __get__(self, obj: Settings | None, owner: object) -> Self | T:
        if obj is None:
            return self
        value: T = obj._settings[self._name]
        return value

    def stored(self, method: _Told) -> _Told:
        """Call the method, ``def method(self) -> None``, whenever the operator has written the attribute: in that step.

        The device may not be open then. Where it raises InvalidValue all is as before, and the writer gets EINVAL.
        """
        check_arity("@stored", method)
        self._told = method.__name__
        return method

    @override
    def _store(self, owner: Settings, data: bytes) -> None:
        with _or_as_before(owner):
            super()._store(owner, data)
            self._tell(owner)

    def _tell(self, owner: Settings) -> None:
        if self._told:
            getattr(owner, self._told)()

    def _first(self, profile: object) -> object:
        """What it is before anybody wrote it, of a device of this type."""
        if self._of_type is None:
            return self._initial
        return self._in_range(self._of_type(profile), DriverError)

    @property
    def _least(self) -> T | None:
        """The smallest value that it can have; None where it has no range."""
        return None if self._range is None else self._range[0]

    def __set__(self, obj: Settings, value: T) -> None:
        is_state = not self._writable
        obj._settings[self._name] = self._in_range(self._kind.checked(value), DriverError) if is_state else value

    @override
    def _settle_types(self, owner: str) -> None:
        if not self._writable:
            self._kind = Kind(f"{owner}.{self._name}", type(self._initial))
            self._reset = encoded(self._initial)

    def _save(self, value: object) -> bytes | None:
        """What is saved of its value; None for one that it has from the start."""
        data = encoded(value)
        return None if data == self._reset else data

    def _load(self, data: Encoded) -> object:
        """The value that was saved. StateError for what is none."""
        return self._in_range(self._kind.decode(data), StateError)

    @override
    def _parsed(self, text: str) -> object:
        value = self._in_range(_parsed(self._name, text, self._initial), InvalidValue)
        return value if self._writable else self._kind.checked(value)

    def _in_range(self, value: object, error: type[Exception]) -> object:
        if self._range is None:
            return value
        least, most = self._range
        if not least <= value <= most:  # type: ignore[operator]  # of the type of the initial value, which has an order
            raise error(f"{self._name}: expected {least} to {most} {self._unit}, given {value}")
        return value


@contextmanager
def _or_as_before(owner: Settings) -> Iterator[None]:
    before = dict(owner._settings)
    try:
        yield
    except InvalidValue:
        owner._settings.update(before)
        raise


class AttributeGroup(Readable):
    """A file for several attributes at once: ``schedule = AttributeGroup(weight, limit, group="scheduling")``.

    It reads ``weight=4 limit=0`` and takes any of these, in any order, with white space in between. All
    that were written are taken in one step, or, when one of them cannot be (EINVAL), none.
    """

    _writable = True

    def __init__(self, *attributes: Attribute[Any], group: str = "") -> None:  # Any: of all types
        self._attributes, self._group = attributes, group
        if not attributes:
            raise DriverError("AttributeGroup: expected attributes of the class")
        for each in attributes:
            if not isinstance(each, Attribute) or not each._writable or isinstance(each._initial, str):
                raise DriverError(
                    f"AttributeGroup: expected attributes that are written, of numbers, bools or Enums, given {each!r}"
                )

    @override
    def _show(self, owner: Settings) -> str:
        return " ".join(f"{each._name}={_text(owner._settings[each._name])}" for each in self._attributes) + "\n"

    @override
    def _parsed(self, text: str) -> dict[str, object]:
        known = {each._name: each for each in self._attributes}
        found: dict[str, object] = {}
        for word in text.split():
            name, equals, value = word.partition("=")
            if not equals or name not in known:
                raise InvalidValue(f"{self._name}: expected {self._form}, given {word!r:.80}{likeliest(name, known)}")
            if name in found:
                raise InvalidValue(f"{self._name}: expected {name} once, given it twice")
            found[name] = known[name]._parsed(value)
        if not found:
            raise InvalidValue(f"{self._name}: expected {self._form}, or some of them, given nothing")
        return found

    @override
    def _store(self, owner: Settings, data: bytes) -> None:
        written = self._parsed(data.decode(errors="replace"))
        with _or_as_before(owner):
            owner._settings.update(written)
            for each in self._attributes:
                if each._name in written:
                    each._tell(owner)

    @property
    def _form(self) -> str:
        return " ".join(f"{each._name}=..." for each in self._attributes)


def check_groups(owner: str, readables: Iterable[Readable]) -> None:
    """DriverError for a group with an attribute that is not one of its class."""
    found = list(readables)
    for group in (each for each in found if isinstance(each, AttributeGroup)):
        for each in group._attributes:
            if not any(each is known for known in found):
                raise DriverError(f"{owner}.{group._name}: expected attributes of {owner}, given {each._name}")


# Any: values of all declared types
def initial_settings(readables: Iterable[Readable], profile: object = None) -> dict[str, Any]:
    """What an operator finds before anything was written."""
    return {each._name: each._first(profile) for each in readables if isinstance(each, Attribute)}


# Any: values of all declared types
def carry_settings(readables: Iterable[Readable], old: Mapping[str, object], new: dict[str, Any]) -> None:
    """Take over what an operator wrote, or the driver set, for an older class, as far as this one takes it.

    What the driver set belongs to the device's state too: where one is loaded afterwards, that counts.
    """
    for each in readables:
        if isinstance(each, Attribute) and each._name in old:
            with suppress(InvalidValue, DriverError):
                new[each._name] = each._parsed(_text(old[each._name]))


class Computed(Readable, Generic[T]):
    """A file whose text is computed when it is read; on a device in use, the value."""

    def __init__(self, compute: Callable[..., T], group: str, unit: str) -> None:
        self._compute, self._group, self._unit = compute, group, unit

    @overload
    def __get__(self, obj: None, owner: object) -> Self: ...
    @overload
    def __get__(self, obj: Settings, owner: object) -> T: ...
    def __get__(self, obj: Settings | None, owner: object) -> Self | T:
        return self if obj is None else self._compute(obj)


def attribute(*, group: str = "", unit: str = "") -> Callable[[Callable[[F], T]], Computed[T]]:
    """Make a method a read-only attribute: it computes the value when the file is read."""

    def decorate(compute: Callable[[F], T]) -> Computed[T]:
        check_arity("@attribute", compute)
        return Computed(compute, group, unit)

    return decorate


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return value.name.lower() if isinstance(value, Enum) else str(value)


def _parsed(name: str, text: str, like: object) -> object:
    """``text`` as a value of the type of ``like``; InvalidValue (EINVAL) when it is none."""
    if isinstance(like, Enum):
        members = {member.name.lower(): member for member in type(like)}
        return _known(name, text, members)
    if isinstance(like, bool):
        return _known(name, text, _BOOLEANS)
    if isinstance(like, int):
        try:
            return int(text, 0)
        except ValueError:
            raise InvalidValue(f"{name}: expected a number, given {text!r}") from None
    return text


def _known(name: str, text: str, values: "dict[str, Any]") -> object:  # Any: members of whatever enumeration
    if text.lower() in values:
        return values[text.lower()]
    raise InvalidValue(f"{name}: unknown value {text!r}{likeliest(text, values)}")
