"""``mdev-user qemu-args``: what to add to QEMU's command line for one mdev."""

import re
import shlex
from enum import StrEnum
from typing import Annotated
from uuid import UUID

import typer

from mdev_user.cli.output import RunDirOption, print_json, print_line
from mdev_user.daemon.client import Client
from mdev_user.daemon.run_dir import RunDir
from mdev_user.guests.arguments import qemu_arguments
from mdev_user.units import GiB, MiB


class Form(StrEnum):
    """How arguments are printed."""

    SHELL = "shell"
    JSON = "json"


_SIZE = re.compile(r"(?P<number>[1-9][0-9]{0,8})(?P<unit>[MG]?)")
_UNITS = {"": MiB, "M": MiB, "G": GiB}  # as QEMU's -m: a bare number is in MiB


def _bytes(text: str) -> int:
    match = _SIZE.fullmatch(text.upper())
    if match is None:
        raise typer.BadParameter(
            f"expected a size in M or G, such as 512M or 4G, given {text!r}", param_hint="'--memory'"
        )
    return int(match["number"]) * _UNITS[match["unit"]]


def qemu_args(
    uuid: Annotated[UUID, typer.Argument(help="The mdev.")],
    memory: Annotated[str, typer.Option(metavar="SIZE", help="The guest's RAM, e.g. 512M or 4G.")] = "1G",
    run_dir: RunDirOption = None,
    output: Annotated[Form, typer.Option("--output", "-o", help="One line for a shell, or a JSON array.")] = Form.SHELL,
) -> None:
    """Print the arguments that give an mdev to a QEMU >= 10.1 guest.

    They make the guest's RAM shared, without which the device would copy each DMA through its socket; a guest that gets
    several mdevs needs the -object and -machine arguments once.
    """
    size = _bytes(memory)
    mdev = Client(RunDir(run_dir)).mdev(uuid)
    arguments = qemu_arguments(mdev.socket, size)
    if output is Form.JSON:
        print_json(arguments)
    else:
        print_line(shlex.join(arguments))
