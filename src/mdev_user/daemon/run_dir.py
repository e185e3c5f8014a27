"""The run directory: where everything of one daemon lies, who may see it, and that no second daemon uses it.

```
RUN/lock                                  held by the daemon (flock); its text is the daemon's pid
RUN/log                                   what a daemon in the background and its hosts log (0600), over all starts
RUN/control.sock                          the control API
RUN/devices/<uuid>/vfio-user.sock         an mdev's vfio-user socket
RUN/devices/migration/<uuid>.sock         while its state is moved (folder 0700, the daemon's)
RUN/root/sys                              where the sysfs tree is mounted
RUN/root/etc/mdevctl.d, usr/lib/mdevctl   links to what mdevctl wants beside it
```
"""

import fcntl
import logging
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

from mdev_user.errors import Busy, ConfigError
from mdev_user.host import MIGRATION_FOLDER, SOCKET_NAME

MOST_SOCKET_PATH = 107
"""Bytes of a UNIX socket's path: sockaddr_un.sun_path is 108 with its NUL (unix(7))."""

_LONGEST_BELOW = len("/devices/") + 36 + len("/") + len(SOCKET_NAME)

RUN_DIR_VARIABLE = "MDEV_USER_RUN_DIR"
"""Set by `mdev-user run`, so that commands in it find the daemon whose tree they see."""

_LONGEST_PID = 20
_SCRIPTS = Path("/usr/lib/mdevctl")
_SCRIPT_FOLDERS = ("scripts.d/callouts", "scripts.d/notifiers")

_log = logging.getLogger(__name__)


def default_run_dir(environment: Mapping[str, str] = os.environ, uid: int | None = None) -> Path:
    """$MDEV_USER_RUN_DIR, else /run/mdev-user for root, $XDG_RUNTIME_DIR/mdev-user for anybody else.

    ConfigError where none of that is set.
    """
    if named := environment.get(RUN_DIR_VARIABLE):
        return Path(named)
    if (os.geteuid() if uid is None else uid) == 0:
        return Path("/run/mdev-user")
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    if not runtime.startswith("/"):
        raise ConfigError(
            f"expected $XDG_RUNTIME_DIR to name your folder for sockets, it is {runtime!r}: "
            "log in through systemd (or `loginctl enable-linger`), or give --run-dir DIR"
        )
    return Path(runtime) / "mdev-user"


