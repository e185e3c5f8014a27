"""``mdev-user run``: become a program that sees the daemon's tree in /sys."""

import os
import pwd
import shutil
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from errno import ENOENT, ENOEXEC, ENOTDIR
from functools import partial
from typing import Annotated, NoReturn

import typer

from mdev_user.cli.options import RunDirOption
from mdev_user.daemon.run_dir import RUN_DIR_VARIABLE, RunDir
from mdev_user.errors import ConfigError, MountError, NoDevice
from mdev_user.sysfs.merged import MERGED
from mdev_user.sysfs.namespace import Surroundings, enter
from mdev_user.uapi.launcher import Launch, Numbers, Serve, is_served

_NOT_FOUND, _NOT_EXECUTABLE = 127, 126
"""What shells say of a command that is not there, and of one that cannot be executed."""
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


class Events(StrEnum):
    """Who is told of the tree's uevents as udevd tells of the machine's."""

    PRIVATE = "private"
    HOST = "host"
    NONE = "none"


def run(
    command: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND [ARG]", help="The program (default: $SHELL).")
    ] = None,
    sysfs_only: Annotated[
        bool, typer.Option("--sysfs-only", help="Start no supervisor: the VFIO nodes in /dev are seen, but none opens.")
    ] = False,
    events: Annotated[
        Events,
        typer.Option(
            help="Tell libudev's listeners of the tree's uevents: those in COMMAND's own, otherwise empty network "
            "(private; there an ordinary user is root), those of the whole machine (host; as root), or nobody."
        ),
    ] = Events.NONE,
    run_dir: RunDirOption = None,
) -> None:
    """Run a program that sees the mdevs in /sys and /dev/vfio, beside all that the machine has there.

    It replaces this command, so its exit status, signals and terminal are its own; when it and what it started have
    ended, nothing of it is left. 127: there is no such program; 126: it cannot be executed.
    """
    place = RunDir(run_dir)
    if events is Events.HOST and os.geteuid() != 0:
        raise ConfigError("--events=host tells the whole machine, which takes root; --events=private does not")
    _check_tree(place)
    launch = None if sysfs_only else Launch(partial(_supervise, place))
    enter(_surroundings(place, events))
    if events is not Events.NONE:
        from mdev_user.daemon.announcer import start_announcer  # noqa: PLC0415 - only who wants it waits for it

        start_announcer(place)
    if launch is not None:
        launch.begin(is_served)
    _become(command or [_shell()], {**os.environ, RUN_DIR_VARIABLE: str(place.path), **_FOR_LIBUDEV})


def _surroundings(place: RunDir, events: Events) -> Surroundings:
    return Surroundings(
        place.sys,
        place.root / "etc" / "mdevctl.d",
        own_network=events is Events.PRIVATE,
        listens=events is not Events.NONE,
    )


_FOR_LIBUDEV = {"SYSTEMD_DEVICE_VERIFY_SYSFS": "0"}
"""Else it takes /sys for no sysfs, by statfs(2), and finds no devices (systemd: docs/ENVIRONMENT.md)."""


def _supervise(place: RunDir) -> Serve:
    """In the supervisor's process."""
    from mdev_user.uapi.opening import Opener  # noqa: PLC0415 - takes long, and is done beside what the program does
    from mdev_user.uapi.supervisor import Supervisor, end_process  # noqa: PLC0415 - as above

    def serve(listener: int, numbers: Numbers) -> NoReturn:
        Supervisor(listener, numbers.base, numbers.limit, Opener(place.sys, place.devices)).serve()
        end_process()

    return serve


def _check_tree(place: RunDir) -> None:
    """MountError or NoDevice unless the tree answers this user."""
    try:
        (place.sys / MERGED).lstat()
    except PermissionError:
        raise MountError(
            f"the tree in {place.path} is seen by the user of that daemon, not by uid {os.geteuid()}: "
            "run this as that user, or start a daemon of your own"
        ) from None
    except OSError:
        _explain_absence(place)


def _explain_absence(place: RunDir) -> NoReturn:
    from mdev_user.daemon.client import Client  # noqa: PLC0415 - takes longer to import than all the rest

    reason = Client(place).status().sysfs_reason
    raise NoDevice(f"the daemon at {place.path} has no sysfs tree: {reason or 'it was unmounted; start it anew'}")


def _shell() -> str:
    with suppress(KeyError):
        return os.environ.get("SHELL") or pwd.getpwuid(os.geteuid()).pw_shell or "/bin/sh"
    return "/bin/sh"


def _become(command: list[str], environment: Mapping[str, str]) -> NoReturn:
    for number in _IGNORED_BY_PYTHON:
        signal.signal(number, signal.SIG_DFL)
    with suppress(AttributeError):  # it may be closed: None then, of which its type knows nothing
        sys.stdout.flush()
    try:
        _execute(command, environment)
    except OSError as error:
        from mdev_user.cli.output import print_error  # noqa: PLC0415 - takes longer to import than all the rest

        found = shutil.which(command[0]) is not None
        reason = "its interpreter is not there" if found and error.errno == ENOENT else error.strerror
        print_error(f"cannot run {command[0] or repr('')}: {reason}")
        there = found or error.errno not in {ENOENT, ENOTDIR}
        raise typer.Exit(_NOT_EXECUTABLE if there else _NOT_FOUND) from None


def _execute(command: list[str], environment: Mapping[str, str]) -> NoReturn:
    if not command[0]:  # Python would raise ValueError
        raise FileNotFoundError(ENOENT, os.strerror(ENOENT))
    try:
        os.execvpe(command[0], command, environment)  # noqa: S606 - what this command is for
    except OSError as error:
        found = shutil.which(command[0])
        if error.errno != ENOEXEC or found is None:
            raise
        # A script that names no interpreter.
        os.execve("/bin/sh", ["/bin/sh", found, *command[1:]], environment)  # noqa: S606 - as above
