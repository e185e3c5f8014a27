"""mtty's ports: a 16550A on a looped wire (National Semiconductor PC16550D), and the parent that shares them."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from mdev_user.driver import Device
from mdev_user.drivers.mtty import LINE_TIME, Mtty, Serial
from mdev_user.errors import NoSpace, OutOfRange
from mdev_user.mdev.device import Mdev
from mdev_user.mdev.parent import MdevParent
from mdev_user.testing.guest import Guest
from mdev_user.vfio.requests import GetInfo, GetIrqInfo, GetRegionInfo, Irq, IrqAction, Region, Reset, SetIrqs
from unit.host.parts import Clock, OpenMdev, eventually

DATA, IER, IIR, FCR, LCR, MCR, LSR, MSR, SCR = 0, 1, 2, 2, 3, 4, 5, 6, 7
RX, THR, LINE, MODEM = 1, 2, 4, 8
NONE, MODEM_CAUSE, THR_CAUSE, RX_CAUSE, LINE_CAUSE, TIMEOUT = 0x01, 0x00, 0x02, 0x04, 0x06, 0x0C
DLAB, LOOP = 0x80, 0x10
READY, OVERRUN, EMPTY = 0x01, 0x02, 0x60
TRIGGER_8 = 0x81


class Port:
    """A port of an mdev of type mtty-1, by its registers."""

    def __init__(self) -> None:
        self.guest = Guest(Mtty, "1")

    def __getitem__(self, register: int) -> int:
        return self.guest.read_bytes(0, register, 1)[0]

    def __setitem__(self, register: int, value: int) -> None:
        self.guest.write_bytes(0, register, bytes((value,)))

    def send(self, data: bytes) -> None:
        for value in data:
            self[DATA] = value

    def receive(self) -> bytes:
        data = bytearray()
        while self[LSR] & READY:
            data.append(self[DATA])
        return bytes(data)

    @property
    def cause(self) -> int:
        """What IIR says beside its two FIFO bits; reading it serves a THR cause, as on the chip."""
        value = self[IIR]
        assert value & 0xC0 == 0xC0
        return value & 0x0F


@pytest.fixture
def port() -> Port:
    return Port()


# --- registers -------------------------------------------------------------------------------------------------


def test_after_open_it_reads_as_the_kernels_sample(port: Port) -> None:
    """Reference, section 9.3: RX 00 IER 00 IIR c1 LCR 00 MCR 00 LSR 60 MSR b3 SCR 00."""
    assert bytes(port[register] for register in range(8)).hex() == "0000c1000060b300"


def test_what_is_sent_comes_back_in_order(port: Port) -> None:
    port.send(b"fifteen charact")
    assert port.receive() == b"fifteen charact"
    assert port[LSR] == EMPTY
    assert port[DATA] == 0


def test_sixteen_bytes_fit_and_the_seventeenth_overruns(port: Port) -> None:
    """The kernel's sample shows an empty FIFO after sixteen; that bug is not copied."""
    port.send(bytes(range(16)))
    assert port[LSR] == READY
    port.send(b"X")
    assert port[LSR] == READY | OVERRUN
    assert port[LSR] == READY  # reading LSR clears the error
    assert port.receive() == bytes(range(16))


def test_the_divisor_latch_is_behind_dlab(port: Port) -> None:
    port[LCR] = DLAB | 3
    port[DATA], port[IER] = 0x34, 0x12
    assert (port[DATA], port[IER]) == (0x34, 0x12)
    port[LCR] = 3
    assert (port[LCR], port[IER], port[LSR]) == (3, 0, EMPTY)
    assert port.receive() == b""


def test_scratch_keeps_any_byte_and_does_nothing(port: Port) -> None:
    for value in (0x00, 0x55, 0xAA, 0xFF):
        port[SCR] = value
        assert port[SCR] == value


