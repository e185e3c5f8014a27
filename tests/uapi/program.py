"""The test program (program.c): a separate, static process whose system calls a test makes, one by one.

```python
with RunningDaemon("mtty") as daemon, Program.under_run(daemon) as program:
    container = program.open("/dev/vfio/vfio").ok
    assert program.ioctl(container, VFIO_GET_API_VERSION).rc == 0
```
"""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from typing_extensions import override

from guest.compiler import compile_static
from mdev_user.testing.daemon import RunningDaemon
from tools.running import command
from uapi.calls import SECONDS, Calls

_SOURCE = Path(__file__).with_name("program.c")


class Program(Calls):
    """A context manager: the process is there when entered, and gone when left."""

    def __init__(self, words: Sequence[str] = ()) -> None:
        """``words`` come before the program's path: how something else starts it. None: it is started as it is."""
        self._words = list(words)
        super().__init__(Path(tempfile.mkdtemp(prefix="prog-", dir="/tmp")))
        self._folder.chmod(0o711)
        self._path = self._folder / "program"
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def under_run(cls, daemon: RunningDaemon, *options: str, preamble: str = "") -> Self:
        """Started by ``mdev-user run OPTIONS --``; ``preamble`` is Python that breaks something in `run` first."""
        return cls(command(daemon, *options, "--", preamble=preamble))

    def __enter__(self) -> Self:
        compile_static(_SOURCE, self._path)
        with (self._folder / "stderr").open("wb") as log:
            self._process = subprocess.Popen(
                [*self._words, str(self._path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, bufsize=0
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._attach(self._process.stdin, self._process.stdout)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        self._close_children()
        self._end()

    def _end(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(SECONDS)
        finally:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            shutil.rmtree(self._folder)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    @override
    def stderr(self) -> str:
        """What the program and `run` complained of so far."""
        return (self._folder / "stderr").read_text()

    def kill(self) -> None:
        """End it with SIGKILL, and wait."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
