"""The composition root of ``serve``: the bus, its hosts, the sysfs tree and the control API, in one process."""

import gc
import logging
import os
import resource
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Thread
from time import monotonic, sleep
from uuid import UUID, uuid4

from msgspec.structs import asdict

from mdev_user import __version__
from mdev_user.daemon.absent import no_type
from mdev_user.daemon.autostart import Starter
from mdev_user.daemon.config import Autostart, Config, Reload
from mdev_user.daemon.control import ControlServer
from mdev_user.daemon.events import EventLog, EventReader
from mdev_user.daemon.listening import Lent
from mdev_user.daemon.notify import notify
from mdev_user.daemon.parents import Parents
from mdev_user.daemon.png import Bytes, Png
from mdev_user.daemon.reload import FileWatch
from mdev_user.daemon.run_dir import RunDir, remove_device_folder
from mdev_user.daemon.screenshots import PictureFiles, encoded
from mdev_user.daemon.specification import parse_parent
from mdev_user.daemon.views import (
    ClientView,
    DaemonView,
    MdevDetail,
    MdevView,
    MoveView,
    ParentView,
    SnapshotView,
    TypeView,
    ValuesView,
)
from mdev_user.errors import Busy, ConfigError, MdevUserError, MountError, NoDevice, NotReady
from mdev_user.host.program.groups import DaemonGroup, Refused
from mdev_user.host.purpose import Purpose
from mdev_user.host.remote import RemoteHost, RemoteParent, RemoteTrace, RemoteVfioMdev, StartHost
from mdev_user.host.wire import Inspection
from mdev_user.mdev.bus import Bus
from mdev_user.mdev.device import Mdev, State
from mdev_user.mdev.parent import MdevParent
from mdev_user.mdev.types import MdevType
from mdev_user.sysfs.layout import Layout
from mdev_user.sysfs.merged import MergedTree
from mdev_user.sysfs.mount import Mount
from mdev_user.sysfs.paths import device_path
from mdev_user.sysfs.uevents import BUS_ADDED, BUS_REMOVED
from mdev_user.units import MiB
from mdev_user.vfio.inspection import Unmodelled
from mdev_user.vfio_user.device_requests import UNSHARED

_log = logging.getLogger(__name__)

_END = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_IOMMU_GROUPS = Path("/sys/kernel/iommu_groups")
"""The machine's own: ours have other numbers, so that a program can be shown both in one directory."""
_COLLECTIONS = (5000, 4, 100_000)
"""Python's thresholds for looking for cyclic garbage. With 10,000 mdevs there are a million objects that live long, and
to look through all of them stops the daemon for most of a second: look through the young ones only. That is sound as
long as nothing cyclic gets old: an mdev that is removed leaves none (a test says so), and the daemon grew from 55 to
57 MB over 8,000 of them. Hosts keep Python's own thresholds, since a driver may make whatever it likes.
"""
_NONE_LENT = Lent()
_POLL = 0.05
"""Seconds between two looks at whether a user is gone."""


