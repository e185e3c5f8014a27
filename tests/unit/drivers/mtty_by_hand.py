"""mtty: serial ports on PCI, the device of Linux's sample parent driver, written against the low-level contract.

A parent has 24 ports; an mdev of type mtty-1 takes one, of mtty-2 two. Each port is a 16550A whose wire is a loop:
what the guest sends comes back. Identity (4348:3253, class 0700), types and texts are those of
``samples/vfio-mdev/mtty.c``; the bugs of that sample are not here.

The loop takes no time, and a guest that polls sees that. Interrupts keep the pace of a line: with a trigger level above
one (Linux sets 8) received bytes interrupt when nothing was sent for the time of a full FIFO. Otherwise a guest that
echoes would never leave its first interrupt.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from threading import Lock

from typing_extensions import override

from mdev_user.driver import (
    BarRegion,
    ConfigSpace,
    DeviceOps,
    IoBar,
    Mdev,
    MdevAttribute,
    MdevParentOps,
    MdevType,
    NoSpace,
    OutOfRange,
    PciFunction,
    PciId,
    Region,
    Reply,
    Request,
    Reset,
    Sleep,
    VfioDevice,
)

_IDENTITY = PciId(vendor=0x4348, device=0x3253, class_code=0x070002, revision=0x10)
_REGISTERS = 8
_PORT = BarRegion(IoBar(_REGISTERS))
_FIFO = 16
_TRIGGERS = (1, 4, 8, 14)
_LINE_TIME = _FIFO * 10 / 115200
"""Seconds: 16 characters of 10 bits at 115200 baud."""

# Register bits (National Semiconductor PC16550D, section 8).
_IER_RX, _IER_THR, _IER_LINE, _IER_MODEM = 0x01, 0x02, 0x04, 0x08
_IIR_NONE, _IIR_MODEM, _IIR_THR, _IIR_RX, _IIR_LINE, _IIR_TIMEOUT = 0x01, 0x00, 0x02, 0x04, 0x06, 0x0C
_IIR_FIFO = 0xC0
_FCR_CLEAR_RX = 0x02
_LCR_DLAB = 0x80
_MCR_LOOP = 0x10
_LSR_DATA, _LSR_OVERRUN, _LSR_EMPTY = 0x01, 0x02, 0x60
_MSR_CONNECTED, _MSR_CHANGED = 0xB0, 0x03
# With MCR's loop bit the modem outputs DTR RTS OUT1 OUT2 appear as the inputs DSR CTS RI DCD.
_LOOPED = ((0x01, 0x20), (0x02, 0x10), (0x04, 0x40), (0x08, 0x80))


class Uart:
    """One 16550A on a looped wire: a byte sent is received at once, and THR is empty when the receiver is."""

    __slots__ = (
        "_changed", "_dll", "_dlm", "_fifo", "_ier", "_lcr", "_mcr", "_overrun", "_scr", "_send", "_thr_pending",
        "_trigger", "busy", "readers", "sent", "writers",
    )  # fmt: skip

    def __init__(self, send: Callable[[], None]) -> None:
        """``send`` is called when a byte goes out on an idle line at a pace; it sets ``busy`` until the line rests."""
        self._send = send
        self._fifo: deque[int] = deque()
        self.readers = (
            self._read_data, self._read_ier, self._read_iir, lambda: self._lcr,
            lambda: self._mcr, self._read_lsr, self._read_msr, lambda: self._scr,
        )  # fmt: skip
        self.writers = (
            self._write_data, self._write_ier, self._write_fcr, self._write_lcr,
            self._write_mcr, self._ignore, self._ignore, self._write_scr,
        )  # fmt: skip
        self.reset()

    def reset(self) -> None:
        self._fifo.clear()
        self._ier = self._lcr = self._mcr = self._scr = self._dll = self._dlm = 0
        self._overrun = self._thr_pending = self.busy = False
        self.sent = 0
        self._trigger = _TRIGGERS[0]
        self._changed = _MSR_CHANGED

    def cause(self) -> int:
        """What IIR reports (section 8.5): the enabled condition of the highest priority, or `_IIR_NONE`."""
        ier = self._ier
        if self._overrun and ier & _IER_LINE:
            return _IIR_LINE
        if self._fifo and ier & _IER_RX and not self.busy:
            return _IIR_RX if len(self._fifo) >= self._trigger else _IIR_TIMEOUT
        if self._thr_pending and ier & _IER_THR:
            return _IIR_THR
        if self._changed and ier & _IER_MODEM:
            return _IIR_MODEM
        return _IIR_NONE

    def _read_data(self) -> int:
        if self._lcr & _LCR_DLAB:
            return self._dll
        if not self._fifo:
            return 0
        value = self._fifo.popleft()
        self._thr_pending |= not self._fifo
        return value

    def _write_data(self, value: int) -> None:
        if self._lcr & _LCR_DLAB:
            self._dll = value
            return
        self._thr_pending = False
        if len(self._fifo) < _FIFO:
            self._fifo.append(value)
        else:
            self._overrun = True
        self.sent += 1
        if self._trigger > 1 and not self.busy:
            self._send()

    def _read_ier(self) -> int:
        return self._dlm if self._lcr & _LCR_DLAB else self._ier

    def _write_ier(self, value: int) -> None:
        if self._lcr & _LCR_DLAB:
            self._dlm = value
            return
        if value & _IER_THR and not self._ier & _IER_THR:
            self._thr_pending = not self._fifo
        self._ier = value & 0x0F

    def _read_iir(self) -> int:
        cause = self.cause()
        if cause == _IIR_THR:  # reading IIR is what serves this one
            self._thr_pending = False
        return _IIR_FIFO | cause

    def _write_fcr(self, value: int) -> None:
        self._trigger = _TRIGGERS[value >> 6]
        if value & _FCR_CLEAR_RX:
            self._fifo.clear()
            self._overrun = False

    def _write_lcr(self, value: int) -> None:
        self._lcr = value

    def _write_mcr(self, value: int) -> None:
        self._mcr = value & 0x1F

    def _read_lsr(self) -> int:
        overrun, self._overrun = self._overrun, False
        return (_LSR_DATA if self._fifo else _LSR_EMPTY) | (_LSR_OVERRUN if overrun else 0)

    def _read_msr(self) -> int:
        changed, self._changed = self._changed, 0
        if self._mcr & _MCR_LOOP:
            return changed | sum(shown for output, shown in _LOOPED if self._mcr & output)
        return changed | _MSR_CONNECTED

    def _write_scr(self, value: int) -> None:
        self._scr = value

    def _ignore(self, value: int) -> None:
        """LSR and MSR are read only."""


class MttyDevice(DeviceOps):
    """One mdev: a PCI function with a port behind each of its BARs."""

    __slots__ = ("_device", "_function", "_ports", "_raised")

    def __init__(self, ports: int) -> None:
        bars = dict.fromkeys(range(ports), _PORT)
        config = ConfigSpace(_IDENTITY, {index: each.bar for index, each in bars.items()})
        self._function = PciFunction(config, bars)
        self._ports = tuple(Uart(partial(self._send, region)) for region in range(ports))
        self._raised = [False] * ports
        self._device: VfioDevice | None = None

    @override
    def open_device(self, device: VfioDevice) -> None:
        self._device = device
        self._function.open(device)
        self._reset_ports()

    @override
    def close_device(self) -> None:
        self._function.close()

    @override
    def read(self, region: int, offset: int, count: int) -> bytes:
        # A guest waits for every access: what a register needs stands here, what anything else needs is called.
        if region >= len(self._ports) or offset >= _REGISTERS:
            _check_config(region, offset)
            return self._function.read_config(offset, count)
        port = self._ports[region]
        value = port.readers[offset]()
        if (port.cause() != _IIR_NONE) is not self._raised[region]:
            self._settle(region, port)
        # The registers are a byte wide; a wider access is one to the register where it begins.
        return value.to_bytes(count, "little")

    @override
    def write(self, region: int, offset: int, data: bytes) -> None:
        if region >= len(self._ports) or offset >= _REGISTERS:
            _check_config(region, offset)
            self._function.write_config(offset, data)
            return
        port = self._ports[region]
        port.writers[offset](data[0])
        if (port.cause() != _IIR_NONE) is not self._raised[region]:
            self._settle(region, port)

    @override
    def ioctl(self, request: Request) -> Reply:
        if isinstance(request, Reset):
            self._reset_ports()
        return self._function.ioctl(request)

    def _settle(self, region: int, port: Uart) -> None:
        wanted = port.cause() != _IIR_NONE
        if wanted == self._raised[region]:
            return
        self._raised[region] = wanted
        if wanted:
            self._function.interrupts.raise_level(region)
        else:
            self._function.interrupts.lower_level(region)

    def _send(self, region: int) -> None:
        if self._device is not None:
            self._ports[region].busy = True
            self._device.spawn(self._carry(region), "line")

    async def _carry(self, region: int) -> None:
        """The line is busy until nothing was sent for a while."""
        port, carried = self._ports[region], 0
        while carried != port.sent:
            carried = port.sent
            await Sleep(_LINE_TIME)
        port.busy = False
        self._settle(region, port)

    def _reset_ports(self) -> None:
        for region, port in enumerate(self._ports):
            port.reset()
            self._raised[region] = False
            self._function.interrupts.lower_level(region)


def _check_config(region: int, offset: int) -> None:
    if region != Region.CONFIG:
        raise OutOfRange(f"region {region} offset {offset:#x}: expected the config space, or a register of a port")


class Mtty(MdevParentOps):
    """The parent: ``ports`` serial ports to be shared."""

    driver_name = "mtty"
    mdev_types = (MdevType("1", "Single port serial"), MdevType("2", "Dual port serial"))
    attributes = (MdevAttribute("vendor", "sample_mdev_dev"),)

    def __init__(self, *, ports: int = 24) -> None:
        self._free = ports
        self._lock = Lock()  # creates and removes of one parent run at the same time

    @override
    def create(self, mdev: Mdev) -> MttyDevice:
        ports = int(mdev.type.name)
        with self._lock:
            if self._free < ports:
                raise NoSpace(f"{mdev.type.pretty_name} needs {ports} ports, {self._free} are free")
            self._free -= ports
        return MttyDevice(ports)

    @override
    def remove(self, mdev: Mdev) -> None:
        with self._lock:
            self._free += int(mdev.type.name)

    @override
    def get_available(self, mdev_type: MdevType) -> int:
        return self._free // int(mdev_type.name)

    @override
    def show(self, mdev: Mdev, attribute: MdevAttribute) -> str:
        return f"This is MDEV {mdev.uuid}\n"
