"""The steps of mtty's serial port and of interrupts."""

import re

from golden.transcript import Answer
from golden.vfio import ioctls
from golden.vfio.session import Session, answer
from golden.vfio.table import step
from uapi.calls import Result

RX = TX = DLL = 0
IER = DLM = 1
IIR = FCR = 2
LCR, MCR, LSR, MSR, SCR = 3, 4, 5, 6, 7
_NAMES = ("RX", "IER", "IIR", "LCR", "MCR", "LSR", "MSR", "SCR")
_DATA_READY = 1
_CLOSED = 9999
"""The number of no descriptor."""
_SECONDS = 2.0
"""How long an interrupt may take that the kernel had."""


def _get(session: Session, register: int) -> int:
    return session.value(0, register, 1)


def _put(session: Session, register: int, *values: int) -> None:
    for value in values:
        session.write(0, register, bytes((value,)))


def _drain(session: Session) -> str:
    text = ""
    while _get(session, LSR) & _DATA_READY:
        text += chr(_get(session, RX))
    return text


@step("uart-initial-(...)?(RX)?")
def initial(session: Session, match: re.Match[str]) -> Answer:
    done = session.read(0, _NAMES.index(match[1] or match[2]), 1)
    return answer(done, f"{done.data[0]:#04x}")


@step("uart-scr")
def scratch(session: Session, _: re.Match[str]) -> Answer:
    _put(session, SCR, 0x5A)
    done = session.read(0, SCR, 1)
    return answer(done, f"{done.data[0]:#04x}")


@step("uart-lsr-after-(18-tx|fcr-clear)")
def overrun(session: Session, match: re.Match[str]) -> Answer:
    _put(session, FCR, 7)
    if match[1] == "18-tx":
        _put(session, TX, *b"abcdefghijklmnopqr")
    done = session.read(0, LSR, 1)
    return answer(done, f"{done.data[0]:#04x}")


@step("uart-drain(|-15)")
def drain(session: Session, match: re.Match[str]) -> Answer:
    if match[1]:
        _put(session, TX, *b"abcdefghijklmno")
    text = _drain(session)
    return Answer(len(text), None, text)


@step("uart-dlab")
def divisor(session: Session, _: re.Match[str]) -> Answer:
    _put(session, LCR, 0x80)
    _put(session, DLL, 0x34)
    _put(session, DLM, 0x12)
    low, high = _get(session, DLL), _get(session, DLM)
    _put(session, LCR, 3)
    return Answer(0, None, f"dll={low:#04x} dlm={high:#04x}")


@step(r"uart-read-width-(\d)")
def read_wide(session: Session, match: re.Match[str]) -> Answer:
    done = session.read(0, 0, int(match[1]))
    return answer(done, f"first={done.data[0]:02x}")


@step("uart-write-(beyond|far-beyond)")
def write_beyond(session: Session, match: re.Match[str]) -> Answer:
    return answer(session.write(0, 8 if match[1] == "beyond" else 0x1000, b"\x01"))


@step("uart-write-width-4")
def write_wide(session: Session, _: re.Match[str]) -> Answer:
    return answer(session.write(0, TX, b"\x01\x02\x03\x04"))


@step("uart-after-width-4")
def after_wide(session: Session, _: re.Match[str]) -> Answer:
    before, value, after = (_get(session, register) for register in (LSR, RX, LSR))
    return Answer(0, None, f"lsr={before:#04x} rx={value:#04x} lsr={after:#04x}")


# --- SET_IRQS -------------------------------------------------------------------------------------------------------


@step("set-irqs-(.*)", with_command=True)
def set_irqs(session: Session, match: re.Match[str]) -> Answer:
    told = {name: int(value, 0) for name, value in re.findall(r"(\w+)=(\w+)", match.string) if name != "data0"}
    name = match.string.split()[0]
    first = _eventfd(session) if "data0=eventfd" in match.string else _IMMEDIATE.get(name, 1)
    data = b"".join(each.to_bytes(4, "little", signed=True) for each in (first, first, 0, 0))
    header = ioctls.IRQ_SET.pack(*(told[each] for each in ("argsz", "flags", "index", "start", "count")))
    done = session.ioctl(ioctls.DEVICE_SET_IRQS, header + data)
    fires = done.errno is None and re.fullmatch("set-irqs-.*-fire-(none|bool)", name) is not None
    return answer(done, f"eventfd_count={_counted(session, fires)}")


_IMMEDIATE = {"set-irqs-msi-disable-fd-minus1": -1, "set-irqs-intx-badfd": _CLOSED, "set-irqs-intx-notevfd": 1}


@step("irq-on-rx")
def interrupt(session: Session, _: re.Match[str]) -> Answer:
    done = _trigger(session)
    _put(session, IER, 1)
    _put(session, TX, ord("Z"))
    return answer(done, f"eventfd_count={_counted(session, True)} iir={_get(session, IIR):#04x}")


@step("irq-automasked")
def interrupt_again(session: Session, _: re.Match[str]) -> Answer:
    _put(session, TX, ord("Y"))
    count = _counted(session, False)
    _put(session, IER, 0)
    return Answer(0, None, f"eventfd_count={count}")


def _trigger(session: Session) -> Result:
    """INTx with an eventfd."""
    header = ioctls.IRQ_SET.pack(ioctls.IRQ_SET.size + 4, 0x24, 0, 0, 1)
    return session.ioctl(ioctls.DEVICE_SET_IRQS, header + _eventfd(session).to_bytes(4, "little"))


def _eventfd(session: Session) -> int:
    if session.eventfd == -1:
        session.eventfd = session.program.eventfd()
    return session.eventfd


def _counted(session: Session, awaited: bool) -> int:
    if session.eventfd == -1:
        return 0
    if awaited:
        return session.program.counts_to(session.eventfd, _SECONDS)
    return session.program.count(session.eventfd)