class Front:
    """What `serve` runs, and the `Operations` of its control API."""

    def __init__(
        self,
        config: Config,
        start_host: StartHost = RemoteHost,
        events: EventLog | None = None,
        lent: Lent = _NONE_LENT,
    ) -> None:
        """Owns the sockets of ``lent`` from `start` on."""
        self.run_dir = RunDir(config.run_dir)
        self._lent = lent
        self.bus = Bus(taken_groups=numbered(_IOMMU_GROUPS))
        self.registered = Parents(self.bus, self.run_dir.devices, config.restart, start_host)
        tree = MergedTree((os.geteuid(), os.getegid()))
        self.events = EventLog() if events is None else events
        layout = Layout(
            self.bus,
            tree,
            on_chown=self._chown,
            announce=self.events.announce,
            cpus=os.cpu_count() or 1,
            created=self.events.attend,
        )
        self.bus.subscribe(layout.on_event)
        self.bus.subscribe(self.events.on_event)
        self.bus.register_driver(
            RemoteVfioMdev(lambda uuid: remove_device_folder(self.run_dir.mdev(uuid)), self._lent.mdevs)
        )
        self._autostart = Starter(self.run_dir) if config.autostart is Autostart.MDEVCTL else None
        self._mount = Mount(tree, self.run_dir.sys)
        self._mounted = False
        self._mount_failure = ""
        self._pictures = PictureFiles()
        self._ways_in = ExitStack()

    def start(self) -> None:
        """Everything but the parents; raises when another daemon uses the run directory."""
        with ExitStack() as undo:
            undo.callback(self._lent.close)
            self._lent.check_places(self.run_dir.devices)
            undo.callback(self.run_dir.release)
            self.run_dir.prepare()
            with self.run_dir.explained():
                self._mount_tree()
            undo.callback(self._mount.unmount)
            control = ControlServer(self, self.run_dir.control, self._lent.control)
            with self.run_dir.explained():
                control.start()
            undo.callback(control.stop)
            undo.callback(self.events.end)  # when all has been told, and before who listens is hung up on
            self.events.tell(BUS_ADDED)
            undo.callback(self.events.tell, BUS_REMOVED)
            # Hosts first at the end: a remove that waits for a guest then ends, and with it what asked for it.
            undo.callback(self.registered.stop)
            if self._mounted and self._autostart is not None:
                self.bus.subscribe(self._autostart.on_event)
                self._autostart.start()
                undo.callback(self._autostart.stop)
            self._ways_in = undo.pop_all()

    def stop(self) -> None:
        """Disconnect every user, end the hosts, and leave no mount, no socket and no process."""
        self._ways_in.close()

    def _mount_tree(self) -> None:
        """Without FUSE the control API still serves everything, so that is no reason to stop."""
        try:
            self._mount.mount()
        except MountError as error:
            self._mount_failure = str(error)
            _log.warning("no sysfs tree: %s. The control socket serves everything all the same.", error)
        else:
            self._mounted = True

    def _chown(self, uuid: UUID, uid: int, gid: int) -> None:
        """The owner of an mdev's directory in sysfs is who may use its socket (as udev rules and libvirt expect).

        While it is bound to no driver it has none. The folder may be somebody's who puts a link in the socket's place.
        """
        for path in (self.run_dir.mdev(uuid), self.run_dir.socket(uuid)):
            with suppress(FileNotFoundError):
                os.chown(path, uid, gid, follow_symlinks=False)

    # --- Operations -----------------------------------------------------------------------------------------

    def status(self) -> DaemonView:
        return DaemonView(
            version=__version__,
            pid=os.getpid(),
            run_dir=str(self.run_dir.path),
            sysfs=str(self.run_dir.sys) if self._mounted else None,
            sysfs_reason=self._mount_failure,
            parents=self.parents(),
        )

    def parents(self) -> list[ParentView]:
        return self.registered.views()

    def types(self) -> list[TypeView]:
        return [
            TypeView(
                parent=parent.name,
                type=type_id,
                name=each.pretty_name or each.name,
                description=each.description,
                device_api=each.device_api,
                available_instances=self._available(parent, each),
            )
            for parent in self.bus.parents()
            for type_id, each in parent.types.items()
        ]

    def _available(self, parent: MdevParent, mdev_type: MdevType) -> int:
        try:
            return self.bus.available(parent, mdev_type)
        except (NoDevice, TimeoutError):  # its host died or is stuck; the others' types are told all the same
            return 0

    def mdevs(self) -> list[MdevView]:
        return [self._view(each, _try_to_inspect(each)) for each in self.bus.mdevs()]

    def mdev(self, uuid: UUID) -> MdevDetail:
        mdev = self._mdev(uuid)
        use = _try_to_inspect(mdev)
        shown = asdict(self._view(mdev, use))
        return MdevDetail(
            **shown,
            counters=use.counters if use else {},
            last_disconnect=use.last_disconnect if use else "",
            last_move=use.last_move if use else "",
            unmigratable=use.unmigratable if use else "",
            warnings=_warnings(use),
        )

    def values(self, uuid: UUID) -> ValuesView:
        found = self._remote(uuid).values(uuid)
        return ValuesView(uuid=str(uuid), opened=found.opened, values=found.values)

    def unmodelled(self, uuid: UUID) -> Unmodelled:
        return self._remote(uuid).unmodelled(uuid)

    def screenshot(self, uuid: UUID, head: int, level: int, *, pointer: bool) -> Png:
        host = self._remote(uuid)
        with ExitStack() as stack:
            file = stack.enter_context(self._pictures.file(host.host))
            picture = file.picture(host.copy_picture(uuid, head, file.fd))
            png = encoded(picture, level, pointer=pointer)
            return Png(png.size, _in(stack.pop_all(), png.pieces))

    def trace(self, uuid: UUID) -> RemoteTrace:
        return self._remote(uuid).trace(uuid)

    def uevents(self, after: int | None, daemon: str | None, *, attend: bool) -> EventReader:
        reader = self.events.reader(after, daemon)
        return self.events.attended(reader) if attend else reader

    def snapshot(self) -> SnapshotView:
        return self.events.snapshot()

    def register_parent(self, specification: str) -> ParentView:
        parsed = parse_parent(specification)
        self.registered.register(parsed)
        return self.registered.view(parsed.name)

    def unregister_parent(self, name: str) -> None:
        for mdev in [each for each in self.bus.mdevs() if each.parent.name == name]:
            use = _try_to_inspect(mdev)
            if use is not None and use.pid is not None:
                raise NotReady(
                    f"parent {name} cannot go: {mdev.uuid} is in use by pid {use.pid} ({use.program}): stop it, or "
                    "remove the mdev with --force, and try again"
                )
        self.registered.unregister(name)

    def create(self, type_id: str, parent: str | None, uuid: UUID | None) -> MdevView:
        chosen = self.bus.parent(parent) if parent is not None else self._only_parent_with(type_id)
        mdev = self.bus.create(chosen, type_id, uuid or uuid4())
        return self._view(mdev, None)

    def remove(self, uuid: UUID, *, wait: float, force: bool) -> None:
        """Without ``force`` an mdev in use stays as it is; with it the user is disconnected until the mdev is gone."""
        mdev = self._mdev(uuid)
        if force:
            _remove_forcibly(self.bus, mdev)
            return
        deadline = monotonic() + wait
        while (use := _inspect(mdev)) is not None and use.pid is not None:
            if monotonic() >= deadline:
                raise Busy(_in_use(uuid, use, wait))
            sleep(_POLL)
        _remove_or_wait(self.bus, mdev)

    def begin_move(self, uuid: UUID, purpose: Purpose) -> MoveView:
        return MoveView(socket=self._remote(uuid).begin_move(uuid, purpose))

    def hand_over(self, uuid: UUID, place: str) -> None:
        mdev = self._mdev(uuid)
        self._remote(uuid).hand_over(uuid, place)
        Thread(target=_remove_moved, args=(self.bus, mdev), name="moved", daemon=True).start()

    def _mdev(self, uuid: UUID) -> Mdev:
        try:
            return self.bus.mdev(uuid)
        except NoDevice as error:
            raise NoDevice(f"{error}: `mdev-user list` shows those there are") from None

    def _remote(self, uuid: UUID) -> RemoteParent:
        ops = self._mdev(uuid).parent.ops
        if not isinstance(ops, RemoteParent):
            raise NoDevice(f"the parent of {uuid} does not live in a host")
        return ops

    def _only_parent_with(self, type_id: str) -> MdevParent:
        parents = self.bus.parents()
        found = [each for each in parents if type_id in each.types]
        if len(found) == 1:
            return found[0]
        if not found:
            raise ConfigError(no_type(type_id, (known for each in parents for known in each.types)))
        names = ", ".join(each.name for each in found)
        raise ConfigError(f"expected one parent with the type {type_id}, there are: {names}; name one with --parent")

    def _view(self, mdev: Mdev, use: Inspection | None) -> MdevView:
        binding = mdev.binding
        path = device_path(mdev)
        return MdevView(
            uuid=str(mdev.uuid),
            parent=mdev.parent.name,
            type=mdev.type_id,
            state=mdev.state.value,
            group=binding.number if binding else None,
            socket=str(self.run_dir.socket(mdev.uuid)),
            sysfs=str(self.run_dir.sys / path) if self._mounted else None,
            client=_client(use),
            parked=use.parked if use else False,
        )