def test_status_registers_ignore_writes(port: Port) -> None:
    port[LSR], port[MSR] = 0xFF, 0xFF
    assert (port[LSR], port[MSR]) == (EMPTY, 0xB3)


def test_ier_keeps_the_four_bits_that_a_16550_has(port: Port) -> None:
    port[IER] = 0xFF
    assert port[IER] == 0x0F


def test_clearing_the_receiver_drops_bytes_and_the_overrun(port: Port) -> None:
    port.send(bytes(17))
    port[FCR] = 0x02
    assert port[LSR] == EMPTY
    assert port.receive() == b""


@pytest.mark.parametrize(("outputs", "inputs"), [(0x01, 0x20), (0x02, 0x10), (0x04, 0x40), (0x08, 0x80), (0x0F, 0xF0)])
def test_in_loop_mode_the_modem_outputs_are_its_inputs(port: Port, outputs: int, inputs: int) -> None:
    """What Linux's 8250 driver asks before it believes in a port: MCR 0x1a shows MSR 0x9x."""
    assert port[MSR] & 0xF0 == 0xB0
    port[MCR] = LOOP | outputs
    assert port[MSR] & 0xF0 == inputs
    port[MCR] = outputs
    assert port[MSR] & 0xF0 == 0xB0


def test_reading_msr_clears_its_changes(port: Port) -> None:
    assert port[MSR] == 0xB3
    assert port[MSR] == 0xB0


def test_a_reset_leaves_nothing(port: Port) -> None:
    for register in (DATA, IER, FCR, MCR, SCR):
        port[register] = 0xFF
    port[LCR] = DLAB
    port[DATA], port[IER] = 1, 2
    port.send(bytes(17))
    port.guest.reset()
    fresh = Port()
    assert [port[register] for register in range(8)] == [fresh[register] for register in range(8)]
    port[LCR] = fresh[LCR] = DLAB
    assert (port[DATA], port[IER]) == (0, 0)


# --- interrupts --------------------------------------------------------------------------------------------------


def test_nothing_interrupts_that_is_not_enabled(port: Port) -> None:
    port.send(bytes(17))
    assert port.cause == NONE


def test_a_received_byte_interrupts_at_the_trigger_level_and_times_out_below(port: Port) -> None:
    """Reference, section 9.3: IER=1 and one byte: IIR c4."""
    port[IER] = RX
    assert port.cause == NONE
    port.send(b"a")
    assert port.cause == RX_CAUSE
    port[FCR] = TRIGGER_8
    assert port.cause == TIMEOUT
    port.send(b"bcdefgh")
    port.guest.advance(1)
    assert port.cause == RX_CAUSE
    port.receive()
    assert port.cause == NONE


@pytest.mark.parametrize(("fcr", "level"), [(0x01, 1), (0x41, 4), (0x81, 8), (0xC1, 14)])
def test_the_trigger_levels_are_those_of_the_chip(port: Port, fcr: int, level: int) -> None:
    port[IER], port[FCR] = RX, fcr
    port.send(bytes(level - 1))
    port.guest.advance(1)
    assert port.cause == (NONE if level == 1 else TIMEOUT)
    port.send(b"x")
    port.guest.advance(1)
    assert port.cause == RX_CAUSE


def test_enabling_the_transmitter_interrupt_fires_it_when_there_is_room(port: Port) -> None:
    port[IER] = THR
    assert port.cause == THR_CAUSE
    assert port.cause == NONE  # reading IIR served it
    port[IER] = 0
    port[IER] = THR
    assert port.cause == THR_CAUSE


def test_the_transmitter_interrupts_again_when_what_was_sent_has_left(port: Port) -> None:
    port[IER] = THR
    assert port.cause == THR_CAUSE
    port.send(b"ab")
    assert port.cause == NONE
    assert port[DATA] == ord("a")
    assert port.cause == NONE
    assert port[DATA] == ord("b")
    assert port.cause == THR_CAUSE


