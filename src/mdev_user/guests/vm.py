"""A guest: one QEMU process with our initramfs, and the channels by which a test or the demo drives it.

Emulated (TCG) on purpose, also where /dev/kvm is there: the same guest then runs on every machine, and nested KVM is
often present but broken. The guest's channels are socket pairs whose other ends QEMU inherits, so nothing is left in
the file system and the end of QEMU is an end of file here.
"""

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from typing import IO, Self

from mdev_user.guests.arguments import device_arguments, memory_arguments
from mdev_user.guests.console import Answer, CommandChannel, GuestCommandError, GuestFailed, GuestTimeout
from mdev_user.guests.initramfs import build_initramfs
from mdev_user.guests.qmp import Qmp
from mdev_user.guests.rig import Rig
from mdev_user.units import KiB, MiB

BOOT_SECONDS = 120.0  # 6 s alone on one of our cores; a loaded CI machine is far slower
DEFAULT_MEMORY = 128 * MiB

# What the kernel need not do: probe the timers it has been told of, test its ciphers, gather entropy for nobody.
KERNEL_COMMAND_LINE = (
    "console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable no_timer_check random.trust_cpu=on "
    "cryptomgr.notests initcall_blacklist=jent_mod_init"
)
# qemu64 boots a second faster than max: fewer instruction alternatives for the kernel to patch in. -cx16: QEMU 7.2's
# emulation of cmpxchg16b spoils the flags now and then, which crashed a third of its guests. The process name is what
# `mdev-user remove` shows of the holder; without it a bundled QEMU would be called like its ELF interpreter.
_MACHINE = (
    *("-name", "guest,process=qemu-system-x86"),
    *("-machine", "q35", "-accel", "tcg", "-cpu", "qemu64,-cx16", "-smp", "1"),
    *("-no-user-config", "-nodefaults", "-display", "none", "-no-reboot"),
)
# Ends QEMU when this process does, however it ends: the pipe's other end is ours and is then closed by the kernel.
# (PR_SET_PDEATHSIG would fire at the end of the thread that started QEMU, not of the process.)
_KEEPER = 'read -r _; kill -KILL "$1"'


