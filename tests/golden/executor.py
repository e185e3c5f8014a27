"""The process that executes the steps: in a root of its own, where /sys is the tree, and in nobody else's sight.

Reads a command as a line of JSON and answers it with another. It is neither the daemon nor the test.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from golden.races import RACES, perform_race
from golden.root import OWN, enter
from golden.system_calls import perform
from golden.transcript import Answer

SHELL_SECONDS = 30
_ENVIRONMENT = {"PATH": "/bin", "HOME": "/"}


class Executor:
    """What the process does for each command."""

    def __init__(self) -> None:
        self._writer: subprocess.Popen[bytes] | None = None

    def step(self, cmd: list[str]) -> Answer:
        words = tuple(cmd)
        if words[0] == "sh":
            return shell(words[1])
        return perform_race(words) if words[0] in RACES else perform(words)

    def start_writer(self, arguments: list[str]) -> Answer:
        """Write beside the steps: a path and a text. It is a process whose name says so."""
        label, path, text = arguments
        command = f"printf {text} > {path} # {label}"
        self._writer = subprocess.Popen(["/bin/sh", "-c", command], env=_ENVIRONMENT)
        return Answer(self._writer.pid, None, "")

    def terminate_writer(self, _arguments: list[str]) -> Answer:
        """SIGTERM; returns at once."""
        if self._writer is not None:
            self._writer.send_signal(signal.SIGTERM)
        return Answer(0, None, "")

    def writer_state(self, _arguments: list[str]) -> Answer:
        """As ps says it: S, D, ..."""
        pid = self._writer.pid if self._writer is not None else 0
        return Answer(0, None, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])

    def end_writer(self, _arguments: list[str]) -> Answer:
        rc = self._writer.wait(SHELL_SECONDS) if self._writer is not None else -1
        return Answer(rc, None, "")


def shell(command: str) -> Answer:
    """Run it in the shell named ``sh``. Its two outputs are one text, in the order in which they came."""
    done = subprocess.run(
        ["sh", "-c", OWN + command],
        executable="/bin/sh",
        env=_ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=SHELL_SECONDS,
        check=False,
    )
    return Answer(done.returncode, None, done.stdout.decode(errors="replace"))


def main() -> None:
    """``ROOT [SYS]``: the folder that becomes the root, and what its /sys shows."""
    enter(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
    executor = Executor()
    commands: dict[str, Callable[[list[str]], Answer]] = {
        "step": executor.step,
        "start-writer": executor.start_writer,
        "terminate-writer": executor.terminate_writer,
        "writer-state": executor.writer_state,
        "end-writer": executor.end_writer,
    }
    for line in sys.stdin:
        name, arguments = json.loads(line)
        answer = commands[name](arguments)
        print(json.dumps([answer.rc, answer.errno, answer.out]), flush=True)
