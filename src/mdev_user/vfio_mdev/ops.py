"""MdevParentOps: the low-level contract of a parent driver, as a person may implement it by hand.

The counterpart of Linux's ``struct mdev_parent_ops``, in two halves: the parent creates and removes mdevs
(`LifecycleOps`), and what `create` returns has the operations of that one mdev as a VFIO device (`DeviceOps`): open,
close, read, write, ioctl, mmap, request.
"""

from abc import abstractmethod

from typing_extensions import override

from mdev_user.mdev.device import Mdev
from mdev_user.mdev.ops import LifecycleOps
from mdev_user.vfio.ops import DeviceOps


class MdevParentOps(LifecycleOps):
    """A parent whose mdevs are VFIO devices."""

    @override
    @abstractmethod
    def create(self, mdev: Mdev) -> DeviceOps: ...
