"""The operations of a VFIO device: what a driver provides for one mdev.

The counterpart of Linux's ``struct vfio_device_ops``. Every operation has a default here, and a default is what
"the driver does not have it" means: EINVAL, or nothing for those that may be absent.
"""

from collections.abc import Coroutine, Iterable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from mdev_user.errors import NotSupported, UnknownRequest
from mdev_user.vfio.dma import Pieces
from mdev_user.vfio.inspection import Decoder, NamedValue
from mdev_user.vfio.migration import Incoming, Outgoing
from mdev_user.vfio.migration_states import MigrationFlags
from mdev_user.vfio.plain import PlainRead, PlainWrite
from mdev_user.vfio.planes import Plane, PlaneType
from mdev_user.vfio.requests import Reply, Request
from mdev_user.vfio.screens import NoScreens, Screens
from mdev_user.vfio.work import Spent

if TYPE_CHECKING:
    from mdev_user.vfio.device import VfioDevice


_NO_SCREENS = NoScreens()


class DeviceOps:
    """Subclass it and override what the device has. No two operations of one device ever run at the same time."""

    def open_device(self, device: "VfioDevice") -> None:
        """A user opens the device. ``device`` gives interrupts, DMA, memory and jobs until `close_device`.

        A driver resets itself here: the next user must never see what the last one left.
        """

    def close_device(self) -> None:
        """The user is gone. Its DMA mappings and interrupts are gone already, and no job is running."""

    def paused(self) -> None:
        """The jobs of the open device stand still from now on, to be migrated, until `resumed`."""

    def resumed(self) -> None:
        """They go on. Also called when they never stood still."""

    def hindered(self) -> None:
        """A job is to go on, and some other step keeps it from that.

        Unlike all others, this is called beside that step, in any thread.
        """

    def read(self, region: int, offset: int, count: int) -> bytes:
        """Read ``count`` bytes (1 to 1 MiB) at ``offset`` of a region, any alignment. Returns exactly ``count``."""
        raise NotSupported(f"the driver has no read: region {region}, offset {offset:#x}, {count} bytes")

    def write(self, region: int, offset: int, data: bytes) -> None:
        """Write ``data`` (1 byte to 1 MiB) at ``offset`` of a region, any alignment."""
        raise NotSupported(f"the driver has no write: region {region}, offset {offset:#x}, {len(data)} bytes")

    def plain_reads(self) -> Iterable[PlainRead]:
        """The reads that a server may answer without `read`: what they would give is a value and nothing else."""
        return ()

    def plain_writes(self) -> Iterable[PlainWrite]:
        """As `plain_reads`."""
        return ()

    def ioctl(self, request: Request) -> Reply:
        """Answer one typed request; `UnknownRequest` (ENOTTY) for one that the device does not know."""
        raise NotSupported(f"the driver has no ioctl: {type(request).__name__}")

    def mmap(self, region: int, offset: int, length: int) -> None:
        """May this part of a region be mapped? Raises when not."""
        raise NotSupported(f"the driver has no mmap: region {region}")

    def request(self, count: int) -> None:
        """Somebody removes the mdev while it is open: asked at once and then every ten seconds, ``count`` rises."""

    def inspect(self) -> Iterable[NamedValue]:
        """What there is to see in the device, by name, open or not. Changes nothing; what it gives is read later."""
        raise NotSupported("the driver is written by hand and has no inspect: its values have no names")

    def decoder(self) -> Decoder | None:
        """What gives the accesses in a trace their names; without it a trace has offsets only."""
        return None

    def has_screen(self) -> bool:
        """Whether the device has `plane`."""
        return False

    def plane(self, kind: PlaneType) -> Plane | None:
        """What the open device shows on its screen, or as its pointer; None for nothing."""
        raise UnknownRequest(f"the device has no screen: {kind.name}")

    def screens(self) -> Screens:
        """The device's heads, for whoever looks at them without being its user. The same object at every call."""
        return _NO_SCREENS

    def has_programs(self) -> bool:
        """Whether processes of its own map the memory that its user shares: its files are kept for them then."""
        return False

    def unmigratable(self) -> str | None:
        """Why the device cannot be saved at the moment, whatever its flags say. Changes nothing."""
        return None

    def migration_flags(self) -> MigrationFlags:
        """What the device can do of migration; by default nothing."""
        return MigrationFlags(0)

    def save_state(self, *, precopy: bool) -> Outgoing:
        """The state of the open device as a stream: from now on while it runs, or at once, since it is stopped."""
        raise NotSupported(f"the driver cannot save a device (precopy={precopy})")

    def load_state(self) -> Incoming:
        """What takes a stream that another device's `save_state` gave; this one is open and stopped."""
        raise NotSupported("the driver cannot load a device")


class JobRunner(Protocol):
    """Runs a driver's coroutines as steps of its mdev."""

    @property
    def now(self) -> float:
        """The clock by which sleeps are slept, in seconds from some moment."""

    def spent(self) -> Spent:
        """What the coroutines took, the stretch that asks included; counted from the one after the first question."""

    def spawn(self, work: Coroutine[object, bytes, None], name: str) -> None: ...

    def cancel(self, work: Coroutine[object, bytes, None]) -> None:
        """End one of them, as `cancel_all` does; nothing when it has ended."""

    def cancel_all(self) -> None:
        """End every coroutine at its await. One that is running, and so calls this, is closed at its next one."""

    def pause(self) -> None:
        """Let no coroutine go on from its await, and the clock of sleeps stand still, until `resume`."""

    def resume(self) -> None: ...


@runtime_checkable
class DirectRunner(JobRunner, Protocol):
    """One that does DMA at once for the job that runs, where nobody has to be asked: most of an await's cost is saved.

    What it does not do (a fault, memory that only messages reach, a job that was cancelled) is to be awaited.
    """

    def read_now(self, iova: int, length: int) -> bytes | None: ...

    def write_now(self, iova: int, data: bytes) -> bool:
        """Whether it was done."""

    def gather_now(self, pieces: Pieces, into: memoryview) -> bool: ...

    def scatter_now(self, pieces: Pieces, data: memoryview) -> bool:
        """Whether it was done; if not, some of it may have been."""


class RegionMemory(Protocol):
    """The file that holds the mappable regions of an open device, each at its `region_offset`."""

    @property
    def fd(self) -> int: ...

    def view(self, index: int, size: int) -> memoryview: ...


@runtime_checkable
class SparseMemory(RegionMemory, Protocol):
    """One that knows what nobody ever touched: who reads that to see that it is zero gives it room."""

    def extents(self, index: int, size: int) -> list[tuple[int, int]]:
        """Where a region can be other than zero, as pairs of offsets (first, behind the last), in order."""