class Guest:
    """A guest with the mdevs whose vfio-user sockets are ``devices``; as a context manager it is booted and killed.

    ``start`` several guests before entering the first one to let them boot at the same time.
    """

    def __init__(
        self,
        rig: Rig,
        devices: Iterable[str | os.PathLike[str]] = (),
        *,
        memory: int = DEFAULT_MEMORY,
        files: Mapping[str, bytes] | None = None,
        arguments: Sequence[str] = (),
        launcher: Sequence[str] = (),
    ) -> None:
        """``launcher`` is the beginning of an argv that becomes what is behind it (``arguments.run_command``)."""
        self._rig = rig
        self._launcher = list(launcher)
        self._devices = [os.fspath(device) for device in devices]
        self._memory = memory
        self._files = files
        self._arguments = list(arguments)
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: subprocess.Popen[bytes] | None = None
        self._booted = False
        self._ours = ExitStack()  # what close() gives back
        self._log: IO[bytes]
        self._channel: CommandChannel
        self.qmp: Qmp
        """The machine protocol of the guest's QEMU, once it was started."""

    def __enter__(self) -> Self:
        self.boot()
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process id of the guest's QEMU."""
        return self._running().pid

    @property
    def alive(self) -> bool:
        """Whether the guest's QEMU runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start QEMU and return at once; the guest takes commands after ``boot``."""
        if self._process is not None:
            return
        try:
            self._process = self._start_qemu()
            self._keeper = _start_keeper(self._process.pid)
        except BaseException:
            self.close()
            raise

    def boot(self, seconds: float = BOOT_SECONDS) -> None:
        """Start the guest if need be, and wait until it takes commands; at once for a guest that already does.

        Raises:
            GuestFailed: it did not within ``seconds``, or QEMU ended; the text has the end of its console. The guest
                is killed.
        """
        if self._booted:
            return
        try:
            self.start()
            self._channel.await_ready(seconds)
            self._booted = True
        except GuestFailed as error:
            message = f"the guest did not boot: {error}\n--- the end of its console ---\n{self.console_tail()}"
            self.close()
            raise GuestFailed(message) from error
        except BaseException:
            self.close()
            raise

    def run(self, script: str, seconds: float = 60.0) -> str:
        """What ``script`` prints when the guest's shell runs it, both streams together.

        Raises:
            GuestCommandError: its status was not 0.
            GuestTimeout: it took longer than ``seconds``.
            GuestFailed: the guest is gone.
        """
        answer = self.attempt(script, seconds)
        output = answer.output.decode(errors="replace")
        if answer.status:
            raise GuestCommandError(script, answer.status, output)
        return output

    def attempt(self, script: str, seconds: float = 60.0) -> Answer:
        """Like ``run``, for a script whose status is of interest or whose output is not text."""
        self._running()
        try:
            return self._channel.run(script, seconds)
        except GuestTimeout:
            raise
        except GuestFailed as error:
            message = f"{error}; {self._how_it_ended()}\n--- the end of its console ---\n{self.console_tail()}"
            raise GuestFailed(message) from error

    def _how_it_ended(self) -> str:
        with suppress(GuestTimeout):
            return f"its QEMU ended with status {self.wait(1)}"
        return "its QEMU still runs"

    def shutdown(self, seconds: float = 60.0) -> None:
        """Power the guest off from the inside, as its user would, and wait for its QEMU to end."""
        self._running()
        with suppress(GuestFailed):  # no answer comes: the machine is off before
            self._channel.run("poweroff -f", seconds)
        self.wait(seconds)

    def reset(self, seconds: float = BOOT_SECONDS) -> None:
        """Press the machine's reset button, and wait until the guest, booted anew, takes commands.

        Raises:
            GuestFailed: as ``boot`` does.
        """
        self._running()
        # A reset ends QEMU otherwise (-no-reboot), which is right for a kernel that panics.
        self.qmp.execute("set-action", {"reboot": "reset"})
        self.qmp.execute("system_reset")
        self._booted = False
        self.boot(seconds)
        self.qmp.execute("set-action", {"reboot": "shutdown"})

    def kill(self) -> None:
        """End QEMU at once (SIGKILL); a no-op when it has ended."""
        if self._process is None:
            return
        # The keeper first: while QEMU is not yet waited for, its pid cannot be another process's.
        if self._keeper is not None:
            self._keeper.kill()
            self._keeper.communicate()
            self._keeper = None
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Kill QEMU and give back every file descriptor; the guest cannot be used any more."""
        self.kill()
        self._ours.close()

    def console_tail(self, size: int = 4 * KiB) -> str:
        """The end of what the kernel, and QEMU itself, have printed."""
        if self._process is None or self._log.closed:
            return ""
        end = os.fstat(self._log.fileno()).st_size
        # pread: the offset is shared with QEMU, which writes at it
        return os.pread(self._log.fileno(), size, max(end - size, 0)).decode(errors="replace").strip()

    def wait(self, seconds: float) -> int:
        """Wait for QEMU to end by itself; its exit status."""
        try:
            return self._running().wait(seconds)
        except subprocess.TimeoutExpired as error:
            message = f"the guest's QEMU still runs after {seconds} s"
            raise GuestTimeout(message) from error

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            message = "the guest was not started"
            raise GuestFailed(message)
        return self._process

    def _start_qemu(self) -> subprocess.Popen[bytes]:
        self._log = self._ours.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 # close() closes it
        with ExitStack() as theirs:  # the ends that QEMU inherits; closed here once it runs
            command_fd, commands = _pair(theirs)
            self._channel = self._ours.enter_context(closing(CommandChannel(commands)))
            qmp_fd, qmp = _pair(theirs)
            self.qmp = self._ours.enter_context(closing(Qmp(qmp)))
            image_fd = _memory_file(theirs, self._initramfs())
            return subprocess.Popen(
                self._command(command_fd, qmp_fd, image_fd),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=(command_fd, qmp_fd, image_fd),
                start_new_session=True,  # a Ctrl-C is for us; we end our guests in order
            )

    def _initramfs(self) -> bytes:
        return build_initramfs(self._rig.busybox.read_bytes(), self._rig.applets, self._files)

    def _command(self, command_fd: int, qmp_fd: int, image_fd: int) -> list[str]:
        return [
            *self._launcher,
            *self._rig.qemu,
            *_MACHINE,
            *memory_arguments(self._memory),
            *("-kernel", str(self._rig.kernel), "-initrd", f"/proc/self/fd/{image_fd}"),
            *("-append", KERNEL_COMMAND_LINE),
            *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
            *("-chardev", f"socket,id=commands,fd={command_fd}", "-serial", "chardev:commands"),
            *("-chardev", f"socket,id=qmp,fd={qmp_fd}", "-qmp", "chardev:qmp"),
            *(argument for device in self._devices for argument in device_arguments(device)),
            *self._arguments,
        ]


def _start_keeper(pid: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["/bin/sh", "-c", _KEEPER, "sh", str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _pair(theirs: ExitStack) -> tuple[int, socket.socket]:
    """The fd of the end that QEMU inherits, and our end."""
    inherited, kept = socket.socketpair()
    theirs.callback(inherited.close)
    return inherited.fileno(), kept


def _memory_file(theirs: ExitStack, data: bytes) -> int:
    fd = os.memfd_create("initramfs")
    theirs.callback(os.close, fd)
    with open(fd, "wb", closefd=False) as file:  # an fd has no path
        file.write(data)
    return fd
