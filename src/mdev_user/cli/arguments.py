"""What is said of a wrong argument: what was expected, and what was given. Nothing is imported that takes long."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

_EXPECTED = {
    "uuid_parsing": "a UUID such as 83b8f4f2-509f-382f-3c1e-e6bfe0fa1001 (see `mdev-user list`)",
    "int_parsing": "a whole number",
    "float_parsing": "a number",
    "greater_than_equal": "a number of at least {ge:g}",
    "less_than_equal": "a number of at most {le:g}",
}
"""By pydantic's name of what is wrong, https://docs.pydantic.dev/latest/errors/validation_errors."""


@contextmanager
def explain() -> Iterator[None]:
    """Reword what pydantic says, in its own words and without the value."""
    try:
        yield
    except typer.BadParameter as error:
        # An older typer, without pydantic, names the value itself.
        # Any: pydantic's dictionaries, of whatever each error has.
        errors: list[dict[str, Any]] = getattr(error.__cause__, "errors", list)()
        if errors:
            error.message = _reworded(errors[0])
        raise


def _reworded(found: dict[str, Any]) -> str:  # Any: as above
    given, limits = found["input"], found.get("ctx", {})
    if found["type"] in _EXPECTED:
        return f"expected {_EXPECTED[found['type']].format(**limits)}, given {str(given)!r}"
    text: str = found["msg"].removeprefix("Value error, ")
    _given, is_a_choice, choices = text.partition(" is not one of ")
    return f"expected one of {choices.rstrip('.')}, given {given!r}" if is_a_choice else text
