"""``mdev-user-qemu``: QEMU with a supervisor of its own; what a domain of libvirt's has as its ``<emulator>``.

libvirt starts an emulator without the environment that libvirtd has. So the daemon is told by /sys, and the QEMU by
PATH, unless a script sets the variables before.
"""

import os
import shutil
import sys
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

from mdev_user.daemon.run_dir import RUN_DIR_VARIABLE
from mdev_user.errors import ConfigError
from mdev_user.sysfs.mountpoint import places_of

QEMU_VARIABLE = "MDEV_USER_QEMU"
"""The QEMU to run, where it is not the first in PATH."""
_QEMU = "qemu-system-x86_64"
_SYS = Path("/sys")


def main() -> None:
    """Become QEMU, or say on stderr why not, with status 1."""
    arguments = sys.argv[1:]
    try:
        qemu = _emulator()
    except ConfigError as error:
        sys.exit(f"mdev-user-qemu: {error}")
    if _asks_only(arguments):
        os.execv(qemu, [qemu, *arguments])  # noqa: S606 - what this command is for
    _run([*_of_run_dir(), "--", qemu, *arguments])


def _run(words: list[str]) -> NoReturn:
    from mdev_user.cli import main as command  # noqa: PLC0415 - who only asks need not wait for it

    sys.argv = ["mdev-user", "run", *words]
    command()
    sys.exit(0)


def _emulator() -> str:
    named = os.environ.get(QEMU_VARIABLE, _QEMU)
    found = shutil.which(named)
    if found is None:
        raise ConfigError(
            f"expected {_QEMU} in PATH, or its path in ${QEMU_VARIABLE}, given {named!r}, which was not found"
        )
    return found


def _asks_only(arguments: list[str]) -> bool:
    """Whether QEMU shall tell what it can do, as libvirt asks it to; that needs no device."""
    machines = [value for option, value in pairwise(arguments) if option.endswith("-machine")]
    return any(value.split(",")[0] == "none" for value in machines)


def _of_run_dir() -> list[str]:
    """The daemon whose tree /sys shows; where it shows none, the usual one."""
    if RUN_DIR_VARIABLE in os.environ:
        return []
    return next((["--run-dir", str(each.parents[1])] for each in places_of(_SYS)), [])
