"""The serial scenario's parsing, and its scripts run by the host's own shell where they need no port."""

import os
import subprocess
from pathlib import Path

import pytest
from typing_extensions import override

from mdev_user.guests import serial
from mdev_user.guests.console import Answer, GuestFailed
from mdev_user.guests.serial import Exchange, parse_status, repeat

LINE = "2: uart:16550A port:0000C060 irq:21 tx:10 rx:7 fe:1 RTS|CTS|DTR|DSR|CD"
SERIAL = f"serinfo:1.0 driver revision:\n0: uart:16550A port:000003F8 irq:4 tx:0 rx:0\n{LINE}\n"


class PlayedShell:
    """A guest whose answers are looked up by a word of the script."""

    def __init__(self, answers: dict[str, str]) -> None:
        self._answers = answers
        self.scripts: list[str] = []

    def run(self, script: str, seconds: float = 0.0) -> str:
        self.scripts.append(script)
        return next((answer for word, answer in self._answers.items() if word in script), "")

    def attempt(self, script: str, seconds: float = 0.0) -> Answer:
        return Answer(0, self.run(script).encode())


def test_status_is_read_from_the_ports_line() -> None:
    status = serial.status(PlayedShell({"tty/driver/serial": SERIAL}), "ttyS2")
    assert (status.line, status.uart, status.irq, status.sent, status.received) == (2, "16550A", 21, 10, 7)
    assert status.text == LINE


def test_a_port_without_an_irq_is_polled() -> None:
    assert parse_status("3: uart:unknown port:000002E8").irq == 0


def test_a_port_that_the_driver_does_not_have_is_an_error() -> None:
    with pytest.raises(GuestFailed, match="no port 7:\nserinfo"):
        serial.status(PlayedShell({"tty/driver/serial": SERIAL}), "ttyS7")


def test_interrupts_of_all_cpus_are_counted() -> None:
    assert serial.interrupt_count(PlayedShell({"irq/21/per_cpu_count": "5,0,7\n"}), 21) == 12


@pytest.mark.parametrize("port", ["tty2", "ttyS", "ttyS1; reboot", "../ttyS1"])
def test_only_a_serial_ports_name_is_taken(port: str) -> None:
    with pytest.raises(ValueError, match="expected a serial port like ttyS2"):
        serial.status(PlayedShell({}), port)


@pytest.mark.parametrize(("size", "expected"), [(0, b""), (2, b"ab"), (3, b"abc"), (7, b"abcabca")])
def test_a_pattern_is_repeated_to_the_size(size: int, expected: bytes) -> None:
    assert repeat(b"abc", size) == expected


def test_an_empty_pattern_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one byte"):
        repeat(b"", 1)


@pytest.mark.parametrize("received", [b"abx", b"ab", b"abcd", b""])
def test_one_different_missing_or_surplus_byte_is_seen(received: bytes) -> None:
    assert Exchange(b"abc", b"abc", 1).identical
    assert not Exchange(b"abc", received, 1).identical


class CountingShell(PlayedShell):
    """Each conversation takes it three interrupts."""

    def __init__(self, answers: dict[str, str]) -> None:
        super().__init__(answers)
        self._count = 100

    @override
    def run(self, script: str, seconds: float = 0.0) -> str:
        if "printf" in script:
            self._count += 3
        return f"{self._count}\n" if "per_cpu_count" in script else super().run(script)


def test_only_the_interrupts_of_the_conversation_are_counted() -> None:
    shell = CountingShell({"tty/driver/serial": SERIAL, "cat /run/received": "hi\nhi\n"})
    assert serial.converse(shell, "ttyS2", "hi", 2) == Exchange(b"hi\nhi\n", b"hi\nhi\n", 3)


def run_on_host(script: str, port: Path) -> bytes:
    """Run a script with ``port`` in the port's place; what it left in its file of received bytes."""
    for guest, host in (("/dev/ttyS2", port), ("/run/", f"{port.parent}/"), ("stty raw", "true raw")):
        script = script.replace(guest, str(host))
    script = script.replace("usleep 100000", "sleep 0.1")
    subprocess.run(["/bin/bash", "-c", script], check=True, timeout=60)
    return (port.parent / "received").read_bytes()


@pytest.fixture
def looping_port(tmp_path: Path) -> Path:
    """A FIFO opened for reading and writing gives back what is written to it, like a UART that loops."""
    os.mkfifo(tmp_path / "port")
    return tmp_path / "port"


@pytest.mark.parametrize("size", [1, 6, 10_000])
def test_exchange_sends_and_receives_every_byte_value(looping_port: Path, size: int) -> None:
    pattern = bytes(range(256))[::-1]
    received = run_on_host(serial.exchange_script("ttyS2", pattern, size, 20), looping_port)
    assert received == repeat(pattern, size)


def test_exchange_ends_when_nothing_comes_back(tmp_path: Path) -> None:
    (tmp_path / "port").touch()  # takes everything, gives nothing: reads go on where the writes ended
    assert run_on_host(serial.exchange_script("ttyS2", b"x", 10, 0.2), tmp_path / "port") == b""


def test_converse_sends_its_line_as_it_is(looping_port: Path) -> None:
    line = "it's $HOME\\n  %s "
    assert run_on_host(serial.converse_script("ttyS2", line, 20), looping_port) == f"{line}\n".encode() * 20


def test_converse_stops_at_a_line_that_does_not_come_back(tmp_path: Path) -> None:
    (tmp_path / "port").touch()
    assert run_on_host(serial.converse_script("ttyS2", "hello", 5), tmp_path / "port") == b""
    assert (tmp_path / "port").read_bytes() == b"hello\n"