class RunDir:
    """The paths below one run directory. Making a RunDir touches nothing; the daemon calls ``prepare``."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """Without a path it is that of `default_run_dir`."""
        # absolute: libfuse changes the working directory, and QEMU gets these paths in another one
        self.path = (default_run_dir() if path is None else Path(path)).absolute()
        self.lock = self.path / "lock"
        self.log = self.path / "log"
        self.control = self.path / "control.sock"
        self.devices = self.path / "devices"
        self.root = self.path / "root"
        self.sys = self.root / "sys"
        self._lock_fd: int | None = None

    def mdev(self, uuid: UUID) -> Path:
        """The mdev's own folder (mode 0700, its owner's)."""
        return self.devices / str(uuid)

    def socket(self, uuid: UUID) -> Path:
        return self.mdev(uuid) / SOCKET_NAME

    def check_length(self) -> None:
        """ConfigError if an mdev's socket below this folder would have a longer path than the kernel takes."""
        length, most = len(os.fsencode(self.path)), MOST_SOCKET_PATH - _LONGEST_BELOW
        if length > most:
            raise ConfigError(
                f"run directory {self.path} is too long: expected at most {most} bytes, given {length}, since a "
                f"socket's path has at most {MOST_SOCKET_PATH}; give a shorter --run-dir DIR"
            )

    def prepare(self) -> None:
        """Make the folders, take the lock until ``release``, and remove the sockets that a dead daemon left.

        Raises:
            ConfigError: the path is too long, the folder is another user's or writable by others, or cannot be made.
            Busy: another daemon uses it; its pid is in the message.
        """
        self.check_length()
        with self.explained():
            self._make_top()
            try:
                self._take_lock()
                self._make_folders()
                self._remove_stale_devices()
            except BaseException:
                self.release()
                raise

    def open_log(self) -> int:
        """A file descriptor of ``log``, which appends and reads; makes the folder and the file where there are none.

        For who starts a daemon, which is handed it: so errors are those of ``prepare``, Busy included, since another
        daemon's log is not to be mixed with that of one that cannot serve.
        """
        self.check_length()
        with self.explained():
            self._make_top()
            try:
                self._take_lock()
                return self._open_log()
            finally:
                self.release()

    def holder(self) -> int | None:
        """The pid that the daemon which serves here, or the last one, wrote into the lock; None without any."""
        try:
            return int(self.lock.read_bytes()[:_LONGEST_PID])
        except (OSError, ValueError):
            return None

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Makes of an OSError in the block, which uses this folder, a ConfigError that names it."""
        try:
            yield
        except OSError as error:
            where = error.filename
            what = "" if where is None or str(where) == str(self.path) else f" ({where})"
            raise ConfigError(
                f"run directory {self.path} cannot be used: {error.strerror or error}{what}; "
                "mend that, or give another --run-dir DIR"
            ) from error

    def release(self) -> None:
        """Let the next daemon have it. The folders stay."""
        if self._lock_fd is not None:
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)  # also for a child that is between fork and exec
            os.close(self._lock_fd)
            self._lock_fd = None

    def _make_top(self) -> None:
        try:
            self.path.mkdir(parents=True, mode=0o700)
        except FileExistsError:
            self._check_top()
            return
        self.path.chmod(0o711)  # others may pass to the mdevs that they own, and list nothing

    def _check_top(self) -> None:
        # Whoever could rename entries here could put a socket of his own in an mdev's place.
        found = self.path.stat()
        if not stat.S_ISDIR(found.st_mode):
            raise ConfigError(f"run directory {self.path} is not a folder; give another --run-dir DIR")
        if found.st_uid != os.geteuid():
            raise ConfigError(
                f"run directory {self.path} belongs to user {found.st_uid}, expected {os.geteuid()}; "
                "give another --run-dir DIR"
            )
        if found.st_mode & 0o022:
            raise ConfigError(
                f"run directory {self.path} can be written by others (mode {stat.S_IMODE(found.st_mode):04o}); "
                f"`chmod go-w {self.path}`, or give another --run-dir DIR"
            )

    def _take_lock(self) -> None:
        # Not inherited by programs that are started (O_CLOEXEC), so no child can keep it past the daemon's end.
        fd = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(fd, _LONGEST_PID, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise Busy(
                f"run directory {self.path} is in use by the daemon with pid {owner or 'unknown'}; "
                "end that one by `mdev-user stop`, or give another --run-dir DIR"
            ) from None
        self._lock_fd = fd
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)

    def _open_log(self) -> int:
        # O_RDWR does not wait for a reader, should it be a FIFO.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NOCTTY
        fd = os.open(self.log, flags, 0o600)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                raise ConfigError(
                    f"{self.log} is not a file of user {os.geteuid()}, which the daemon logs to: remove it"
                )
            os.fchmod(fd, 0o600)  # whatever the umask; guests' programs and drivers' errors are in it
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _make_folders(self) -> None:
        for folder, mode in (
            (self.devices, 0o711),
            (self.root, 0o755),
            (self.root / "etc", 0o755),
            (self.root / "usr", 0o755),
            (self.root / "usr" / "lib", 0o755),
        ):
            folder.mkdir(exist_ok=True)
            folder.chmod(mode)
        with suppress(FileExistsError):  # never looked into: the mount of a dead daemon may still be on it
            self.sys.mkdir()
        definitions = self.root / "etc" / "mdevctl.d"
        if os.path.lexists(definitions) and not definitions.is_symlink():  # made by hand: a private folder
            _make_script_folders(definitions)
        else:
            _link(definitions, mdevctl_definitions())
        _link(self.root / "usr" / "lib" / "mdevctl", self._mdevctl_scripts())

    def _mdevctl_scripts(self) -> Path:
        """The machine's, or empty folders of our own where it has none: mdevctl >= 1.3 ends without them."""
        if all((_SCRIPTS / folder).is_dir() for folder in _SCRIPT_FOLDERS):
            return _SCRIPTS
        own = self.path / "mdevctl"
        _make_script_folders(own)
        return own

    def _remove_stale_devices(self) -> None:
        devices = Path(os.path.realpath(self.devices))  # as the kernel names mount points
        mounted = mounts_below(devices)
        for folder in list(devices.iterdir()):
            if _is_uuid(folder.name) and not any(each.is_relative_to(folder) for each in mounted):
                remove_device_folder(folder)
        for socket in (devices / MIGRATION_FOLDER).glob("*.sock"):
            socket.unlink()


def mounts_below(folder: Path, mountinfo: str | None = None) -> list[Path]:
    """What is mounted on ``folder`` or below it, dead FUSE mounts included (``os.path.ismount`` sees none).

    ``folder`` is free of symbolic links; ``mountinfo`` is the text of /proc/self/mountinfo
    (proc_pid_mountinfo(5): field 5, with octal escapes).
    """
    if mountinfo is None:
        mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    return [point for point in _mount_points(mountinfo) if point.is_relative_to(folder)]


def _mount_points(mountinfo: str) -> Iterator[Path]:
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if len(fields) > 4:
            point = fields[4]
            for escape, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
                point = point.replace(escape, character)
            yield Path(point)


def remove_device_folder(folder: Path) -> None:
    """Our own socket and the folder around it; whatever else lies there stays, and is told."""
    socket = folder / SOCKET_NAME
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            return
        if os.path.lexists(socket) and stat.S_ISSOCK(socket.lstat().st_mode):
            socket.unlink()
        folder.rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        _log.warning("what a dead daemon left in %s stays there: %s", folder, error)


def _is_uuid(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False


def mdevctl_definitions() -> Path:
    """Where mdevctl keeps its definitions: the system's for root, a folder of the user's own otherwise."""
    if os.geteuid() == 0:
        return Path("/etc/mdevctl.d")
    folder = Path.home() / ".config" / "mdevctl.d"
    try:
        _make_script_folders(folder)
    except OSError as error:
        _log.warning("mdevctl will not find its definitions: %s", error)
    return folder


def _make_script_folders(above: Path) -> None:
    """Mdevctl makes nothing of all this, and ends when a folder that it looks into is absent."""
    for folder in _SCRIPT_FOLDERS:
        (above / folder).mkdir(parents=True, exist_ok=True)


def _link(link: Path, target: Path) -> None:
    if link.is_symlink():
        if link.readlink() == target:
            return
        link.unlink()
    if os.path.lexists(link):  # made by hand
        return
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(target)
