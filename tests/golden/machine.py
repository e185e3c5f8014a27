"""A machine of the replay: a root folder, the executor in it, and somebody who answers for its modules."""

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Self

from golden.root import build
from golden.transcript import Answer
from mdev_user.guests.rig import Rig

TESTS = Path(__file__).resolve().parents[1]
STEP_SECONDS = 60.0
_MAIN = f"import sys; sys.path.insert(0, {str(TESTS)!r}); from golden.executor import main; main()"
_ALONE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private")
_TICK = 0.1

Loading = Callable[[str], tuple[int, str]]
"""Does what ``insmod ...`` or ``rmmod ...`` asks for: the exit status, and the text that comes with it."""


class Root:
    """The root folder, until the block ends; meanwhile ``loading`` answers its insmod and rmmod."""

    def __init__(self, rig: Rig, loading: Loading) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="replay-", dir="/tmp"))
        build(self.path, rig.busybox, rig.applets)
        self._loading = loading
        self._ending = False
        self._thread = Thread(target=self._answer_questions)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        self._ending = True
        self._thread.join()
        # What was mounted in it is in namespaces that are gone: here it is a plain folder.
        for path, folders, files in os.walk(self.path, topdown=False):
            for name in files:
                (Path(path) / name).unlink()
            for name in folders:
                (Path(path) / name).rmdir()
        self.path.rmdir()

    def _answer_questions(self) -> None:
        # Read and write: neither end of a FIFO then waits for the other to come.
        asked = os.open(self.path / "questions/ask", os.O_RDWR)
        answered = os.open(self.path / "questions/answer", os.O_RDWR)
        while not self._ending:
            if select.select([asked], [], [], _TICK)[0]:
                question = os.read(asked, 4096).decode().strip()
                rc, text = self._loading(question)
                os.write(answered, f"{rc} {text}\n".encode())
        os.close(asked)
        os.close(answered)


class Machine:
    """The executor, in a process and namespaces of its own, until the block ends."""

    def __init__(self, root: Path, shown: Path | None = None) -> None:
        """``shown`` is what /sys shows; None: nothing is there."""
        command = [*_ALONE, sys.executable, "-c", _MAIN, str(root), *([str(shown)] if shown is not None else [])]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def step(self, cmd: tuple[str, ...]) -> Answer:
        return self.ask("step", *cmd)

    def ask(self, name: str, *arguments: str) -> Answer:
        """Any command of the executor. TimeoutError when it does not come to an end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, arguments]).encode() + b"\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], STEP_SECONDS)[0]:
            raise TimeoutError(f"{name} {' '.join(arguments)[:200]} is not done after {STEP_SECONDS:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the executor ended in {name} {' '.join(arguments)[:200]}")
        return Answer(*json.loads(line))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        self._process.kill()  # unshare, and with it (--kill-child) all of the namespace
        self._process.communicate()