def test_writing_a_byte_serves_the_transmitter_interrupt(port: Port) -> None:
    port[IER] = THR
    port.send(b"a")
    assert port.cause == NONE


def test_causes_are_told_in_the_order_of_their_priority(port: Port) -> None:
    port[IER] = RX | THR | LINE | MODEM
    assert port.cause == THR_CAUSE
    assert port.cause == MODEM_CAUSE
    port.send(bytes(17))
    assert port.cause == LINE_CAUSE
    port[LSR]
    assert port.cause == RX_CAUSE
    for _ in range(16):
        port[DATA]
    assert port.cause == THR_CAUSE
    assert port.cause == MODEM_CAUSE
    port[MSR]
    assert port.cause == NONE


def test_a_busy_line_holds_received_bytes_back_from_interrupts_and_not_from_polls(port: Port) -> None:
    port[IER], port[FCR] = RX, TRIGGER_8
    port.send(b"a")
    assert port.cause == NONE
    port.guest.advance(LINE_TIME / 2)
    port.send(b"bcdefgh")
    port.guest.advance(LINE_TIME * 0.9)
    assert port.cause == NONE
    assert port[LSR] & READY
    port.guest.advance(LINE_TIME)
    assert port.cause == RX_CAUSE
    assert port.guest.pin
    assert port.guest.errors == 0


# --- an mdev -----------------------------------------------------------------------------------------------------


class Interrupt:
    """An eventfd that counts."""

    def __init__(self) -> None:
        self.signals = 0

    def signal(self) -> None:
        self.signals += 1

    def watch(self, signalled: object) -> None:
        """Nobody unmasks by it here."""

    def close(self) -> None:
        """There is nothing to close."""


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    yield clock
    clock.thread.stop()


@pytest.fixture
def mdev(clock: Clock) -> OpenMdev:
    return OpenMdev(clock.thread, Device(Serial, Mtty.types["2"], uuid4()))


def arm(mdev: OpenMdev) -> Interrupt:
    interrupt = Interrupt()
    mdev.device.ioctl(SetIrqs(Irq.INTX, 0, 1, IrqAction.TRIGGER, (interrupt,)))
    return interrupt


def unmask(mdev: OpenMdev) -> None:
    mdev.device.ioctl(SetIrqs(Irq.INTX, 0, 1, IrqAction.UNMASK))


def test_the_identity_is_the_samples(mdev: OpenMdev) -> None:
    read = mdev.device.read
    assert read(Region.CONFIG, 0, 4).hex() == "48435332"
    assert read(Region.CONFIG, 8, 4) == bytes((0x10, 0x02, 0x00, 0x07))
    assert read(Region.CONFIG, 0x3D, 1) == b"\x01"
    for bar in (0x10, 0x14):
        mdev.device.write(Region.CONFIG, bar, b"\xff\xff\xff\xff")
        assert int.from_bytes(read(Region.CONFIG, bar, 4), "little") == 0xFFFF_FFF9
    mdev.device.write(Region.CONFIG, 0x18, b"\xff\xff\xff\xff")
    assert read(Region.CONFIG, 0x18, 4) == bytes(4)


def test_the_regions_and_interrupts_are_the_samples(mdev: OpenMdev) -> None:
    info = mdev.device.ioctl(GetInfo())
    assert info is not None
    assert (info.flags, info.num_regions, info.num_irqs) == (3, 9, 5)  # type: ignore[union-attr]  # DeviceInfo
    sizes = [mdev.device.region_info(index).size for index in range(9)]
    assert sizes == [8, 8, 0, 0, 0, 0, 0, 256, 0]
    assert mdev.device.ioctl(GetRegionInfo(0)) == mdev.device.region_info(0)
    intx = mdev.device.ioctl(GetIrqInfo(0))
    assert (intx.flags, intx.count) == (7, 1)  # type: ignore[union-attr]  # IrqInfo


