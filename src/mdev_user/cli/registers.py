"""``mdev-user registers``: the registers that a parent driver declares, as a document, a C header or data."""

from enum import StrEnum
from typing import Annotated

import typer

from mdev_user.cli.output import print_json, print_line
from mdev_user.cli.register_header import header
from mdev_user.cli.register_tables import tables
from mdev_user.daemon.specification import parse_parent
from mdev_user.driver.inspection.register_map import register_map
from mdev_user.host.loader import check_names, load_class


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
    asked = parse_parent(parent)
    kind = load_class(asked.driver)
    check_names(asked.driver, kind, asked.options)
    found = register_map(kind)
    if output is Form.JSON:
        print_json(found)
    else:
        print_line(header(found) if output is Form.C else tables(found))
