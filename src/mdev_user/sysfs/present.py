"""What is there, as far as uevents have told: for who comes late, and for who missed some."""

from collections.abc import Iterator
from dataclasses import replace

from mdev_user.sysfs.uevents import Uevent


class Present:
    """A fold over uevents. Whoever keeps one knows what it was told of, whatever happened meanwhile."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[int, Uevent]] = {}

    def apply(self, number: int, uevent: Uevent) -> None:
        """``number`` is the uevent's: it tells two devices apart that come one after the other at one path.

        What somebody asked for in sysfs (SYNTH_UUID) changes nothing: an ``add`` adds no device.
        """
        if "SYNTH_UUID" in uevent.properties:
            return
        if uevent.action == "add":
            self._entries[uevent.devpath] = (number, uevent)
        elif uevent.action == "remove":
            self._entries.pop(uevent.devpath, None)
        elif uevent.action in {"bind", "unbind"} and uevent.devpath in self._entries:
            added, _before = self._entries[uevent.devpath]
            self._entries[uevent.devpath] = (added, replace(uevent, action="add"))

    def entries(self) -> list[tuple[int, Uevent]]:
        """The number of its own ``add`` and an ``add`` with today's properties for each device, oldest first."""
        return list(self._entries.values())

    def changes_to(self, other: "Present") -> Iterator[tuple[int, Uevent]]:
        """The uevents that who knows this must be told to know ``other``: first what went, youngest first."""
        mine, theirs = self._by_path(), other._by_path()  # noqa: SLF001 - another of its kind
        for path, (added, uevent) in reversed(mine.items()):
            if path not in theirs or theirs[path][0] != added:
                yield added, replace(uevent, action="remove")
        for path, (added, uevent) in theirs.items():
            if path not in mine or mine[path][0] != added:
                yield added, uevent
            elif mine[path][1] != uevent:
                yield added, replace(uevent, action="bind" if "DRIVER" in uevent.properties else "unbind")

    def _by_path(self) -> dict[str, tuple[int, Uevent]]:
        return dict(self._entries)