def test_a_port_of_one_bar_is_not_that_of_the_other(mdev: OpenMdev) -> None:
    mdev.device.write(0, DATA, b"a")
    mdev.device.write(1, SCR, b"\x5a")
    assert mdev.device.read(1, LSR, 1) == b"\x60"
    assert mdev.device.read(0, SCR, 1) == b"\0"
    assert mdev.device.read(0, DATA, 1) == b"a"


@pytest.mark.parametrize(("region", "offset"), [(2, 0), (6, 0), (0, 8), (1, 0x1000), (40, 0)])
def test_registers_that_are_not_there_are_an_error(mdev: OpenMdev, region: int, offset: int) -> None:
    with pytest.raises(OutOfRange):
        mdev.device.read(region, offset, 1)
    with pytest.raises(OutOfRange):
        mdev.device.write(region, offset, b"x")


def test_a_wider_access_is_one_to_each_register(mdev: OpenMdev) -> None:
    """The kernel's sample reads and writes a byte, whatever the size; the registers of a real port are a byte each."""
    mdev.device.write(0, LCR, b"\x03\x0b")
    mdev.device.write(0, DATA, b"ab")
    assert mdev.device.read(0, DATA, 4) == b"a\x02\xc2\x03"
    with pytest.raises(OutOfRange):
        mdev.device.write(0, SCR, b"\x5a\xa5")


def test_one_byte_fires_once_until_the_guest_unmasks(mdev: OpenMdev) -> None:
    interrupt = arm(mdev)
    mdev.device.write(0, IER, b"\x01")
    mdev.device.write(0, DATA, b"a")
    assert interrupt.signals == 1
    mdev.device.write(0, DATA, b"b")
    assert interrupt.signals == 1
    unmask(mdev)  # the bytes are still there
    assert interrupt.signals == 2
    mdev.device.read(0, DATA, 1)
    mdev.device.read(0, DATA, 1)
    unmask(mdev)
    assert interrupt.signals == 2
    assert mdev.counters["interrupts"] == 1  # one level, however often it is told


def test_the_line_stays_up_while_either_port_wants_it(mdev: OpenMdev) -> None:
    interrupt = arm(mdev)
    for port in (0, 1):
        mdev.device.write(port, IER, b"\x01")
        mdev.device.write(port, DATA, b"a")
    assert interrupt.signals == 1
    mdev.device.read(0, DATA, 1)
    unmask(mdev)
    assert interrupt.signals == 2
    mdev.device.read(1, DATA, 1)
    unmask(mdev)
    assert interrupt.signals == 2


def test_with_a_trigger_level_bytes_interrupt_when_the_line_rests(clock: Clock, mdev: OpenMdev) -> None:
    interrupt = arm(mdev)
    with mdev.lock:
        mdev.device.write(0, FCR, bytes((TRIGGER_8,)))
        mdev.device.write(0, IER, b"\x01")
        mdev.device.write(0, DATA, b"a")
    assert interrupt.signals == 0
    eventually(lambda: clock.thread._timers)
    with mdev.lock:
        mdev.device.write(0, DATA, b"b")  # still sending: the line does not rest yet
    clock.advance(0.01)
    eventually(lambda: clock.thread._timers and clock.thread._timers[0][0] > clock.now)
    assert interrupt.signals == 0
    clock.advance(0.01)
    eventually(lambda: interrupt.signals == 1)
    with mdev.lock:
        assert mdev.device.read(0, IIR, 1) == bytes((0xC0 | TIMEOUT,))
        assert (mdev.device.read(0, DATA, 1), mdev.device.read(0, DATA, 1)) == (b"a", b"b")


