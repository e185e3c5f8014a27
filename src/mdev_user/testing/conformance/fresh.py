"""Fresh interpreters, as whoever has tasks for them sees them."""

import os
import subprocess
import sys
from contextlib import suppress
from types import TracebackType
from typing import BinaryIO, Self

import msgspec

from mdev_user.errors import DriverError
from mdev_user.host import PYTHON
from mdev_user.testing.conformance.operations import Finding
from mdev_user.testing.conformance.tasks import AnyParent, Reply, Task, decode_reply, encode
from mdev_user.testing.conformance.zygote import Birth, read_frame, source_of, write_frame

_END_SECONDS = 10.0
_LOCAL = "<locals>"


class FreshInterpreters:
    """Does each task in an interpreter of its own, that has imported the driver and nothing else; a context manager.

    Strings hash by ``seed``: two of these differ in what a driver must not depend on.
    """

    def __init__(self, parent: AnyParent, seed: int = 0, preamble: str = "") -> None:
        """DriverError for a class that cannot be imported by its name; ``preamble`` is run before it is."""
        self._birth = Birth(sys.path, parent.__module__, _file(parent), parent.__qualname__, preamble)
        self._seed = seed
        self._process: subprocess.Popen[bytes] | None = None

    def do(self, task: Task) -> Reply:
        """The reply; of a task that ended its interpreter, a Finding that says so."""
        process = self._running()
        write_frame(_pipe(process.stdin), encode(task))
        data = read_frame(_pipe(process.stdout))
        if data is None:
            self._end()
            return Finding("the interpreter ended without an answer")
        return decode_reply(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        self._end()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                [*PYTHON, "mdev_user.testing.conformance.zygote"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # what a driver logs a thousand times over
                env={**os.environ, "PYTHONHASHSEED": str(self._seed)},
            )
            write_frame(_pipe(self._process.stdin), encode(self._birth))
            self._check(read_frame(_pipe(self._process.stdout)))
        return self._process

    def _check(self, greeting: bytes | None) -> None:
        if greeting:
            self._end()
            raise DriverError(
                f"{self._birth.file}: cannot be imported a second time:\n{msgspec.msgpack.decode(greeting)['text']}"
            )
        if greeting is None:
            self._end()
            raise DriverError(f"no interpreter could be started to try {self._birth.name} in")

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            with suppress(BrokenPipeError):
                _pipe(pipe).close()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _pipe(stream: object) -> BinaryIO:
    return stream  # type: ignore[return-value]  # Popen was told to make one


def _file(parent: AnyParent) -> str:
    if _LOCAL in parent.__qualname__:
        raise DriverError(
            f"{parent.__name__}: expected a class at the top of a file, which another interpreter can import"
        )
    return os.path.realpath(source_of(parent.__module__))
