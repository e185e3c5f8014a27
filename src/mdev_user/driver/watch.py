# ruff: noqa: SLF001 - a device and its units are the framework's own
"""Watch: whom the registers of one bar tell what their guest did."""

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mdev_user.driver.device import Device
    from mdev_user.driver.unit import AnyUnit

_log = logging.getLogger(__name__)

MOST_UNMODELLED = 1024
"""Different accesses that are remembered: which ones is up to the guest, so there is an end to it."""


class Watch:
    """Whom the registers of one bar tell."""

    __slots__ = ("_device", "_region", "refuse", "settle")

    def __init__(self, device: "Device", region: int, unit: "AnyUnit") -> None:
        self._device, self._region = device, region
        self.settle, self.refuse = unit._settle, device.refuse

    def count_unmodelled(self, offset: int, count: int, *, written: bool) -> None:
        device, region = self._device, self._region
        key = (region, offset, count, written)
        if key in device.unmodelled:
            device.unmodelled[key] += 1
        elif len(device.unmodelled) < MOST_UNMODELLED:
            device.unmodelled[key] = 1
            what = "write" if written else "read"
            _log.info(
                "%s: %s of %d bytes at %#x of region %d, where nothing is declared",
                device.uuid,
                what,
                count,
                offset,
                region,
            )
