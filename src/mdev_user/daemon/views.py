"""What the daemon tells about itself: plain values, the same on the control socket and in ``-o json``."""

from collections.abc import Mapping

from msgspec import Struct

from mdev_user.vfio.inspection import NamedValue


class TypeView(Struct, frozen=True, kw_only=True):
    """An mdev type of a registered parent."""

    parent: str
    type: str
    name: str
    description: str | None
    device_api: str
    available_instances: int


class ParentView(Struct, frozen=True, kw_only=True):
    """A parent that was asked for; ``state`` is registered, restarting or failed.

    ``reason`` is why it is not registered, why its host was last started again, or what was wrong with a reload.
    """

    name: str
    specification: str
    driver: str
    state: str
    reason: str
    host_pid: int | None
    restarts: int
    reloads: int
    mdevs: int


class ClientView(Struct, frozen=True, kw_only=True):
    """The program that has an mdev open."""

    pid: int
    name: str
    uid: int
    unshared_memory: int
    """Bytes of the largest guest memory range that arrived without a file: above a few MiB, RAM is not shared."""


class MdevView(Struct, frozen=True, kw_only=True):
    """An mdev; ``state`` is creating, active or removing."""

    uuid: str
    parent: str
    type: str
    state: str
    group: int | None
    socket: str
    sysfs: str | None
    client: ClientView | None
    parked: bool = False
    """Whether a state was loaded into it and nobody has used it since; nobody uses it now."""


class MoveView(Struct, frozen=True, kw_only=True):
    """The vfio-user socket at which the state of an mdev is moved. It is there for one connection, for 10 s."""

    socket: str


class MdevDetail(MdevView, frozen=True, kw_only=True):
    """All that is known of one mdev. ``counters`` are since its creation."""

    counters: dict[str, int | str]
    last_disconnect: str
    warnings: list[str]
    last_move: str = ""
    """Why who last moved its state was refused something, or sent away."""
    unmigratable: str = ""
    """Why it cannot be saved or migrated at the moment."""


class ValuesView(Struct, frozen=True, kw_only=True):
    """What is in an mdev, by name. While nobody has it open, that is what its last user left."""

    uuid: str
    opened: bool
    values: list[NamedValue]


class DaemonView(Struct, frozen=True, kw_only=True):
    """The daemon itself; ``sysfs`` is where the tree is mounted, ``sysfs_reason`` why it is not."""

    version: str
    pid: int
    run_dir: str
    sysfs: str | None
    sysfs_reason: str
    parents: list[ParentView]


class UeventLine(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of ``GET /v1/events``: a uevent, or something about the reading itself."""

    kind: str
    """``begin`` (the first line), ``uevent``, ``lost`` (some are no longer kept) or ``ended`` (the last line)."""
    number: int
    """The uevent's, SEQNUM; of the last one there was (begin), of the last one that is lost."""
    time: float
    """Seconds since 1970."""
    action: str = ""
    devpath: str = ""
    subsystem: str = ""
    properties: Mapping[str, str] = {}
    """Those beyond ACTION, DEVPATH, SUBSYSTEM and SEQNUM, in the kernel's order."""
    daemon: str = ""
    """begin: a name of this start of the daemon; the numbers are its own."""
    count: int = 0
    """lost: how many."""
    text: str = ""
    """lost, ended: why; empty where all that was asked for has been told."""


class SnapshotView(Struct, frozen=True, kw_only=True):
    """What is there after uevent ``number`` of this start of the daemon.

    Each device is told as an ``add`` with its properties of now and the number that its own ``add`` had.
    """

    daemon: str
    number: int
    uevents: list[UeventLine]
