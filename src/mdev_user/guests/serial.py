"""What a test does with a PCI serial function inside a guest, through the guest's stock 8250 driver and busybox.

The device is expected to loop what is sent back to the receiver, as Linux's mtty sample does.
"""

import base64
import math
import re
import shlex
from dataclasses import dataclass
from typing import Protocol

from mdev_user.guests.console import Answer, GuestFailed

MTTY_VENDOR, MTTY_DEVICE = 0x4348, 0x3253  # Linux, samples/vfio-mdev/mtty.c
_PORT_SECONDS = 20.0  # a write to a tty that nobody drains waits for ever; so does a read that gets nothing
_CLOSE_SECONDS = 40.0  # the kernel waits up to 30 s for unsent bytes when a port is closed


class Shell(Protocol):
    """A guest, as far as this module needs one."""

    def run(self, script: str, seconds: float = ...) -> str:
        """What ``script`` prints."""

    def attempt(self, script: str, seconds: float = ...) -> Answer:
        """How ``script`` ends and what it prints."""


@dataclass(frozen=True, slots=True)
class PortStatus:
    """A port's line in /proc/tty/driver/serial; ``irq`` is 0 where the driver polls."""

    line: int
    uart: str
    irq: int
    sent: int
    received: int
    text: str


@dataclass(frozen=True, slots=True)
class Exchange:
    """What went through a port and came back, and the interrupts that the guest counted meanwhile."""

    sent: bytes
    received: bytes
    interrupts: int

    @property
    def identical(self) -> bool:
        return self.sent == self.received


def ports(shell: Shell, vendor: int = MTTY_VENDOR, device: int = MTTY_DEVICE) -> list[str]:
    """The ttys (``ttyS2``) that the guest's driver made of the PCI functions vendor:device, in the order of the bus."""
    # A port lies some levels below its function in the device tree (how many depends on the kernel), so each tty's
    # resolved path is searched for the function's address.
    return shell.run(
        f"""
        for function in /sys/bus/pci/devices/*; do
            [ "$(cat $function/vendor)$(cat $function/device)" = 0x{vendor:04x}0x{device:04x} ] || continue
            for tty in /sys/class/tty/ttyS*; do
                case "$(readlink -f "$tty")" in
                */"${{function##*/}}"/*) echo "${{tty##*/}}" ;;
                esac
            done
        done
        """
    ).split()


def status(shell: Shell, port: str) -> PortStatus:
    """The driver's view of ``port``."""
    number = _number(port)
    listing = shell.run("cat /proc/tty/driver/serial")
    for line in listing.splitlines():
        if line.startswith(f"{number}: "):
            return parse_status(line)
    message = f"the guest's serial driver has no port {number}:\n{listing}"
    raise GuestFailed(message)


def parse_status(line: str) -> PortStatus:
    """``2: uart:16550A port:0000C060 irq:21 tx:0 rx:0 CTS|DSR|CD`` (Linux, uart_line_info)."""
    fields = dict(word.split(":", 1) for word in line.split()[1:] if ":" in word)
    return PortStatus(
        line=int(line.split(":", 1)[0]),
        uart=fields.get("uart", "unknown"),
        irq=int(fields.get("irq", "0")),
        sent=int(fields.get("tx", "0")),
        received=int(fields.get("rx", "0")),
        text=line,
    )


def interrupt_count(shell: Shell, irq: int) -> int:
    """How often the guest took ``irq`` since its boot, all its CPUs together.

    From sysfs, since the line in /proc/interrupts (the same counter) is there only while a port is open.
    """
    return sum(map(int, shell.run(f"cat /sys/kernel/irq/{irq}/per_cpu_count").split(",")))


