"""What is around every step of a session: its time, its counters, and whose fault an exception is."""

import logging

from mdev_user.errors import MdevUserError, errno_of
from mdev_user.vfio.counters import Counters
from mdev_user.vfio_user.framing import error_message

_log = logging.getLogger(__name__)


class DriverFailed(MdevUserError):
    """A driver raised what no driver should: its mdev's connection ends with this reason."""


def refused(counters: Counters, identity: int, command: int, error: Exception) -> bytes:
    """The error reply to a request that a step refused. DriverFailed when ``error`` is a bug of the driver."""
    if not isinstance(error, MdevUserError | OSError):
        raise driver_failed(error) from error
    counters.guest_error(error)
    return error_message(identity, command, errno_of(error))


def driver_failed(error: Exception) -> DriverFailed:
    """Log the traceback of a driver's bug; returns the reason for which the connection ends."""
    _log.error("a parent driver failed; the connection of its mdev ends", exc_info=error)
    return DriverFailed(f"the driver failed: {type(error).__name__}: {error}")


def wrong_length(region: int, offset: int, count: int, data: bytes) -> ValueError:
    """A driver's read gave more or fewer bytes than asked for: a bug, no guest can be answered with that."""
    return ValueError(f"read of region {region} +{offset:#x}: expected {count} bytes, the driver gave {len(data)}")
