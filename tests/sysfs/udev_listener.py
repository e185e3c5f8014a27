"""A listener as programs have it: the system's libudev, with its filters. Also a program that prints what it hears.

python udev_listener.py [SUBSYSTEM]      prints "ready", then a line of JSON per uevent until it is killed
"""

import ctypes
import json
import select
import sys
from collections.abc import Iterator
from ctypes import c_char_p, c_int, c_void_p

Properties = dict[str, str]

_FUNCTIONS: dict[str, tuple[type | None, list[type]]] = {
    "udev_new": (c_void_p, []),
    "udev_monitor_new_from_netlink": (c_void_p, [c_void_p, c_char_p]),
    "udev_monitor_filter_add_match_subsystem_devtype": (c_int, [c_void_p, c_char_p, c_char_p]),
    "udev_monitor_filter_add_match_tag": (c_int, [c_void_p, c_char_p]),
    "udev_monitor_set_receive_buffer_size": (c_int, [c_void_p, c_int]),
    "udev_monitor_enable_receiving": (c_int, [c_void_p]),
    "udev_monitor_get_fd": (c_int, [c_void_p]),
    "udev_monitor_receive_device": (c_void_p, [c_void_p]),
    "udev_device_get_properties_list_entry": (c_void_p, [c_void_p]),
    "udev_device_unref": (c_void_p, [c_void_p]),
    "udev_list_entry_get_next": (c_void_p, [c_void_p]),
    "udev_list_entry_get_name": (c_char_p, [c_void_p]),
    "udev_list_entry_get_value": (c_char_p, [c_void_p]),
}


def load() -> ctypes.CDLL:
    """OSError where the system has no libudev."""
    library = ctypes.CDLL("libudev.so.1")
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class UdevListener:
    """Hears the "udev" group of the network namespace in which it was made."""

    def __init__(
        self, subsystem: str | None = None, devtype: str | None = None, tag: str | None = None, room: int = 16 << 20
    ) -> None:
        """``room`` is the size of its buffer in bytes (less, where that takes a right which is not there)."""
        self._udev = load()
        self._monitor = self._udev.udev_monitor_new_from_netlink(self._udev.udev_new(), b"udev")
        if subsystem is not None:
            kind = None if devtype is None else devtype.encode()
            self._done(
                self._udev.udev_monitor_filter_add_match_subsystem_devtype(self._monitor, subsystem.encode(), kind)
            )
        if tag is not None:
            self._done(self._udev.udev_monitor_filter_add_match_tag(self._monitor, tag.encode()))
        self._udev.udev_monitor_set_receive_buffer_size(self._monitor, room)
        self._done(self._udev.udev_monitor_enable_receiving(self._monitor))

    def fileno(self) -> int:
        return int(self._udev.udev_monitor_get_fd(self._monitor))

    def heard(self) -> list[Properties]:
        """What has arrived. A message is with its listeners when the sender's system call returns."""
        return list(iter(self._receive, None))

    def _receive(self) -> Properties | None:
        device = self._udev.udev_monitor_receive_device(self._monitor)
        if not device:
            return None
        properties = dict(self._properties(device))
        self._udev.udev_device_unref(device)
        return properties

    def _properties(self, device: int) -> Iterator[tuple[str, str]]:
        entry = self._udev.udev_device_get_properties_list_entry(device)
        while entry:
            name = self._udev.udev_list_entry_get_name(entry)
            yield name.decode(), self._udev.udev_list_entry_get_value(entry).decode()
            entry = self._udev.udev_list_entry_get_next(entry)

    def _done(self, result: int) -> None:
        if result < 0:
            raise OSError(-result, "libudev")


def main() -> None:
    listener = UdevListener(sys.argv[1] if len(sys.argv) > 1 else None)
    print("ready", flush=True)
    while select.select([listener], [], []):
        for properties in listener.heard():
            print(json.dumps(properties), flush=True)


if __name__ == "__main__":
    main()