def exchange(shell: Shell, port: str, pattern: bytes, size: int, seconds: float = _PORT_SECONDS) -> Exchange:
    """Send ``size`` bytes (``pattern`` over and over) to ``port`` in one go, and read back what comes meanwhile.

    Reading ends a moment after ``size`` bytes came, so that a surplus is seen, or ``seconds`` after it began. What
    waited in the port before is discarded by its opening (the driver clears the FIFOs).

    How many interrupts this takes says little: the 8250 driver stays in one interrupt while the device has more to
    say, and a device that loops at once always has. Use ``converse`` to count them.

    Raises:
        GuestFailed: the port could not be opened.
    """
    script = exchange_script(port, pattern, size, seconds)  # it writes, then waits, each for at most that long
    return _exchanged(shell, port, repeat(pattern, size), script, 2 * seconds)


def converse(shell: Shell, port: str, line: str, times: int, seconds: float = 120.0) -> Exchange:
    """Send ``line`` and a newline ``times`` times, each only after the one before came back.

    Both sides are at rest between two lines, so each line costs at least one interrupt. It ends early when a line
    does not come back within 5 s.

    Raises:
        GuestFailed: the port could not be opened, or the lines took longer than ``seconds``.
    """
    return _exchanged(shell, port, f"{line}\n".encode() * times, converse_script(port, line, times), seconds)


def _exchanged(shell: Shell, port: str, sent: bytes, script: str, seconds: float) -> Exchange:
    irq = status(shell, port).irq
    before = interrupt_count(shell, irq)
    shell.run(script, seconds + _CLOSE_SECONDS)
    received = shell.attempt("cat /run/received").output
    return Exchange(sent, received, interrupt_count(shell, irq) - before)


def converse_script(port: str, line: str, times: int) -> str:
    """Leaves in /run/received what came back. Builtins only: in an emulated guest a fork costs 10 ms."""
    return f"""
        {_open(port)}
        line={shlex.quote(line)}
        left={times}
        while [ $left -gt 0 ]; do
            printf '%s\\n' "$line" >&3
            IFS= read -r -t 5 answer <&3 || break
            printf '%s\\n' "$answer"
            left=$((left - 1))
        done >/run/received
        exec 3>&-
    """


def exchange_script(port: str, pattern: bytes, size: int, seconds: float) -> str:
    """Leaves in /run/received what came back."""
    return f"""
        set -e
        echo {base64.b64encode(pattern).decode()} | base64 -d >/run/sent
        while [ "$(stat -c %s /run/sent)" -lt {size} ]; do
            cat /run/sent /run/sent >/run/longer
            mv /run/longer /run/sent
        done
        {_open(port)}
        timeout {math.ceil(seconds)} cat <&3 >/run/received &
        reader=$!
        head -c {size} /run/sent | timeout {math.ceil(seconds)} cat >&3 || true
        tries={math.ceil(seconds * 10)}
        while [ "$(stat -c %s /run/received)" -lt {size} ] && [ $tries -gt 0 ]; do
            tries=$((tries - 1))
            usleep 100000
        done
        usleep 100000
        kill $reader 2>/dev/null || true
        exec 3>&-
    """


def pending(shell: Shell, port: str, seconds: int = 1) -> bytes:
    """What ``port`` says by itself within ``seconds`` of being opened: nothing, in a fresh device."""
    script = f"""
        {_open(port)}
        timeout {seconds} cat <&3 >/run/received 2>/dev/null
        exec 3>&-
    """
    shell.attempt(script, seconds + _CLOSE_SECONDS)
    return shell.attempt("cat /run/received").output


def repeat(pattern: bytes, size: int) -> bytes:
    """``size`` bytes of ``pattern`` over and over."""
    if not pattern:
        message = "expected a pattern of at least one byte, got none"
        raise ValueError(message)
    return (pattern * (size // len(pattern) + 1))[:size]


def _number(port: str) -> int:
    found = re.fullmatch(r"ttyS(\d+)", port)
    if found is None:
        message = f"expected a serial port like ttyS2, got {port!r}"
        raise ValueError(message)
    return int(found[1])


def _open(port: str) -> str:
    """Opens the port as fd 3, in which every byte passes as it is."""
    _number(port)  # refuses what is no port's name
    return f"exec 3<>/dev/{port}; stty raw -echo -hupcl clocal 115200 <&3"
