"""The files named ``uevent``: what they show of a device, and what is announced when somebody writes to one.

(lib/kobject_uevent.c: kobject_synth_uevent.)
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from errno import ENOMEM

from mdev_user.errors import InvalidValue
from mdev_user.sysfs.tree import Rule, Tree
from mdev_user.sysfs.uevents import Uevent, all_properties

Announce = Callable[[Uevent], None]
"""Called with each uevent that somebody asked for; it changes nothing of what is there."""

_WRITTEN = re.compile(
    r"(?P<action>add|remove|change|move|online|offline|bind|unbind)"
    r"( (?P<uuid>[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})(?P<arguments>( [0-9A-Za-z]+=[0-9A-Za-z]+)*))?"
)
_SHOWN = 60
_MOST_PROPERTIES, _MOST_BYTES = 64, 2048
"""UEVENT_NUM_ENVP and UEVENT_BUFFER_SIZE."""
_LARGEST_NUMBER = (1 << 64) - 1


def nobody(_uevent: Uevent) -> None:
    """Announces to nobody."""


def no_properties() -> Mapping[str, str]:
    """Of a device that Linux says nothing of."""
    return {}


@dataclass(frozen=True, slots=True)
class UeventFile:
    """The subject of a uevent file: the device of which it tells, at ``path`` in the tree."""

    announce: Announce
    path: str
    subsystem: str
    properties: Callable[[], Mapping[str, str]] = no_properties
    """Those of now, beyond ACTION, DEVPATH and SUBSYSTEM, in the kernel's order."""


def asked_for(data: bytes) -> tuple[str, dict[str, str]]:
    """The action that was written, and the properties that come of the rest: SYNTH_UUID and SYNTH_ARG_<KEY>.

    A word, then perhaps a UUID and KEY=VALUE pairs; one newline or NUL may follow. EINVAL for everything else.
    """
    text = (data[:-1] if data[-1:] in {b"\n", b"\0"} else data).decode("latin-1")
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise InvalidValue(
            f"expected an action (add, change ...), perhaps a UUID and KEY=VALUE, given {data[:_SHOWN]!r}"
        )
    pairs = (each.split("=") for each in (found["arguments"] or "").split())
    return found["action"], {"SYNTH_UUID": found["uuid"] or "0", **{f"SYNTH_ARG_{key}": value for key, value in pairs}}


def _show(of: UeventFile) -> str:
    return "".join(f"{key}={value}\n" for key, value in of.properties().items())


def _store(of: UeventFile, data: bytes) -> None:
    """ENOMEM for more than fits in a uevent of Linux."""
    action, written = asked_for(data)
    uevent = Uevent(action, f"/{of.path}", of.subsystem, {**written, **of.properties()})
    properties = all_properties(uevent, _LARGEST_NUMBER)
    size = sum(len(key) + len(value) + len("=\0") for key, value in properties.items())
    if len(properties) > _MOST_PROPERTIES or size > _MOST_BYTES:
        raise OSError(
            ENOMEM, f"a uevent has at most {_MOST_PROPERTIES} properties in {_MOST_BYTES} bytes, asked for {size}"
        )
    of.announce(uevent)


_OF_DEVICE: Rule[UeventFile] = Rule(0o644, _show, _store)
_WRITE_ONLY: Rule[UeventFile] = Rule(0o200, None, _store)


def add_uevent(tree: Tree, of: UeventFile) -> None:
    """The file of a device."""
    tree.add_attribute(f"{of.path}/uevent", _OF_DEVICE, of)


def add_write_only_uevent(tree: Tree, of: UeventFile) -> None:
    """The file of a bus, a driver or a module: it shows nothing."""
    tree.add_attribute(f"{of.path}/uevent", _WRITE_ONLY, of)
