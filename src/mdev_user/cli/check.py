"""``mdev-user check``: try whether a parent driver holds what its declarations promise."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from mdev_user.cli.output import print_line
from mdev_user.daemon.specification import ParentSpecification, parse_parent
from mdev_user.driver.parent import Parent
from mdev_user.errors import ConfigError
from mdev_user.host.loader import let_go, load_parent
from mdev_user.testing.conformance.check import EXAMPLES
from mdev_user.testing.conformance.check import check as check_parent
from mdev_user.testing.conformance.operations import CheckFailed


def check(
    parent: Annotated[
        str,
        typer.Argument(
            metavar="PARENT", help="DRIVER[,key=value...] or FILE.py:CLASS[,key=value...], as `serve` takes it."
        ),
    ],
    examples: Annotated[int, typer.Option(min=1, help="How many cases to try of each kind.")] = EXAMPLES,
    seed: Annotated[int, typer.Option(help="Try other cases: every number has its own.")] = 0,
) -> None:
    """Try a parent driver with what nobody thought of; a case that fails is printed as a script.

    No daemon is asked. Devices are used, reset, saved and loaded in interpreters of their own.
    """
    asked = parse_parent(parent)
    with _class_of(asked) as kind:
        try:
            report = check_parent(kind, examples=examples, seed=seed, options=asked.options)
        except CheckFailed as error:
            print_line(str(error))
            raise typer.Exit(1) from None
    for line in report.checks:
        print_line(line)
    print_line(f"{report.driver}: nothing found")


@contextmanager
def _class_of(asked: ParentSpecification) -> Iterator[type[Parent[Any, Any]]]:  # Any: of whatever profile
    """The class of a parent that can be made: else, with wrong options say, what is told is what `serve` tells."""
    made = load_parent(asked.driver, asked.options)
    try:
        if not isinstance(made, Parent):
            raise ConfigError(
                f"{asked.driver}: expected a Parent with a declared function, given one that does all by hand"
            )
        yield type(made)
    finally:
        let_go(made)
