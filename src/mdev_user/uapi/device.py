"""An open VFIO device: ioctls, reads, writes and mappings become messages to the mdev's vfio-user server.

What is checked, in which order and with which errno, is as in ``drivers/vfio/vfio_main.c`` and ``vfio_pci_core.c``;
what a device itself decides is the server's answer. When the server is gone everything fails with EIO.
"""

import os
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from errno import EBUSY, EFAULT, EINVAL, EIO, ENODEV, ENOTTY
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from typing_extensions import override

from mdev_user.errors import MdevUserError, PeerError
from mdev_user.uapi.abi import vfio as abi
from mdev_user.uapi.abi.vfio import Command
from mdev_user.uapi.eventfds import runs, taken
from mdev_user.uapi.files import File, refused
from mdev_user.uapi.migration import DeviceMigration, feature
from mdev_user.uapi.planes import query_plane
from mdev_user.uapi.receiver import Begun, line_of
from mdev_user.uapi.server_regions import close_all, described, file_of, lies_at_its_place
from mdev_user.uapi.traps import Traps
from mdev_user.units import PAGE
from mdev_user.vfio.requests import (
    REGION_BASE,
    Area,
    Irq,
    IrqAction,
    RegionFlags,
    region_offset,
    region_place,
)
from mdev_user.vfio_user import messages as m
from mdev_user.vfio_user.client import Client, ClientRegion
from mdev_user.vfio_user.connection import RemoteError
from mdev_user.vfio_user.file_status import file_status
from mdev_user.vfio_user.framing import MOST_FDS
from mdev_user.vfio_user.region_capabilities import chain_size, encode_chain
from mdev_user.vfio_user.region_client import RegionClient, new_lock

if TYPE_CHECKING:
    from mdev_user.uapi.call import Call, Serving, Waiting
    from mdev_user.uapi.program import Program

_A = TypeVar("_A")
_R = TypeVar("_R")

_CONNECT_S = 10.0
"""How long a server may take to accept and to agree on a version."""
_PIECE = 1 << 20
"""Bytes of a region that are read or written by one message, at most."""
_OFFSETS = 1 << 63
_MAP_SHARED = 1
_ANY_FD = Struct("=i")


class _Mappable(NamedTuple):
    """Which parts of a region the program may map."""

    size: int
    areas: tuple[Area, ...]

    def has(self, offset: int, length: int) -> bool:
        areas = self.areas or (Area(0, self.size),)
        return offset + length <= self.size and any(
            area.offset <= offset and offset + length <= area.offset + area.size for area in areas
        )


