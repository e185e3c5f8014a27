"""What the daemon can be asked to do: the contract between the front and the control API."""

from typing import Protocol
from uuid import UUID

from mdev_user.daemon.png import Png
from mdev_user.daemon.views import (
    DaemonView,
    MdevDetail,
    MdevView,
    MoveView,
    ParentView,
    SnapshotView,
    TypeView,
    UeventLine,
    ValuesView,
)
from mdev_user.host.purpose import Purpose
from mdev_user.vfio.inspection import TraceLine, Unmodelled


class Trace(Protocol):
    """What an mdev's user does, from when it was begun."""

    def read(self) -> list[TraceLine]:
        """Lines as soon as there are some; none after a second without. NoDevice when the mdev or its host is gone."""
        ...

    def close(self) -> None: ...


class Uevents(Protocol):
    """What happens on the bus, for one reader."""

    def read(self, seconds: float) -> list[UeventLine]:
        """Some lines as soon as there are some; none after ``seconds`` without. NoDevice when no more can come."""
        ...


class Operations(Protocol):
    """Every method blocks, may be called from any thread, and raises ``mdev_user.errors``.

    When the daemon stops, calls that wait must end soon (NoDevice): the process ends only after them.
    """

    def status(self) -> DaemonView: ...

    def parents(self) -> list[ParentView]: ...

    def types(self) -> list[TypeView]: ...

    def mdevs(self) -> list[MdevView]: ...

    def mdev(self, uuid: UUID) -> MdevDetail:
        """NoDevice when there is none."""
        ...

    def values(self, uuid: UUID) -> ValuesView:
        """NoDevice when there is none, NotSupported when its driver names nothing, Busy when its driver is stuck."""
        ...

    def unmodelled(self, uuid: UUID) -> Unmodelled:
        """Errors as of `values`."""
        ...

    def screenshot(self, uuid: UUID, head: int, level: int, *, pointer: bool) -> Png:
        """The picture of a head as PNG, whose pieces are all to be taken; ``level`` is how much it is compressed (0-9).

        NoDevice when there is no such mdev or nobody has it open, InvalidValue when it has no such head, NotReady
        when nothing is shown there, Busy when its driver is stuck.
        """
        ...

    def trace(self, uuid: UUID) -> Trace:
        """Begin a trace. Errors as of `values`, but that every driver can be traced; Busy also for one too many."""
        ...

    def uevents(self, after: int | None, daemon: str | None, *, attend: bool) -> Uevents:
        """From uevent ``after`` of that start of the daemon on. InvalidValue for a number that is still to come."""
        ...

    def snapshot(self) -> SnapshotView: ...

    def register_parent(self, specification: str) -> ParentView:
        """``specification`` is text that ``daemon.specification.parse_parent`` takes, file paths absolute."""
        ...

    def unregister_parent(self, name: str) -> None:
        """NotReady while one of its mdevs is in use: so Linux does not unload a driver while one of its devices is."""
        ...

    def create(self, type_id: str, parent: str | None, uuid: UUID | None) -> MdevView:
        """Without ``parent``: the only one that has the type, else ConfigError naming the candidates."""
        ...

    def remove(self, uuid: UUID, *, wait: float, force: bool) -> None:
        """Busy, naming pid and program, when the mdev is still in use after ``wait`` seconds.

        ``force`` closes the user's connection first.
        """
        ...

    def begin_move(self, uuid: UUID, purpose: Purpose) -> MoveView:
        """Make a socket for one mover. Busy for what the mdev's use does not allow, NoDevice for no state to save."""
        ...

    def hand_over(self, uuid: UUID, place: str) -> None:
        """What a mover saved is at home in ``place``: disconnect the mdev's user, and begin to remove the mdev.

        Busy, and nothing has changed, unless that mover still has the mdev stopped.
        """
        ...
