"""Every error of ours and the errno it becomes, in one table.

Errors are two-sided. ``DriverError`` is the author's mistake (or the operator's, in a configuration);
``GuestError`` and ``PeerError`` are what a guest or the program at the other end of a socket did wrong;
``MdevError`` is an operation of the framework that could not be done. Each carries the errno its requester sees,
be that a write(2) in sysfs, a vfio-user reply or an ioctl.
"""

import errno as _errno
from typing import ClassVar


class MdevUserError(Exception):
    """Base of all our errors. ``errno`` is what the requester's system call fails with."""

    errno: ClassVar[int] = _errno.EIO


# --- the author's or the operator's -------------------------------------------------------------------------


class DriverError(MdevUserError):
    """A declaration or an operation of a parent driver is wrong: fix the driver."""

    errno = _errno.EINVAL


class ConfigError(MdevUserError):
    """A configuration file, an option or a parent's specification is wrong: fix the input."""

    errno = _errno.EINVAL


class MountError(MdevUserError):
    """The sysfs tree cannot be mounted here; the message has the cure. The daemon goes on without it."""

    errno = _errno.ENODEV


# --- the framework's: what a create, remove or open can answer (reference: Linux mdev, errno by errno) -----------


class MdevError(MdevUserError):
    """An operation of the mdev framework failed."""


class InvalidValue(MdevError):
    """What was written is not what the attribute takes."""

    errno = _errno.EINVAL


class AlreadyExists(MdevError):
    """The UUID, or the parent's name, is taken."""

    errno = _errno.EEXIST


class NoInstances(MdevError):
    """A core-counted parent has no instance left ("Too many users")."""

    errno = _errno.EUSERS


class NoSpace(MdevError):
    """A parent that counts for itself has no room left for this type."""

    errno = _errno.ENOSPC


class NoDevice(MdevError):
    """The parent, the mdev or its host is gone, or going."""

    errno = _errno.ENODEV


class NotReady(MdevError):
    """The mdev is still being created, or is already being removed; or its parent cannot go while it is in use."""

    errno = _errno.EAGAIN


class Busy(MdevError):
    """The mdev is in use."""

    errno = _errno.EBUSY


class NotPermitted(MdevError):
    """Whoever connects is not the mdev's owner."""

    errno = _errno.EPERM


class Unmigratable(MdevError):
    """The device cannot be saved at the moment, for the reason that its driver gives (`Function.unmigratable`)."""

    errno = _errno.EOPNOTSUPP


class NotSupported(MdevError):
    """The parent driver does not have this operation; the proxy answers for it."""

    errno = _errno.EINVAL


# --- a guest's or a peer's ----------------------------------------------------------------------------------


class GuestError(MdevUserError):
    """A guest, or the program that runs it, asked for something that the device does not have."""

    errno = _errno.EINVAL


class OutOfRange(GuestError):
    """An access outside the region (Linux's sample parents answer EFAULT)."""

    errno = _errno.EFAULT


class UnknownRequest(GuestError):
    """A request that the device does not know (VFIO: ENOTTY)."""

    errno = _errno.ENOTTY


class StateError(GuestError):
    """A saved state that this device cannot take: of another driver or version, or damaged. The device is as before."""

    errno = _errno.EINVAL


class DmaFault(GuestError):
    """A DMA access to an address that the guest has not mapped, or not for this direction."""

    errno = _errno.EFAULT


class ProcessEnded(GuestError):
    """The process that an mdev has of its own ended: it died, took too long or raised. What it kept is lost."""

    errno = _errno.EIO


class MappingExists(GuestError):
    """A DMA mapping overlaps one that is there."""

    errno = _errno.EEXIST


class TooManyMappings(GuestError):
    """The agreed number of DMA mappings is reached."""

    errno = _errno.ENOSPC


class TooManyFiles(GuestError):
    """More open files of its own than one user may have us keep, or all of this host's users together."""

    errno = _errno.ENOSPC


class TooManyRanges(GuestError):
    """More ranges in one request than are taken."""

    errno = _errno.E2BIG


class AddressOverflow(GuestError):
    """A range that reaches beyond the 64-bit address space."""

    errno = _errno.EOVERFLOW


class PeerError(MdevUserError):
    """The bytes on a socket cannot be followed any further; the connection must be closed."""

    errno = _errno.EPROTO


def errno_of(error: BaseException) -> int:
    """The errno that ``error`` becomes at a system-call boundary; EIO for what nobody expected."""
    if isinstance(error, MdevUserError):
        return error.errno
    if isinstance(error, OSError) and error.errno:
        return error.errno
    return _errno.EIO


def text_of(error: BaseException) -> str:
    """What happened, without Python's ``[Errno 95]``: whoever tells an error gives its errno's name beside it."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"


_FROM_ERRNO: dict[int, type[MdevUserError]] = {
    kind.errno: kind
    for kind in (InvalidValue, AlreadyExists, NoInstances, NoSpace, NoDevice, NotReady, Busy, UnknownRequest)
}


def error_from(errno: int, message: str) -> Exception:
    """The error of ours that stands for ``errno`` (it crossed a process boundary as a number and a text)."""
    kind = _FROM_ERRNO.get(errno)
    return kind(message) if kind is not None else OSError(errno, message)