class Device(File):
    """One mdev, open; every descriptor of it is this file.

    ``lock`` is held whenever ``client`` is used; ``migration`` is for `mdev_user.uapi.migration`.
    """

    def __init__(self, name: str, client: Client, serving: "Serving", rdev: int = 0) -> None:
        """Owns the client, also on an error. ``name`` is the mdev's UUID."""
        self.name = name
        self.client = client
        self.lock = new_lock()
        self.migration = DeviceMigration()
        self.on_release: list[Callable[[], None]] = []
        """Called in order when the last descriptor and the connection are closed."""
        self.also: dict[int, Callable[[Call, int], int]] = {}
        """Ioctls that it has because of how it was opened; without the lock."""
        self._serving = serving
        self._call: Waiting | None = None
        self._position = 0
        self._gone = self._listening = False
        self._has_intx = False
        """Whether the program gave an eventfd for it."""
        self._mappable: dict[int, _Mappable] = {}
        try:
            info = client.device_info()
            self._num_irqs = info.num_irqs
            with described(client, info.num_regions) as regions:
                region_file = file_of(regions)
                super().__init__(f"vfio-{name}", rdev, -1 if region_file is None else region_file[1])
                self._identity = None if region_file is None else (region_file[0].device, region_file[0].inode)
                for region in regions:
                    self._add_mappable(region)
        except BaseException:
            client.close()
            raise
        self._regions = RegionClient(client, self._late)
        self.line = line_of(client, self.lock, regions)
        self._traps = Traps(client, self.lock, self.line, serving)

    # --- reads, writes, mappings

    @override
    def read(self, call: "Call", address: int, count: int, offset: int | None) -> int:
        """EFAULT for an offset where no region is; what the device says for one outside its region."""
        region, within = self._place(count, offset)
        self._may_take_long(call, count)
        done = 0
        while done < count:
            size = min(count - done, _PIECE)
            data = self._access(call, self._regions.read, region, within + done, size)
            call.write(address + done, data)
            done += size
        self._moved(offset, done)
        return done

    @override
    def write(self, call: "Call", address: int, count: int, offset: int | None) -> int:
        """As `read`."""
        region, within = self._place(count, offset)
        self._may_take_long(call, count)
        done = 0
        while done < count:
            data = call.read(address + done, min(count - done, _PIECE))
            self._access(call, self._regions.write, region, within + done, data)
            done += len(data)
        self._moved(offset, done)
        return done

    def _place(self, count: int, offset: int | None) -> tuple[int, int]:
        at = REGION_BASE + self._position if offset is None else offset
        if at + count >= _OFFSETS:
            raise refused(EINVAL)
        if at < REGION_BASE:
            raise refused(EFAULT)
        return region_place(at)

    def _may_take_long(self, call: "Call", count: int) -> None:
        """Each message comes in time, but there are many."""
        if count > _PIECE:
            call.may_wait()

    def _moved(self, offset: int | None, count: int) -> None:
        if offset is None:
            self._position += count

    @override
    def mmap(self, call: "Call", length: int, protection: int, flags: int, offset: int) -> None:
        """EINVAL unless all of it lies in one part of a region that may be mapped, and it is shared."""
        index, within = region_place(offset)
        mappable = self._mappable.get(index)
        if mappable is None or not flags & _MAP_SHARED or not mappable.has(within, -(-length // PAGE) * PAGE):
            raise refused(EINVAL)

    @override
    def finish(self, call: "Call", begun: Begun) -> int:
        """The lock is held already."""
        region, offset, received = begun.region, begun.offset, begun.received
        if begun.data:
            self._end(call, lambda: self._regions.finish_write(region, offset, begun.data, received))
        else:
            data = self._end(call, lambda: self._regions.finish_read(region, offset, begun.count, received))
            call.write(call.args[1], data)
        return begun.count

    # --- ioctls

    @override
    def ioctl(self, call: "Call", command: int, argument: int) -> int:
        """ENOTTY for what no device of ours has: hot reset, ioeventfds, dma-bufs."""
        if command == Command.DEVICE_FEATURE:  # takes the lock itself, since it gives files, which takes the tables
            return feature(self, call, argument)
        also = self.also.get(command)
        if also is not None:
            return also(call, argument)
        perform = _IOCTLS.get(command)
        if perform is None:
            raise refused(ENOTTY)
        with self.using(call):
            return perform(self, call, argument)

    @override
    def answers_alone(self, command: int) -> bool:
        """Whatever its server alone answers: others do not wait for a slow one."""
        return command in _IOCTLS or command == Command.DEVICE_FEATURE

    def _get_info(self, call: "Call", argument: int) -> int:
        argsz, *_ = abi.DEVICE_INFO.unpack(call.read(argument, abi.DEVICE_INFO.size))
        _check_argsz(argsz, abi.DEVICE_INFO)
        info = self.client.device_info()
        call.write(argument, abi.DEVICE_INFO.pack(argsz, info.flags, info.num_regions, info.num_irqs))
        return 0

    def _get_region_info(self, call: "Call", argument: int) -> int:
        argsz, _, index, *_ = abi.REGION_INFO.unpack(call.read(argument, abi.REGION_INFO.size))
        _check_argsz(argsz, abi.REGION_INFO)
        region = self.client.region_info(index)
        try:
            self._add_mappable(region)
        finally:
            close_all([region])
        call.write(argument, self._described(region, argsz))
        return 0

    def _described(self, region: ClientRegion, argsz: int) -> bytes:
        """Capabilities only where there is room for all of them; else ``argsz`` tells how much there must be."""
        offset = self._offset(region)
        flags = region.flags & (RegionFlags.READ | RegionFlags.WRITE) if region.size else RegionFlags(0)
        mappable = self._mappable.get(region_place(offset)[0]) if region.flags & RegionFlags.MMAP else None
        areas: tuple[Area, ...] = ()
        if mappable is not None and region.size <= mappable.size:
            flags |= RegionFlags.MMAP
            areas = region.areas
        head = abi.REGION_INFO
        needed = head.size + chain_size(areas, region.type)
        chain, at = b"", 0
        if needed > head.size:
            flags |= RegionFlags.CAPS
            if argsz >= needed:
                chain, at = encode_chain(areas, region.type, head.size), head.size
            else:
                argsz = needed
        return head.pack(argsz, flags, region.index, at, region.size, offset) + chain

    def _offset(self, region: ClientRegion) -> int:
        """That of another region where the bytes are the same ones; 0 where there is no region."""
        if not region.size:
            return 0
        index, within = region_place(region.offset)
        shown = self._mappable.get(index)
        if shown is not None and not within and region.size <= shown.size:
            return region.offset
        return region_offset(region.index)

    def _get_irq_info(self, call: "Call", argument: int) -> int:
        argsz, _, index, _ = abi.IRQ_INFO.unpack(call.read(argument, abi.IRQ_INFO.size))
        _check_argsz(argsz, abi.IRQ_INFO)
        if index >= self._num_irqs:
            raise refused(EINVAL)
        info = self.client.irq_info(index)
        call.write(argument, abi.IRQ_INFO.pack(argsz, info.flags, index, info.count))
        return 0

    def _set_irqs(self, call: "Call", argument: int) -> int:
        """The checks of vfio_set_irqs_validate_and_prepare; an action of none does nothing."""
        asked = abi.SetIrqs.decode(call.read(argument, abi.IRQ_SET.size))
        item = asked.item_size
        if asked.argsz < abi.IRQ_SET.size or asked.flags & ~abi.IRQ_FLAGS or asked.index >= self._num_irqs:
            raise refused(EINVAL)
        count = self.client.irq_info(asked.index).count
        if item is None or asked.start >= count or asked.start + asked.count > count:
            raise refused(EINVAL)
        if asked.argsz - abi.IRQ_SET.size < asked.count * item:
            raise refused(EINVAL)
        data = call.read(argument + abi.IRQ_SET.size, asked.count * item)
        if asked.action:
            self._change_irqs(call, asked, data)
        return 0

    def _change_irqs(self, call: "Call", asked: abi.SetIrqs, data: bytes) -> None:
        try:
            action, index = IrqAction(asked.action), Irq(asked.index)
        except ValueError:
            raise refused(EINVAL) from None
        if (index, action) == (Irq.INTX, IrqAction.TRIGGER):
            self._switch_intx(asked, data)
        if not asked.flags & abi.IRQ_DATA_EVENTFD:
            bools = tuple(each != 0 for each in data)
            kind = m.IrqData.BOOL if bools else m.IrqData.NONE
            self.client.set_irqs(m.DeviceSetIrqs(index, asked.start, asked.count, action, kind, bools))
            return
        with taken(call, [number for (number,) in _ANY_FD.iter_unpack(data)]) as eventfds:
            for start, fds in runs(eventfds, self._most_fds):
                request = m.DeviceSetIrqs(index, asked.start + start, len(fds), action, m.IrqData.EVENTFD)
                self.client.set_irqs(request, [fd for fd in fds if fd >= 0])

    def _switch_intx(self, asked: abi.SetIrqs, data: bytes) -> None:
        """Switching off what is not on is EINVAL, as in vfio_pci_set_intx_trigger."""
        if not asked.count and not self._has_intx:
            raise refused(EINVAL)
        if asked.flags & abi.IRQ_DATA_EVENTFD or not asked.count:
            self._has_intx = any(number >= 0 for (number,) in _ANY_FD.iter_unpack(data))

    @property
    def _most_fds(self) -> int:
        peer = self.client.connection.peer
        return max(1, min(MOST_FDS, 1 if peer is None else peer.max_msg_fds))

    def _reset(self, _call: "Call", _argument: int) -> int:
        self.client.reset()
        self.migration.reset()
        return 0

    def _query_plane(self, call: "Call", argument: int) -> int:
        return query_plane(self.client, call, argument)

    # --- what others of ours need

    def start_dirty_log(self, page_size: int) -> None:
        """Of all memory, for its container; a device that cannot is left out."""
        self._log(lambda: self.client.start_dma_logging(page_size))

    def stop_dirty_log(self) -> None:
        self._log(self.client.stop_dma_logging)

    def _log(self, change: Callable[[], object]) -> None:
        with self.lock, suppress(OSError, PeerError):
            change()

    def dirty_pages(self, iova: int, size: int, page_size: int) -> bytes:
        """A bit for each page written since they were last told. RemoteError where the device does not log."""
        with self.lock:
            return self.client.report_dma_logging(iova, size, page_size)

    def trap(self, call: "Call") -> None:
        """Have the server end the caller's accesses itself, if it does that for this user."""
        with self.using(call):
            self._traps.begin(call.program)

    @override
    def is_trapped(self, program: "Program") -> bool:
        return self._traps.of(program)

    def listen(self, *, wanted: bool) -> None:
        """Serve the server's own messages also while the program asks for nothing, or stop that. Under the tables."""
        if wanted is self._listening or (wanted and self._gone):
            return
        self._listening = wanted
        if wanted:
            self._serving.watch(self.client.socket.fileno(), self._serve)
        else:
            self._serving.unwatch(self.client.socket.fileno())

    @override
    def released(self) -> None:
        self.listen(wanted=False)
        with suppress(OSError):  # whoever still waits for the server waits no longer
            self.client.socket.shutdown(socket.SHUT_RDWR)
        with self.lock:
            self._gone = True
            self.migration.end()
            self._traps.end()
            if self.line is not None:
                self.line.close()
            self.client.close()
        for each in self.on_release:
            each()

    # --- ours

    def _serve(self, turn: "Waiting") -> None:
        """The socket was readable: by now it may be no more, or there is only the beginning of a message."""
        if not self.lock.acquire(blocking=False):  # whoever has it waits for a message too, and takes this one
            return
        try:
            try:
                if self._gone:  # an access found out: the socket stays readable for ever
                    raise ConnectionResetError
                self._call = turn
                if self.client.carried[0] or _readable(self.client):
                    self.client.serve()
            finally:
                self._call = None
                self.lock.release()
        except (OSError, MdevUserError):
            self._gone = True
            with self._serving.tables:
                self.listen(wanted=False)

    def _late(self) -> None:
        """The server takes its time; the lock is held."""
        if self._call is not None:
            self._call.may_wait()

    def _take(self, call: "Call") -> None:
        """The lock. Whoever has it may wait for a slow device, and only this device's calls wait with it."""
        if not self.lock.acquire(blocking=False):
            call.may_wait()
            self.lock.acquire()

    @contextmanager
    def using(self, call: "Call") -> Iterator[None]:
        """Hold the lock; EIO for a server that is gone or cannot be followed, from then on for ever."""
        self._take(call)
        try:
            if self._gone:
                raise refused(EIO)
            self._call = call
            yield
        except RemoteError:
            raise
        except (ConnectionError, TimeoutError, PeerError) as error:
            self._gone = True
            raise OSError(EIO, f"the vfio-user server of {self.name}: {error}") from error
        finally:
            self._call = None
            self.lock.release()

    def _access(self, call: "Call", operation: Callable[[int, int, _A], _R], region: int, offset: int, what: _A) -> _R:
        """As `using`, at less cost."""
        self._take(call)
        return self._end(call, operation, region, offset, what)

    def _end(self, call: "Call", operation: Callable[..., _R], *what: object) -> _R:
        """With the lock held, which is released."""
        try:
            if self._gone:
                raise refused(EIO)
            self._call = call
            return operation(*what)
        except RemoteError:
            raise
        except (ConnectionError, TimeoutError, PeerError) as error:
            self._gone = True
            raise OSError(EIO, f"the vfio-user server of {self.name}: {error}") from error
        finally:
            self._call = None
            self.lock.release()

    def _add_mappable(self, region: ClientRegion) -> None:
        """Only what lies at its place in the device's own file can be mapped."""
        if region.fd < 0:
            return
        found = file_status(region.fd)
        if (found.device, found.inode) == self._identity and lies_at_its_place(region):
            self._mappable[region.index] = _Mappable(region.size, region.areas)


_IOCTLS: dict[int, Callable[[Device, "Call", int], int]] = {
    Command.DEVICE_GET_INFO: Device._get_info,  # noqa: SLF001 - our own, as all of these
    Command.DEVICE_GET_REGION_INFO: Device._get_region_info,  # noqa: SLF001
    Command.DEVICE_GET_IRQ_INFO: Device._get_irq_info,  # noqa: SLF001
    Command.DEVICE_SET_IRQS: Device._set_irqs,  # noqa: SLF001
    Command.DEVICE_RESET: Device._reset,  # noqa: SLF001
    Command.DEVICE_QUERY_GFX_PLANE: Device._query_plane,  # noqa: SLF001
}


def connect(call: "Call", name: str, path: Path, rdev: int = 0) -> Device:
    """Open an mdev. ENODEV where nobody serves it, EACCES for another's, EBUSY while somebody else has it."""
    call.may_wait()
    _show_as(call.program)
    try:
        client = Client(path, timeout=_CONNECT_S)
    except RemoteError:
        raise
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise OSError(ENODEV, f"nobody serves {name}: {error}") from error
    except (ConnectionError, TimeoutError) as error:  # how a server refuses one client too many
        raise OSError(EBUSY, f"the vfio-user server of {name}: {error}") from error
    client.socket.settimeout(None)
    device = Device(name, client, call.serving, rdev)
    try:
        device.trap(call)
    except BaseException:  # the caller was killed
        device.released()
        os.close(device.fd)
        raise
    return device


def _show_as(program: "Program") -> None:
    """The server shows its client by the name of its process."""
    with suppress(OSError):
        name = Path(f"/proc/{program.tgid}/comm").read_text(errors="replace")
        Path("/proc/self/comm").write_text(f"run:{name.rstrip()}")


def _check_argsz(argsz: int, least: Struct) -> None:
    if argsz < least.size:
        raise refused(EINVAL)


def _readable(client: Client) -> bool:
    poll = select.poll()
    poll.register(client.socket, select.POLLIN)
    return bool(poll.poll(0))
