"""Programs in the ``/sys`` that ``mdev-user run`` composes: started once, used by many tests."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from mdev_user.testing.daemon import RunningDaemon

SECONDS = 30
"""How long one command may take."""
_AGENT = Path(__file__).with_name("agent.py")
# A process namespace: whatever is started in it ends with the agent, and the agent with the end of its stdin.
_ALONE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


@dataclass(frozen=True)
class Done:
    """How a command ended. ``status`` is None when it had to be killed."""

    status: int | None
    out: str
    err: str

    @property
    def text(self) -> str:
        """What it printed, which must have been without an error."""
        assert (self.status, self.err) == (0, ""), self
        return self.out


class Inside:
    """A context manager: ``mdev-user run`` with an agent in it that carries out commands; nothing of it stays."""

    def __init__(self, daemon: RunningDaemon, events: str = "none", *options: str) -> None:
        """``options`` are more of ``run``'s."""
        if os.geteuid() != 0:
            pytest.skip("mounts and makes namespaces within `run`; tests/tools/test_run_unprivileged.py is for users")
        run = ["run", "--run-dir", str(daemon.run_dir.path), "--events", events, *options, "--"]
        self._command = [sys.executable, "-m", "mdev_user", *run, *_ALONE, sys.executable, str(_AGENT)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._answer() == {"ready": True}
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            assert self._process.wait(SECONDS) == 0
        finally:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()

    def path(self, path: str) -> Path:
        """The way from outside to what is ``path`` in there."""
        return Path(f"/proc/{self._process.pid}/root/{path.lstrip('/')}")

    def run(
        self, *argv: object, stdin: str = "", env: Mapping[str, str] | None = None, seconds: float = SECONDS
    ) -> Done:
        """Run a command to its end."""
        words = [str(each) for each in argv]
        answer = self._ask(do="run", argv=words, stdin=stdin, env=dict(env or {}), seconds=seconds)
        return Done(**answer)

    def text(self, *argv: object) -> str:
        """What a command prints that has nothing to complain of."""
        return self.run(*argv).text

    def bind(self, what: Path, where: Path, *, recursive: bool = False) -> None:
        """Put ``what`` in the place of ``where``, for the programs in here only."""
        self.text("mount", "--rbind" if recursive else "--bind", what, where)

    def start(self, *argv: object, log: Path, env: Mapping[str, str] | None = None) -> int:
        """Start a program that goes on; its pid in here."""
        answer = self._ask(do="start", argv=[str(each) for each in argv], log=str(log), env=dict(env or {}))
        pid = answer["pid"]
        assert isinstance(pid, int)
        return pid

    def stop(self, pid: int, seconds: float = SECONDS) -> int | None:
        """End a started program; its exit status, None if it had to be killed."""
        status = self._ask(do="stop", pid=pid, seconds=seconds)["status"]
        assert status is None or isinstance(status, int)
        return status

    def _ask(self, **request: object) -> dict[str, Any]:  # Any: JSON, here and below
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the agent is gone: exit status {self._process.wait(SECONDS)}"
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer
