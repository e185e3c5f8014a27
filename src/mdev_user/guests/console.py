"""The host's end of a guest's command channel (the other end is init.sh).

One request at a time: a script goes out in base64 lines, its output comes back in base64 lines between markers that
carry the request's token, so that the late answer of a command given up on is never taken for the next one's.
"""

import base64
import itertools
import math
import socket
import time
from dataclasses import dataclass

from mdev_user.errors import MdevUserError
from mdev_user.units import KiB, MiB

READY = b"ready"
_LINE = 1024  # a tty in canonical mode cuts lines at 4,096 bytes
_OUTPUT_LIMIT = 64 * MiB
_GRACE = 10.0  # seconds beyond a command's own limit, which the guest enforces, for the answer to arrive
_KILLED = 128 + 9


class GuestFailed(MdevUserError):
    """A guest of ours did not boot, does not answer, or is gone."""


class GuestTimeout(GuestFailed):
    """A guest of ours did not do in time what it was told to."""


class GuestCommandError(GuestFailed):
    """A command in a guest ended with a status other than 0; ``output`` is what it printed, errors included."""

    def __init__(self, script: str, status: int, output: str) -> None:
        self.status = status
        self.output = output
        super().__init__(f"status {status} from a guest's command: {script.strip()[:200]}\n{output[-2000:]}")


@dataclass(frozen=True, slots=True)
class Answer:
    """How a command ended (a shell's exit status) and all it printed."""

    status: int
    output: bytes


class CommandChannel:
    """Runs scripts in a guest over ``connection``, the stream socket that is the guest's ttyS1."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._tokens = itertools.count(1)
        self._received = bytearray()

    def await_ready(self, seconds: float) -> None:
        """Wait until the guest's /init takes commands."""
        deadline = time.monotonic() + seconds
        while self._line(deadline) != READY:
            pass

    def run(self, script: str, seconds: float) -> Answer:
        """Run ``script`` with the guest's sh, at most ``seconds`` long.

        Raises:
            GuestTimeout: it was killed in the guest at that limit, or no answer came.
            GuestFailed: the guest is gone.
        """
        token = b"%d" % next(self._tokens)
        started = time.monotonic()
        self._send(request(token, script, math.ceil(seconds)), started + seconds)
        answer = self._answer(token, started + seconds + _GRACE)
        if answer.status == _KILLED and time.monotonic() - started >= seconds:
            printed = answer.output[-2000:].decode(errors="replace")
            message = f"a guest's command was still running after {seconds} s: {script.strip()[:200]}\n{printed}"
            raise GuestTimeout(message)
        return answer

    def close(self) -> None:
        self._connection.close()

    def _answer(self, token: bytes, deadline: float) -> Answer:
        while self._line(deadline) != b"begin " + token:
            pass  # a stale answer's lines
        lines: list[bytes] = []
        size = 0
        while not (line := self._line(deadline)).startswith(b"end "):
            lines.append(line)
            size += len(line)
            if size > _OUTPUT_LIMIT:
                message = f"a guest's command printed more than {_OUTPUT_LIMIT // MiB} MiB"
                raise GuestFailed(message)
        return Answer(int(line.split()[2]), base64.b64decode(b"".join(lines)))

    def _line(self, deadline: float) -> bytes:
        while (end := self._received.find(b"\n")) < 0:
            self._connection.settimeout(_remaining(deadline))
            try:
                data = self._connection.recv(64 * KiB)
            except TimeoutError:
                continue  # _remaining raises
            except OSError as error:
                message = f"the guest is gone: {error}"
                raise GuestFailed(message) from error
            if not data:
                message = "the guest is gone: its QEMU closed the command channel"
                raise GuestFailed(message)
            self._received += data
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line.rstrip(b"\r")

    def _send(self, data: bytes, deadline: float) -> None:
        self._connection.settimeout(_remaining(deadline))
        try:
            self._connection.sendall(data)
        except TimeoutError as error:
            message = "the guest takes no commands: it is still busy with an earlier one"
            raise GuestTimeout(message) from error
        except OSError as error:
            message = f"the guest is gone: {error}"
            raise GuestFailed(message) from error


def request(token: bytes, script: str, seconds: int) -> bytes:
    """The bytes that ask a guest's /init to run ``script`` for at most ``seconds``."""
    coded = base64.b64encode(script.encode())
    lines = [coded[start : start + _LINE] for start in range(0, len(coded), _LINE)]
    return b"\n".join([b"run %b %d" % (token, max(seconds, 1)), *lines, b"end", b""])


def _remaining(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        message = "the guest did not answer in time"
        raise GuestTimeout(message)
    return seconds
