"""A program whose system calls a supervisor of this process answers, and the device that it has open."""

import os
import socket
import subprocess
import sys
import threading
from unittest.mock import patch

from typing_extensions import override

from mdev_user.errors import NotPermitted
from mdev_user.uapi.call import Call
from mdev_user.uapi.device import Device
from mdev_user.uapi.program import Program
from mdev_user.uapi.receiver import Begun
from mdev_user.uapi.seccomp import Notification
from mdev_user.uapi.supervisor import Supervisor
from mdev_user.vfio.requests import Region, region_offset
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.loops import CHOICE
from protocol.device import TestDevice
from protocol.served import Served

BASE, LIMIT = 4000, 4096
PATIENCE = 60.0
BAR0 = region_offset(Region.BAR0)

PROGRAM = """
import os, resource, socket, sys
from mdev_user.uapi import filter as calls, seccomp
link = socket.socket(fileno=int(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
listener = seccomp.install(calls.assemble(calls.rules(4000)))
socket.send_fds(link, [b"x"], [listener])
os.close(listener)
(fd,) = socket.recv_fds(link, 1, 1)[1]
os.dup2(fd, 4000)
for line in sys.stdin:
    if line == "open\\n":
        os.close(os.open(os.devnull, os.O_RDWR))
        continue
    try:
        result = eval(line)
    except OSError as error:
        result = -error.errno
    print(repr(result), flush=True)
"""


class Slow(TestDevice):
    """Reads of BAR0 at 64 wait until they may go on, and are refused at 72."""

    def __init__(self) -> None:
        super().__init__()
        self.reading, self.may_go_on = threading.Event(), threading.Event()
        self.accesses = 0
        self.impatient = False

    @override
    def read(self, region: int, offset: int, count: int) -> bytes:
        self.accesses += 1
        if offset == 64:
            self.reading.set()
            self.impatient |= not self.may_go_on.wait(PATIENCE)
        if offset == 72:
            raise NotPermitted("not at 72")
        return super().read(region, offset, count)


class Watched(Supervisor):
    """Counts what Python answers."""

    calls = 0
    begun = 0

    @override
    def _answer(self, call: Call, begun: Begun | None) -> None:
        self.calls += 1
        self.begun += begun is not None
        super()._answer(call, begun)


class Traced:
    """A program, its supervisor and the device that it has at BASE."""

    def __init__(self, server: str = "") -> None:
        """``server`` is the kind of the server's loop, if it is not the supervisor's."""
        self.ops = Slow()
        with patch.dict(os.environ, {CHOICE: server} if server else {}):
            self.served = Served(self.ops)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(theirs.fileno())],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[theirs.fileno()],
            )  # fmt: skip
            (listener,) = socket.recv_fds(ours, 1, 1)[1]
            self.supervisor = Watched(listener, BASE, LIMIT, lambda _call, _path: None)
            self.served.socket.settimeout(None)
            self.device = Device("test", Client.over(self.served.socket), self.supervisor)
            self.supervisor.files.add(self.device)
            self.thread = threading.Thread(target=self.supervisor.serve)
            self.thread.start()
            fd = self.supervisor.files.new_description(self.device)
            socket.send_fds(ours, [b"x"], [fd])
            os.close(fd)

    def begin(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def ask(self, text: str) -> object:
        self.begin(text)
        return self.answer()

    def answer(self) -> object:
        assert self.process.stdout is not None
        return eval(self.process.stdout.readline())

    def trap(self) -> None:
        """Have the server end this process's accesses itself."""
        call = Call(self.supervisor, Notification(0, self.process.pid, 0, (0,) * 6), Program(self.process.pid))
        call._turn.handed_over = True  # another thread receives already
        self.device.trap(call)

    def close(self) -> None:
        self.process.communicate(timeout=PATIENCE)
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), "the supervisor did not end with its program"
        self.served.close()
