"""Reload: the mdevs of a parent go on with a newer version of its driver, while their guests run.

Everything that can be refused is refused before anything is exchanged; what the new driver then does wrong gives each
mdev its old device back.
"""

import gc
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from mdev_user.driver import Device, Parent
from mdev_user.driver.attributes import carry_settings
from mdev_user.driver.handover import check_shapes, hand_over
from mdev_user.errors import DriverError
from mdev_user.host.endpoint import Endpoint
from mdev_user.host.steps import step
from mdev_user.mdev.device import Mdev
from mdev_user.mdev.parent import MdevParent
from mdev_user.vfio_mdev.ops import MdevParentOps

_log = logging.getLogger(__name__)

_FIXED = ("driver_name", "mdev_types", "max_instances", "attributes", "parent_attributes")
"""What the tree shows of a parent, from when it is registered to when it is unregistered."""


@dataclass(frozen=True)
class User:
    """An mdev and the endpoint of its VFIO device."""

    mdev: Mdev
    endpoint: Endpoint


def reload(parent: MdevParent, ops: MdevParentOps, mdevs: Sequence[Mdev], users: Sequence[User]) -> list[str]:
    """Make ``ops`` the operations of a parent and of its mdevs. Nobody creates or removes one meanwhile.

    Returns a line for each mdev whose state could not be carried over. Whatever is raised, the parent is as it was.
    """
    old = parent.ops
    if not (isinstance(ops, Parent) and isinstance(old, Parent)):
        raise DriverError(f"{parent.name} is written by hand: only what is declared can be saved and loaded")
    _check(parent, ops)
    successors = {each.uuid: ops.create(each) for each in mdevs}
    for each in mdevs:
        check_shapes(_device(each), successors[each.uuid])
    lines: list[str] = []
    with ExitStack() as undo:
        for user in users:
            before, after = _device(user.mdev), successors[user.mdev.uuid]
            reason = _exchange(user, before, after)
            undo.callback(partial(_exchange, user, after, before))
            lines += [f"{user.mdev.uuid} was reset: {reason}"] if reason else []
        undo.pop_all()
    for each in mdevs:
        each.drvdata = successors[each.uuid]
    carry_settings(ops._readables.values(), old._settings, ops._settings)  # noqa: SLF001 - the API's own
    parent.ops = ops
    gc.collect()  # the old classes refer to each other: a hundred reloads must leave nothing
    return lines


def _exchange(user: User, before: Device, after: Device) -> str:
    endpoint = user.endpoint
    with step(endpoint.lock, endpoint.device.counters, "reload"):
        return hand_over(endpoint.device, before, after)


def _check(parent: MdevParent, ops: MdevParentOps) -> None:
    for name in _FIXED:
        before, after = getattr(parent.ops, name), getattr(ops, name)
        if before != after:
            raise DriverError(
                f"{name}: expected {before!r} as before, given {after!r}: unregister the parent and register it again"
            )


def _device(mdev: Mdev) -> Device:
    device = mdev.drvdata
    if not isinstance(device, Device):
        raise DriverError(f"{mdev.uuid}: expected a declared device, found {device!r}")
    return device
