"""Public: what the tests of a parent driver need.

`Guest` is a guest of one device in memory, and `check` tries whatever a driver must hold. ``local`` is a whole host in
the test's own process, ``daemon`` a real daemon.
"""

from mdev_user.testing.check import check
from mdev_user.testing.guest import Guest, NoEnd
from mdev_user.testing.migration import both_ways
from mdev_user.testing.operations import CheckFailed, Report

__all__ = ["CheckFailed", "Guest", "NoEnd", "Report", "both_ways", "check"]
