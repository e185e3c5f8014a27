"""The regions of a vfio-user server's device as it describes them, and the file in which a program can map them."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from mdev_user.vfio.requests import MOST_REGIONS, RegionFlags, region_offset
from mdev_user.vfio_user.client import Client, ClientRegion
from mdev_user.vfio_user.connection import RemoteError
from mdev_user.vfio_user.file_status import FileStatus, file_status
from mdev_user.vfio_user.transport import close_fds


@contextmanager
def described(client: Client, count: int) -> Iterator[list[ClientRegion]]:
    """Those that there are; their fds are closed afterwards."""
    found: list[ClientRegion] = []
    try:
        for index in range(min(count, MOST_REGIONS)):
            with suppress(RemoteError):
                found.append(client.region_info(index))
        yield found
    finally:
        close_all(found)


def close_all(regions: Sequence[ClientRegion]) -> None:
    """Their fds."""
    close_fds([region.fd for region in regions if region.fd >= 0])


def file_of(regions: Sequence[ClientRegion]) -> tuple[FileStatus, int] | None:
    """The file in which all regions lie at their places, and a copy of its fd; None when there is none.

    It is memory: the program's accesses to it are the kernel's to perform.
    """
    for region in regions:
        if region.fd < 0 or not lies_at_its_place(region):
            continue
        found = file_status(region.fd)
        if found.regular and found.seals is not None and found.opened & os.O_ACCMODE == os.O_RDWR:
            return found, os.dup(region.fd)
    return None


def lies_at_its_place(region: ClientRegion) -> bool:
    """Whether the offset in its file is the one that a program has for it."""
    return bool(region.flags & RegionFlags.MMAP) and region.offset == region_offset(region.index)
