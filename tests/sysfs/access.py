"""One system call on a file of the tree, and what it answers: bytes or the negative errno."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """A file descriptor for the length of a block."""
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def answer(call: Callable[[], _T]) -> _T | int:
    try:
        return call()
    except OSError as error:
        return -(error.errno or 0)


def write(path: Path, data: bytes, flags: int = os.O_WRONLY) -> int:
    """Opened and written once, as the kernel's transcripts were made."""

    def call() -> int:
        with opened(path, flags) as fd:
            return os.write(fd, data)

    return answer(call)


def read(path: Path) -> str | int:
    def call() -> str:
        with opened(path, os.O_RDONLY) as fd:
            return os.read(fd, 8192).decode()

    return answer(call)