def serve(config: Config, lent: Lent = _NONE_LENT) -> int:
    """Run the daemon in the foreground until SIGTERM, SIGINT or SIGHUP. 0 after a clean end, 1 when it cannot run."""
    logging.basicConfig(level=config.log_level.upper(), format="%(asctime)s %(levelname).1s %(message)s")
    with _control_groups():
        return _serve(config, lent)


def _serve(config: Config, lent: Lent) -> int:
    signals = _take_signals()
    _raise_file_limit()
    gc.set_threshold(*_COLLECTIONS)
    front = Front(config, lent=lent)
    try:
        front.start()
    except (MdevUserError, OSError) as error:
        _log.error("cannot serve: %s", error)
        return 1
    try:
        for specification in config.parents:
            front.registered.register(specification)
    except (MdevUserError, OSError) as error:
        _log.error("cannot register a parent: %s", error)
        front.stop()
        return 1
    watch = FileWatch(front.registered.files, front.registered.reload)
    if config.reload is Reload.CHANGED:
        watch.start()
    notify("READY=1")
    _log.info("serving %s; run directory %s", _counted(len(config.parents), "parent"), front.run_dir.path)
    (number,) = signals.recv(1)
    notify("STOPPING=1")
    _tell_the_end(signal.Signals(number), len(front.bus.mdevs()))
    watch.stop()
    front.stop()
    return 0


