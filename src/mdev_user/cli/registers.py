"""``mdev-user registers``: the registers that a parent driver declares, as a document, a C header or data."""

from enum import StrEnum
from typing import Annotated

import typer

from mdev_user.cli.output import print_json, print_line
from mdev_user.cli.parent_class import class_of
from mdev_user.cli.register_header import header
from mdev_user.cli.register_tables import tables
from mdev_user.driver.inspection.register_map import register_map


class Form(StrEnum):
    """How registers are printed."""

    MARKDOWN = "markdown"
    C = "c"
    JSON = "json"


def registers(
    parent: Annotated[
        str, typer.Argument(metavar="PARENT", help="DRIVER[,key=value...] or FILE.py:CLASS[,key=value...].")
    ],
    output: Annotated[
        Form, typer.Option("--output", "-o", help="Tables for people, a C header, or JSON.")
    ] = Form.MARKDOWN,
) -> None:
    """Print the registers that a parent driver declares.

    No daemon is asked: the driver's own code is imported here, and no parent is made of it.
    """
    found = register_map(class_of(parent))
    if output is Form.JSON:
        print_json(found)
    else:
        print_line(header(found) if output is Form.C else tables(found))
