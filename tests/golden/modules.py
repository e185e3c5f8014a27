"""The kernel's modules and what stands in their place.

| the recorder's | here |
|---|---|
| ``insmod`` of vfio, vfio_iommu_type1 | nothing: an mdev's user comes over vfio-user |
| ``insmod`` of mdev | the daemon starts, without a parent |
| ``insmod`` of mtty, mdpy, mbochs, perhaps with options | the control API registers ``mtty``, or ``mdpy,count=2`` |
| ``rmmod`` of one of these | the control API unregisters it |
| ``rmmod`` of mdev | the daemon ends; not while there are parents, since it would take them along |
| ``lsmod`` | nothing: there are no modules |
| ``dmesg`` | nothing: the kernel's log is not compared |
"""

import errno
import os
from collections.abc import Callable, Mapping

from golden.feed import Feed
from mdev_user.daemon.client import Refused
from mdev_user.testing.daemon import RunningDaemon

Outcome = tuple[int, str]
"""The exit status, and what the program says."""
_OF_VFIO = ("vfio", "vfio_iommu_type1")


class Modules:
    """Answers insmod and rmmod with the daemon."""

    def __init__(self, daemon: RunningDaemon, feed: Feed) -> None:
        self._daemon = daemon
        self._feed = feed

    def __call__(self, question: str) -> Outcome:
        """``insmod /mod/NAME.ko [OPTIONS]`` or ``rmmod NAME``."""
        program, module, *options = question.split()
        name = module.removeprefix("/mod/").removesuffix(".ko")
        return _PROGRAMS[program](self, ",".join([name, *options]))

    def insert(self, specification: str) -> Outcome:
        if specification == "mdev":
            self._daemon.start()
        elif specification not in _OF_VFIO:
            return self._told(f"insmod: can't insert {specification}", lambda: self._register(specification))
        return 0, ""

    def remove(self, name: str) -> Outcome:
        if name == "mdev":
            return self._end()
        return self._told(f"rmmod: can't unload module '{name}'", lambda: self._daemon.control.unregister_parent(name))

    def _register(self, specification: str) -> None:
        self._daemon.control.register_parent(specification)

    def _end(self) -> Outcome:
        parents = [each.name for each in self._daemon.control.status().parents]
        if parents:
            return 1, f"not done: the daemon would end and take {', '.join(parents)} along"
        return self._feed.take_rest(self._daemon.stop), ""

    def _told(self, what: str, call: Callable[[], object]) -> Outcome:
        """As the programs of the recorder tell it: by the text of the errno."""
        try:
            call()
        except Refused as refused:
            name = str(refused).rpartition("(")[2].removesuffix(")")
            return 1, f"{what}: {os.strerror(getattr(errno, name))}"
        return 0, ""


_PROGRAMS: Mapping[str, Callable[[Modules, str], Outcome]] = {"insmod": Modules.insert, "rmmod": Modules.remove}
