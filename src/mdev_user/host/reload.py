"""Reload: the mdevs of a parent go on with a newer version of its driver, while their guests run.

It is one step of all mdevs: no guest sees some with the old driver and some with the new one. What the new driver does
wrong in the middle gives each mdev its old device back, in the state in which the step found it.
"""

import gc
import typing
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from mdev_user.driver import Device, Parent
from mdev_user.driver.attributes import carry_settings
from mdev_user.driver.saving.handover import check_shapes, hand_over, take_back
from mdev_user.errors import Busy, DriverError
from mdev_user.host.endpoint import Endpoint
from mdev_user.host.steps import step_within
from mdev_user.mdev.device import Mdev
from mdev_user.mdev.parent import MdevParent
from mdev_user.vfio.migration_states import RUNNING
from mdev_user.vfio_mdev.ops import MdevParentOps

_FIXED = ("driver_name", "mdev_types", "max_instances", "attributes", "parent_attributes")
"""What the tree shows of a parent, from when it is registered to when it is unregistered."""
_FIXED_OF_PCI = (*_FIXED, "identity")


@dataclass(frozen=True)
class Served:
    """An mdev and the endpoint of its VFIO device."""

    mdev: Mdev
    endpoint: Endpoint


def reload(parent: MdevParent, ops: MdevParentOps, mdevs: Sequence[Mdev], served: Sequence[Served]) -> list[str]:
    """Make ``ops`` the operations of a parent and of its mdevs, of which ``served`` have an endpoint.

    Nobody creates or removes one meanwhile. Returns a line for each mdev whose state could not be carried over.
    Whatever is raised, the parent and its mdevs are as they were; EBUSY when the driver is stuck in one of them.
    """
    old = parent.ops
    if not (isinstance(ops, Parent) and isinstance(old, Parent)):
        raise DriverError(f"{parent.name} is written by hand: only what is declared can be saved and loaded")
    _check(old, ops, _FIXED if parent.address is None else _FIXED_OF_PCI)
    successors = {each.uuid: ops.create(each) for each in mdevs}
    with ExitStack() as steps:
        for each in sorted(served, key=lambda each: each.mdev.uuid):
            _begin_step(steps, each)
        lines = _hand_over(mdevs, served, successors)
        for mdev in mdevs:
            mdev.drvdata = successors[mdev.uuid]
        carry_settings(ops._readables.values(), old._settings, ops._settings)  # noqa: SLF001 - the framework's own
        parent.ops = ops
    return lines


def drop_old_classes() -> None:
    """To be called when nothing refers to an older version of a driver but itself: a hundred leave nothing behind.

    `typing` keeps the last hundreds of classes that were subscripted (``Saved[Entry]``), in caches that only its own
    tests clear; each class holds its whole module.
    """
    for clear in getattr(typing, "_cleanups", ()):
        clear()
    gc.collect()


def _begin_step(steps: ExitStack, served: Served) -> None:
    endpoint = served.endpoint
    try:
        steps.enter_context(step_within(endpoint.lock, endpoint.device.counters, "reload"))
    except Busy as error:
        raise Busy(f"{served.mdev.uuid}: {error}") from None


def _hand_over(mdevs: Sequence[Mdev], served: Sequence[Served], successors: Mapping[UUID, Device]) -> list[str]:
    """All or none. The step locks are held."""
    for each in served:
        _check_settled(each)
    for mdev in mdevs:
        check_shapes(_device(mdev), successors[mdev.uuid])
    lines: list[str] = []
    with ExitStack() as undo:
        for each in served:
            device, before, after = each.endpoint.device, _device(each.mdev), successors[each.mdev.uuid]
            state = before.save() if device.opened else b""
            reason = hand_over(device, before, after)
            undo.callback(partial(take_back, device, before, after, state))
            lines += [f"{each.mdev.uuid} was reset: {reason}"] if reason else []
        undo.pop_all()
    return lines


def _check_settled(served: Served) -> None:
    """A stream that is being read or written is one of the older driver's device."""
    device = served.endpoint.device
    if device.opened and device.migration.state is not RUNNING:
        raise Busy(f"{device.uuid} is being migrated ({device.migration.state.name}): reload when it is RUNNING again")


def _check(old: object, new: object, fixed: Sequence[str]) -> None:
    for name in fixed:
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            raise DriverError(
                f"{name}: expected {before!r} as before, given {after!r}: unregister the parent and register it again"
            )


def _device(mdev: Mdev) -> Device:
    device = mdev.drvdata
    if not isinstance(device, Device):
        raise DriverError(f"{mdev.uuid}: expected a declared device, found {device!r}")
    return device
