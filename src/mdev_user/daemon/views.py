"""What the daemon tells about itself: plain values, the same on the control socket and in ``-o json``."""

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


class MdevDetail(MdevView, frozen=True, kw_only=True):
    """All that is known of one mdev. ``counters`` are since its creation."""

    counters: dict[str, int | str]
    last_disconnect: str
    warnings: list[str]


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
