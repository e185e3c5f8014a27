"""The built-in guest: a vfio-user client that drives a serial mdev as an 8250 driver would, by interrupt.

Where no QEMU can be had it takes a guest's place. It shows the device, the socket and the interrupts; it is no proof
of a stock driver.
"""

import os
import select
from pathlib import Path
from typing import Self

from mdev_user.guests.serial import Exchange
from mdev_user.vfio.requests import Irq, Region
from mdev_user.vfio_user.client import Client

_DATA, _IER, _IIR, _FCR, _LCR, _LSR = 0, 1, 2, 2, 3, 5
_IER_RX = 0x01
_FCR_FIFO_TRIGGER_8 = 0x87
_LCR_8N1 = 0x03
_LSR_DATA = 0x01
_IIR_NONE = 0x01
_FIFO = 16
_PATIENCE = 5.0


class BuiltinGuest:
    """One serial port of one mdev; as a context manager it connects and disconnects."""

    def __init__(self, socket: Path) -> None:
        self._client = Client(socket, timeout=_PATIENCE)
        self._eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._interrupts = 0
        self._client.arm(Irq.INTX, [self._eventfd])
        self._write(_LCR, _LCR_8N1)
        self._write(_FCR, _FCR_FIFO_TRIGGER_8)
        self._write(_IER, _IER_RX)

    def describe(self) -> str:
        identity = self._client.region_read(Region.CONFIG, 0, 4)
        vendor, device = (int.from_bytes(identity[at : at + 2], "little") for at in (0, 2))
        return f"{vendor:04x}:{device:04x}, INTx by eventfd"

    def converse(self, line: str, times: int) -> Exchange:
        """Send a line ``times`` times, at most a FIFO at once, each part only after the one before came back."""
        sent = f"{line}\n".encode() * times
        before = self._interrupts
        received = b"".join(self._echo(sent[at : at + _FIFO]) for at in range(0, len(sent), _FIFO))
        return Exchange(sent, received, self._interrupts - before)

    def close(self) -> None:
        self._client.close()
        os.close(self._eventfd)

    def _echo(self, part: bytes) -> bytes:
        for byte in part:
            self._write(_DATA, byte)
        received = bytearray()
        while len(received) < len(part) and self._wait_for_interrupt():
            received += self._serve()
        return bytes(received)

    def _wait_for_interrupt(self) -> bool:
        readable, _, _ = select.select([self._eventfd], [], [], _PATIENCE)
        if not readable:
            return False
        os.eventfd_read(self._eventfd)
        self._interrupts += 1
        return True

    def _serve(self) -> bytes:
        received = bytearray()
        while not self._read(_IIR) & _IIR_NONE:
            while self._read(_LSR) & _LSR_DATA:
                received.append(self._read(_DATA))
        self._client.unmask()
        return bytes(received)

    def _read(self, register: int) -> int:
        return self._client.region_read(Region.BAR0, register, 1)[0]

    def _write(self, register: int, value: int) -> None:
        self._client.region_write(Region.BAR0, register, bytes((value,)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()
