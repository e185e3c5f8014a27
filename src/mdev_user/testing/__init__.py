"""Public: what the tests of a parent driver need.

`Guest` is a guest of one device in memory, and `check` tries whatever a driver must hold. ``local`` is a whole host in
the test's own process, ``daemon`` a real daemon.
"""

from mdev_user.testing.conformance.check import check
from mdev_user.testing.conformance.migration import both_ways
from mdev_user.testing.conformance.operations import CheckFailed, Report
from mdev_user.testing.guest import Guest, NoEnd

__all__ = ["CheckFailed", "Guest", "NoEnd", "Report", "both_ways", "check"]
