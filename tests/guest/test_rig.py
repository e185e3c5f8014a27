"""Smoke tests of the rig itself: a real kernel boots, obeys, reports failure, and never outlives its test."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from mdev_user.guests import initramfs, serial
from mdev_user.guests.console import GuestCommandError, GuestFailed, GuestTimeout
from mdev_user.guests.rig import Rig
from mdev_user.guests.vm import Guest

pytestmark = pytest.mark.guest


@pytest.fixture(scope="module")
def guest(rig: Rig) -> Iterator[Guest]:
    with Guest(rig, files={"/etc/deep/name": b"one\0two"}) as booted:
        yield booted


def test_the_guest_runs_the_rigs_kernel(guest: Guest, rig: Rig) -> None:
    assert guest.run("uname -r").strip() == rig.kernel_release


def test_a_guest_boots_once(guest: Guest) -> None:
    pid = guest.pid
    guest.boot(0.0)
    assert guest.pid == pid


def test_output_comes_back_byte_for_byte(guest: Guest) -> None:
    script = 'for n in $(seq 0 255); do printf "\\\\$(printf %o $n)"; done'
    assert guest.attempt(script).output == bytes(range(256))


def test_kernel_messages_do_not_get_into_an_answer(guest: Guest) -> None:
    script = "for n in $(seq 200); do echo '<0>kernel says' $n >/dev/kmsg; echo line $n; done"
    assert guest.run(script) == "".join(f"line {n}\n" for n in range(1, 201))
    assert "kernel says 200" in guest.console_tail()


def test_a_failing_command_is_raised_with_its_output(guest: Guest) -> None:
    with pytest.raises(GuestCommandError, match="cat: can't open '/absent'") as failure:
        guest.run("echo before; cat /absent")
    assert failure.value.status == 1
    assert failure.value.output.startswith("before\n")


def test_a_command_that_does_not_end_is_killed_and_the_next_one_runs(guest: Guest) -> None:
    with pytest.raises(GuestTimeout, match="still running after 1 s"):
        guest.run("while :; do :; done", 1)
    assert guest.run("echo next") == "next\n"


def test_qemu_is_called_by_its_own_name(guest: Guest) -> None:
    """It is what `mdev-user remove` shows; the rig runs QEMU through an ELF interpreter of another name."""
    assert Path(f"/proc/{guest.pid}/comm").read_text().strip() == "qemu-system-x86"


def test_qmp_answers(guest: Guest) -> None:
    assert guest.qmp.execute("query-status") == {"status": "running", "running": True}


def test_qemu_itself_complains_of_nothing(guest: Guest) -> None:
    """What we ask of QEMU is neither wrong nor deprecated: it would say so on the console's stream."""
    assert "qemu-system" not in guest.console_tail(1 << 20)


def test_a_tests_files_are_in_the_guest(guest: Guest) -> None:
    assert guest.attempt("cat /etc/deep/name").output == b"one\0two"


def test_poweroff_ends_qemu(rig: Rig) -> None:
    with Guest(rig) as fresh:
        fresh.shutdown()
        assert not fresh.alive
        with pytest.raises(GuestFailed, match="the guest is gone"):
            fresh.run("true")


def test_a_killed_guest_is_gone(rig: Rig) -> None:
    with Guest(rig) as fresh:
        os.kill(fresh.pid, signal.SIGKILL)
        assert fresh.wait(10) == -signal.SIGKILL
        with pytest.raises(GuestFailed, match="the guest is gone"):
            fresh.run("true")


def test_guests_boot_at_the_same_time(rig: Rig) -> None:
    one, two = Guest(rig), Guest(rig)
    try:
        one.start()
        two.start()
        with one, two:
            assert one.pid != two.pid
            assert one.run("echo one") + two.run("echo two") == "one\ntwo\n"
    finally:
        one.close()
        two.close()


def test_a_guest_that_cannot_boot_shows_its_console(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initramfs, "init_script", lambda: b"#!/bin/sh\nexit 3\n")
    guest = Guest(rig)
    with pytest.raises(GuestFailed, match=r"(?s)did not boot.*Attempted to kill init! exitcode=0x00000300"):
        guest.boot()
    assert not guest.alive


def test_a_guest_that_is_not_ready_in_time_is_killed(rig: Rig) -> None:
    guest = Guest(rig)
    with pytest.raises(GuestFailed, match="did not answer in time"):
        guest.boot(0.5)
    assert not guest.alive


def test_a_qemu_that_refuses_its_arguments_says_why(rig: Rig) -> None:
    with pytest.raises(GuestFailed, match="no-such-device"):
        Guest(rig, arguments=["-device", "no-such-device"]).boot()


def test_a_qemu_that_is_not_there_leaves_nothing_open(rig: Rig) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    with pytest.raises(FileNotFoundError):
        Guest(replace(rig, qemu=("/absent/qemu",))).boot()
    assert set(Path("/proc/self/fd").iterdir()) == before


PARENT = """
import sys, time
from mdev_user.guests.rig import find_rig
from mdev_user.guests.vm import Guest
guest = Guest(find_rig())
guest.start()
print(guest.pid, flush=True)
time.sleep(600)
"""


def test_a_guest_does_not_outlive_a_killed_parent(rig: Rig) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        parent.kill()
    deadline = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # where nothing reaps orphans


@pytest.fixture
def echo() -> Iterator[Path]:
    """A UNIX socket that sends back what it gets: with it QEMU's own PCI UART is a device that loops."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "port"))
        listener.listen()

        def serve() -> None:
            with suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    while data := connection.recv(4096):
                        connection.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        yield folder / "port"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)
    (folder / "port").unlink()
    folder.rmdir()


QEMU_UART = 0x1B36, 0x0002  # QEMU's pci-serial


def uart(backend: str) -> list[str]:
    return ["-chardev", f"{backend},id=port", "-device", "pci-serial,chardev=port"]


def test_a_guests_uart_gives_back_what_is_sent(rig: Rig, echo: Path) -> None:
    with Guest(rig, arguments=uart(f"socket,path={echo}")) as guest:
        (port,) = serial.ports(guest, *QEMU_UART)
        assert serial.ports(guest) == []  # it is no mtty
        assert serial.status(guest, port).irq > 0
        assert serial.pending(guest, port) == b""
        conversation = serial.converse(guest, port, "guest and UART.", 100)
        assert conversation.identical
        assert conversation.interrupts >= 100
        assert serial.exchange(guest, port, bytes(range(256)), 10_000).identical
        status = serial.status(guest, port)
        assert status.sent == status.received == 11_600


def test_a_uart_that_swallows_everything_is_noticed(rig: Rig) -> None:
    """The negative control of the exchanges: without the loop nothing is identical."""
    with Guest(rig, arguments=uart("null")) as guest:
        (port,) = serial.ports(guest, *QEMU_UART)
        assert serial.converse(guest, port, "hello", 2).received == b""
        swallowed = serial.exchange(guest, port, b"hello", 10, 1.0)
        assert (swallowed.received, swallowed.identical) == (b"", False)
        assert serial.status(guest, port).sent == 16
