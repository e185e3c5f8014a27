"""Writing to stdout, and what is said when that cannot be done. Nothing is imported here that takes long."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mdev_user.errors import MdevUserError


class OutputError(MdevUserError):
    """What was printed cannot be written: to a full disk, say."""


@contextmanager
def writing() -> Iterator[None]:
    """OutputError for what stdout refuses; that its reader has ended (EPIPE) is typer's to handle, which is silent."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard_the_rest()
        raise OutputError(f"the output cannot be written: {error.strerror}") from None


def flush() -> None:
    """Write what is still in Python's buffer: at exit an error could not be told any more."""
    with writing(), suppress(AttributeError):  # it may be closed: None then, of which its type knows nothing
        sys.stdout.flush()


def _discard_the_rest() -> None:
    """Else Python tries it again at exit, and says so in its own words."""
    with suppress(OSError):  # a test's has no descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