@pytest.mark.parametrize("how", ["reset", "reopen"])
def test_a_reset_in_the_middle_of_sending_leaves_a_line_that_works(clock: Clock, mdev: OpenMdev, how: str) -> None:
    def begin() -> None:
        mdev.device.write(0, FCR, bytes((TRIGGER_8,)))
        mdev.device.write(0, IER, b"\x01")
        mdev.device.write(0, DATA, b"a")

    with mdev.lock:
        begin()
    eventually(lambda: clock.thread._timers)
    with mdev.lock:
        if how == "reset":
            mdev.device.reset()
        else:
            memory = mdev.device._memory
            assert memory is not None
            mdev.device.close()
            mdev.device.open(mdev.jobs, memory)
        assert mdev.device.read(0, LSR, 1) == b"\x60"
        interrupt = arm(mdev)
        begin()
    for _ in range(3):
        clock.advance(0.01)
        eventually(lambda: interrupt.signals or any(timer[0] > clock.now for timer in clock.thread._timers))
    eventually(lambda: interrupt.signals == 1)


def test_vfio_reset_empties_the_ports_and_keeps_the_config_space(mdev: OpenMdev) -> None:
    interrupt = arm(mdev)
    mdev.device.write(Region.CONFIG, 0x3C, b"\x0b")
    mdev.device.write(0, IER, b"\x01")
    mdev.device.write(0, DATA, b"a")
    assert interrupt.signals == 1
    mdev.device.ioctl(Reset())
    assert mdev.device.read(0, LSR, 1) == b"\x60"
    assert mdev.device.read(0, IER, 1) == b"\0"
    assert mdev.device.read(Region.CONFIG, 0x3C, 1) == b"\x0b"
    unmask(mdev)
    assert interrupt.signals == 1  # the level is down
    mdev.device.write(0, IER, b"\x01")
    mdev.device.write(0, DATA, b"b")
    assert interrupt.signals == 2  # and rises again


# --- the parent ----------------------------------------------------------------------------------------------------


@pytest.fixture
def parent() -> MdevParent:
    return MdevParent("mtty", Mtty())


def mdev_of(parent: MdevParent, type_id: str) -> Mdev:
    return Mdev(uuid4(), parent, parent.types[type_id])


def available(parent: MdevParent) -> tuple[int, int]:
    one, two = (parent.ops.get_available(each) for each in parent.types.values())
    return one, two


def test_both_types_share_the_ports(parent: MdevParent) -> None:
    assert available(parent) == (24, 12)
    one, two = mdev_of(parent, "mtty-1"), mdev_of(parent, "mtty-2")
    parent.ops.create(one)
    assert available(parent) == (23, 11)
    parent.ops.create(two)
    assert available(parent) == (21, 10)
    parent.ops.remove(one)
    parent.ops.remove(two)
    assert available(parent) == (24, 12)


def test_a_full_parent_has_no_space_and_loses_nothing(parent: MdevParent) -> None:
    mdevs = [mdev_of(parent, "mtty-2") for _ in range(11)] + [mdev_of(parent, "mtty-1")]
    for each in mdevs:
        parent.ops.create(each)
    with pytest.raises(NoSpace, match="2 takes 2 of ports, 1 are free"):
        parent.ops.create(mdev_of(parent, "mtty-2"))
    assert available(parent) == (1, 0)
    parent.ops.create(mdev_of(parent, "mtty-1"))
    assert available(parent) == (0, 0)


def test_forty_creates_at_once_never_over_commit(parent: MdevParent) -> None:
    ready = threading.Barrier(40)

    def create() -> bool:
        ready.wait()
        try:
            parent.ops.create(mdev_of(parent, "mtty-1"))
        except NoSpace:
            return False
        return True

    with ThreadPoolExecutor(40) as pool:
        results = [each.result() for each in [pool.submit(create) for _ in range(40)]]
    assert results.count(True) == 24
    assert available(parent) == (0, 0)


def test_the_attribute_says_which_mdev_it_is(parent: MdevParent) -> None:
    mdev = mdev_of(parent, "mtty-1")
    mdev.drvdata = parent.ops.create(mdev)
    assert parent.ops.show(mdev, parent.ops.attributes[0]) == f"This is MDEV {mdev.uuid}\n"
