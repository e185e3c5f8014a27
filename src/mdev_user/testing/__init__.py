"""Public: what the tests of a parent driver need, and those of programs that use mdevs.

`Guest` is a guest of one device in memory, and `check` tries whatever a driver must hold. `MdevHost` is a fresh host
with a mounted sysfs tree, where things can go wrong as asked; in pytest it is the fixture ``mdev_host``. ``local`` is a
whole host in the test's own process, ``daemon`` a real daemon.
"""

from mdev_user.daemon.views import UeventLine
from mdev_user.testing.conformance.check import check
from mdev_user.testing.conformance.migration import both_ways
from mdev_user.testing.conformance.operations import CheckFailed, Report
from mdev_user.testing.guest import Guest, NoEnd
from mdev_user.testing.hosts.births import HostFailed
from mdev_user.testing.hosts.faults import AttributeFails, CreateFails, CreateTakes, LoseEvent, RemoveTakes
from mdev_user.testing.hosts.mdev_host import Faults, HostParent, MdevHost
from mdev_user.testing.screenshot import Screenshot
from mdev_user.vfio.damage import Damage

__all__ = [
    "AttributeFails",
    "CheckFailed",
    "CreateFails",
    "CreateTakes",
    "Damage",
    "Faults",
    "Guest",
    "HostFailed",
    "HostParent",
    "LoseEvent",
    "MdevHost",
    "NoEnd",
    "RemoveTakes",
    "Report",
    "Screenshot",
    "UeventLine",
    "both_ways",
    "check",
]
