"""In `run`: start a VFIO client and kill it with SIGKILL, again and again: ``killing.py CLIENT GROUP UUID``.

Each line of standard input is a number of rounds. Every other round the client has the device open when it dies; in the
rest it dies after so many milliseconds, wherever it is then. Prints how often it got ready.
"""

import os
import signal
import sys
import time

_STEPS = 40
_STEP_S = 0.0002


def _round(number: int, words: list[str]) -> bool:
    heard, says = os.pipe()
    pid = os.posix_spawn(words[0], words, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, says, 1)])
    os.close(says)
    with os.fdopen(heard, "rb", buffering=0) as output:
        if number % 2:
            time.sleep(number % _STEPS * _STEP_S)
        said = b"" if number % 2 else output.read(1)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return bool(said or output.read(1))


for line in sys.stdin:
    print(sum(_round(number, sys.argv[1:]) for number in range(int(line))), flush=True)
