"""The header of a migration stream: whose state it is, which an mdev of another driver or type cannot be."""

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from mdev_user import __version__
from mdev_user.driver.pools import Profile
from mdev_user.driver.saving.kinds import decoded, encoded, told
from mdev_user.driver.saving.naming import meant
from mdev_user.driver.saving.pages import Place
from mdev_user.errors import StateError

if TYPE_CHECKING:
    from mdev_user.driver.function import Function

MOST_MEMORIES = 64
_TEXTS = {each.name for each in fields(Profile)}


class Header(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The first record."""

    framework: str
    """The version of mdev-user, for people."""
    driver: str
    version: int
    """Of the driver's state."""
    profile: Annotated[dict[str, msgspec.Raw], msgspec.Meta(max_length=64)]
    """Of the mdev's type, but for its texts."""
    memories: Annotated[list[tuple[str, int]], msgspec.Meta(max_length=MOST_MEMORIES)]
    """Names and sizes in pages, in the order of the numbers that stand for them."""


_DECODER = msgspec.msgpack.Decoder(Header)


# Any: of whatever profile
def header_of(kind: type["Function[Any, Any]"], profile: Profile, places: Sequence[Place]) -> Header:  # Any: as above
    memories = [(each.name, each.pages) for each in places]
    return Header(__version__, kind.__name__, kind.state_version, _values(profile), memories)


def decoded_header(data: memoryview) -> Header:
    """What hostile bytes say, or StateError."""
    try:
        return _DECODER.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError, TypeError) as error:
        raise StateError(f"migration stream: its header: {told(error)}") from error


def check_header(given: Header, own: Header) -> None:
    """StateError for the state of what the device is not."""
    if given.driver != own.driver:
        raise StateError(f"migration stream: expected one of {own.driver}, given one of {given.driver!r:.80}")
    if given.version > own.version:
        raise StateError(
            f"{own.driver}: state version {given.version} of mdev-user {given.framework!r:.20}: expected at most "
            f"{own.version}; update the driver here first"
        )
    for name in own.profile.keys() & given.profile.keys():  # a release may have added one, or dropped it
        if given.profile[name] != own.profile[name]:
            raise StateError(
                f"{own.driver}: the stream is of an mdev whose type has {name} = {_shown(given.profile[name])}, and "
                f"this one's has {_shown(own.profile[name])}: load it into an mdev of the type that it was saved from"
            )


def in_order(given: Header, places: Sequence[Place]) -> list[Place]:
    """The places by the numbers of the stream; behind them those that it does not have, which a release has added."""
    left, found = {each.name: each for each in places}, []
    for name, size in given.memories:
        if name not in left:
            raise StateError(f"migration stream: memory {name!r:.80}: there is none, or no second{meant(name, left)}")
        if left[name].pages != size:
            raise StateError(f"migration stream: {name} of {size} pages: expected {left[name].pages}")
        found.append(left.pop(name))
    return [*found, *left.values()]


def _values(profile: Profile) -> dict[str, msgspec.Raw]:
    found = {}
    for each in fields(profile):
        if each.name not in _TEXTS:
            found[each.name] = msgspec.Raw(encoded(getattr(profile, each.name)))
    return found


def _shown(value: msgspec.Raw) -> str:
    return f"{decoded(value)!r:.80}"
