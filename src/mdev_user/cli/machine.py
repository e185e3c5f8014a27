"""The facts about this machine that ``doctor`` judges, each asked for in one place so that tests can tell others."""

import ctypes
import ctypes.util
import os
import platform
import resource
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

from mdev_user.daemon.run_dir import mounts_below
from mdev_user.guests.foreign import program_output
from mdev_user.host.program.groups import refusal
from mdev_user.vfio.requests import MOST_REGIONS, region_offset
from mdev_user.vfio_user.loops import why_not_native


class Machine:
    """This machine. What is absent or cannot be read is None or empty, never an exception."""

    uid: int
    environment: Mapping[str, str]
    kernel: str
    architecture: str
    python: str

    def __init__(self) -> None:
        self.uid = os.geteuid()
        self.environment = os.environ
        self.kernel = platform.release()
        self.architecture = platform.machine()
        self.python = platform.python_version()

    def text(self, path: str) -> str | None:
        """What a file says, without white space around it."""
        try:
            return Path(path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return None

    def open_error(self, path: str) -> OSError | None:
        """What opening a device for reading and writing fails with."""
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            return error
        return None

    def why_no_control_groups(self) -> str:
        """Why a daemon that is started from here has none for the processes of its mdevs; empty where it has."""
        return refusal()

    def memfd_error(self) -> OSError | None:
        """What making a sealable memfd of 4 EiB, as an mdev's regions are kept in, fails with."""
        try:
            fd = os.memfd_create("mdev-user-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError as error:
            return error
        try:
            os.ftruncate(fd, region_offset(MOST_REGIONS))
        except OSError as error:
            return error
        finally:
            os.close(fd)
        return None

    def hard_limit(self, kind: int) -> int | None:
        """A hard resource limit (``resource.RLIMIT_...``); None for none."""
        limit = resource.getrlimit(kind)[1]
        return None if limit == resource.RLIM_INFINITY else limit

    def program(self, name: str) -> str | None:
        """The path of a program in $PATH."""
        return shutil.which(name)

    def is_setuid(self, path: str) -> bool:
        try:
            return bool(Path(path).stat().st_mode & 0o4000)
        except OSError:
            return False

    def output(self, *command: str) -> str:
        """What a program prints on stdout; nothing where it cannot run."""
        return program_output(list(command))

    def native_loop_error(self) -> str:
        """Why accesses are not answered by the native loop; empty when it is there."""
        return why_not_native()

    def library_error(self, name: str) -> str:
        """Why a library cannot be loaded; empty when it can."""
        try:
            ctypes.CDLL(name)
        except OSError as error:
            return str(error)
        return ""

    def libfuse_version(self) -> str | None:
        """The version of libfuse 3."""
        name = ctypes.util.find_library("fuse3")
        if name is None:
            return None
        try:
            version = ctypes.CDLL(name).fuse_pkgversion
        except (OSError, AttributeError):
            return None
        version.restype = ctypes.c_char_p
        text = version()
        return text.decode("ascii", "replace") if isinstance(text, bytes) else None

    def mounts_below(self, folder: Path) -> list[Path]:
        return mounts_below(Path(os.path.realpath(folder)))

    def listens(self, path: Path) -> bool:
        """Whether somebody accepts connections on a UNIX socket."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as client:
            client.settimeout(1)
            try:
                client.connect(str(path))
            except OSError:
                return False
        return True
