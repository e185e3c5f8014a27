"""Files that a saved state, or what a guest shows, is in: private, and there as a whole or not at all."""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from mdev_user.errors import InvalidValue


@contextmanager
def new_state_file(path: Path) -> Iterator[BinaryIO]:
    """As `new_file`; OSError also when the data cannot be kept."""
    with new_file(path) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """What the block writes takes the place of ``path`` at its end; if it raises, nothing was there.

    Mode 0600 from its first moment, whatever the umask: it is what a guest's device knows. OSError as of open(2) and
    write(2).
    """
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise InvalidValue(f"{path} is no plain file: expected the name of one, or of none yet")
    fd, name = tempfile.mkstemp(prefix=f".{path.name[:60]}.", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


@contextmanager
def open_state_file(path: Path) -> Iterator[BinaryIO]:
    """OSError as of open(2)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO would let us wait
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise InvalidValue(f"{path} is no plain file: expected one that `mdev-user save` wrote")
    with os.fdopen(fd, "rb") as file:
        yield file