def _tell_the_end(number: signal.Signals, mdevs: int) -> None:
    _log.info("ending: %s came", number.name)
    if mdevs:
        _log.warning("what ends with the daemon: %s; who uses one is disconnected", _counted(mdevs, "mdev"))


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _in(context: ExitStack, pieces: Iterator[Bytes]) -> Iterator[Bytes]:
    with context:
        yield from pieces


@contextmanager
def _control_groups() -> Iterator[None]:
    """For the processes that mdevs have of their own."""
    try:
        groups = DaemonGroup()
    except Refused as refused:
        _log.info("processes of mdevs have no control groups, only limits of their own: %s", refused)
        yield
        return
    _log.info("processes of mdevs have control groups in %s", groups.folder)
    try:
        yield
    finally:
        groups.close()


def numbered(folder: Path) -> list[int]:
    """The names in a folder that are numbers; none where it cannot be read."""
    with suppress(OSError):  # also where /sys is that of a `run` whose daemon is dead
        return [int(each.name) for each in folder.iterdir() if each.name.isdecimal()]
    return []


def _take_signals() -> socket.socket:
    """A socket that becomes readable when the daemon is to end.

    A signal may be delivered to a thread of libfuse's; a main thread that waits for a lock would never see it. And
    libfuse takes signals that have no handler: this comes before it.
    """
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)  # noqa: FBT003 - as set_wakeup_fd demands
    signal.set_wakeup_fd(theirs.detach(), warn_on_full_buffer=False)
    for number in _END:
        signal.signal(number, lambda _number, _frame: None)
    return ours


def _raise_file_limit() -> None:
    """Every mdev has a listening socket, and hosts inherit the limit; the soft one is for users of select()."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _inspect(mdev: Mdev) -> Inspection | None:
    """How the mdev is used; None where its host does not know it (any more, or yet)."""
    ops = mdev.parent.ops
    if not isinstance(ops, RemoteParent) or mdev.binding is None:
        return None
    try:
        return ops.inspect(mdev.uuid)
    except NoDevice:
        return None


def _try_to_inspect(mdev: Mdev) -> Inspection | None:
    """None also where the host is stuck: what the bus knows of the mdev is told all the same."""
    try:
        return _inspect(mdev)
    except TimeoutError:
        return None


def _in_use(uuid: UUID, use: Inspection, waited: float) -> str:
    """Why it is not removed. Who has waited is not told to wait."""
    user = f"pid {use.pid} ({use.program})"
    if waited <= 0:
        return f"{uuid} is in use by {user}: stop it, or remove with --wait SECONDS or --force"
    return f"{uuid} is still in use by {user} after {waited:g} s: stop it, or remove with --force"


def _remove_forcibly(bus: Bus, mdev: Mdev) -> None:
    """Begin the remove, which lets no new user in, and disconnect the one there is until it has ended."""
    ops = mdev.parent.ops
    with ThreadPoolExecutor(1) as pool:
        removing = pool.submit(_remove_or_wait, bus, mdev)
        while wait([removing], _POLL).not_done:
            if isinstance(ops, RemoteParent):
                with suppress(NoDevice):
                    ops.disconnect(mdev.uuid)
        removing.result()


def _remove_or_wait(bus: Bus, mdev: Mdev) -> None:
    """Remove it; what somebody else removes already (a blocked write to ``remove``) is gone when this returns."""
    try:
        bus.remove_mdev(mdev)
    except NotReady:
        if mdev.state is not State.REMOVING:
            raise
        while mdev in bus.mdevs():
            sleep(_POLL)


def _remove_moved(bus: Bus, mdev: Mdev) -> None:
    """Whoever is told that it has moved need not wait for that."""
    try:
        _remove_or_wait(bus, mdev)
    except (MdevUserError, OSError) as error:
        _log.warning("%s has moved and cannot be removed: %s", mdev.uuid, error)


def _client(use: Inspection | None) -> ClientView | None:
    if use is None or use.pid is None:
        return None
    return ClientView(pid=use.pid, name=use.program, uid=use.uid, unshared_memory=use.unshared_memory)


def _warnings(use: Inspection | None) -> list[str]:
    if use is None or use.unshared_memory < UNSHARED:
        return []
    return [
        f"{use.unshared_memory // MiB} MiB of the guest's memory is not shared, so every DMA is a message: start "
        "QEMU with -object memory-backend-memfd,...,share=on (see mdev-user qemu-args)"
    ]
