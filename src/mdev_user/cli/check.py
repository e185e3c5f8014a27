"""``mdev-user check``: try whether a parent driver holds what its declarations promise."""

from typing import Annotated

import typer

from mdev_user.cli.output import print_line
from mdev_user.cli.parent_class import class_of
from mdev_user.driver.parent import Parent
from mdev_user.errors import ConfigError
from mdev_user.testing.conformance.check import EXAMPLES
from mdev_user.testing.conformance.check import check as check_parent
from mdev_user.testing.conformance.operations import CheckFailed


def check(
    parent: Annotated[str, typer.Argument(metavar="PARENT", help="DRIVER or FILE.py:CLASS.")],
    examples: Annotated[int, typer.Option(min=1, help="How many cases to try of each kind.")] = EXAMPLES,
    seed: Annotated[int, typer.Option(help="Try other cases: every number has its own.")] = 0,
) -> None:
    """Try a parent driver with what nobody thought of; a case that fails is printed as a script.

    No daemon is asked. Devices are used, reset, saved and loaded in interpreters of their own.
    """
    kind = class_of(parent)
    if not issubclass(kind, Parent):
        raise ConfigError(f"{parent}: expected a Parent with a declared function, given one that does all by hand")
    try:
        report = check_parent(kind, examples=examples, seed=seed)
    except CheckFailed as error:
        print_line(str(error))
        raise typer.Exit(1) from None
    for line in report.checks:
        print_line(line)
    print_line(f"{report.driver}: nothing found")
