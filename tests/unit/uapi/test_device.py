"""An open device, asked by this process as by a program that is traced: the answers are those of Linux."""

import ctypes
import mmap
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from errno import EBADF, EFAULT, EINVAL, EIO, EMFILE, ENOTTY, ESPIPE
from pathlib import Path
from time import monotonic, sleep

import pytest

from mdev_user.errors import MdevUserError, errno_of
from mdev_user.uapi.abi.vfio import Command
from mdev_user.uapi.device import Device
from mdev_user.uapi.files import File
from mdev_user.uapi.memory import AddressSpace
from mdev_user.uapi.server_regions import file_of
from mdev_user.units import KiB
from mdev_user.vfio.dma import DmaFlags
from mdev_user.vfio.requests import REGION_BASE, Region, RegionFlags, region_offset
from mdev_user.vfio_user.client import Client, ClientRegion
from protocol.device import MEMORY_SIZE, TestDevice
from protocol.served import Served
from uapi.ourselves import Ourselves, packed

CONFIG = region_offset(Region.CONFIG)
SHARED, PRIVATE = 1, 2
TRIGGER_EVENTFD, FIRE, FIRE_BOOL = 0x24, 0x21, 0x22


class Program:
    """This process with one device open."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.ourselves = Ourselves()
        self.device, self.fd = self.ourselves.device(served)
        self.buffer = ctypes.create_string_buffer(8 * KiB)
        self.at = ctypes.addressof(self.buffer)

    @property
    def ops(self) -> TestDevice:
        assert isinstance(self.served.ops, TestDevice)
        return self.served.ops

    def ioctl(self, command: int, data: bytes, room: int = 0) -> bytes:
        memory = packed(data, room)
        assert self.ourselves.ioctl(self.device, command, memory) == 0
        return memory.raw

    def refusal(self, command: int, data: bytes) -> int:
        return refusal(self.ourselves, self.device, command, data)

    def read(self, count: int, offset: int | None) -> bytes:
        done = self.device.read(self.ourselves.call(), self.at, count, offset)
        return self.buffer.raw[:done]

    def write(self, data: bytes, offset: int) -> int:
        ctypes.memmove(self.at, data, len(data))
        return self.device.write(self.ourselves.call(), self.at, len(data), offset)

    def map(self, length: int, offset: int, flags: int = SHARED) -> int:
        """0, or the errno."""
        try:
            self.device.mmap(self.ourselves.call(), length, 3, flags, offset)
        except OSError as error:
            return errno_of(error)
        return 0

    def set_irqs(self, flags: int, index: int, start: int, count: int, data: bytes = b"", argsz: int = 0) -> int:
        """0, or the errno."""
        head = struct.pack("=5I", argsz or 20 + len(data), flags, index, start, count)
        try:
            return self.ourselves.ioctl(self.device, Command.DEVICE_SET_IRQS, packed(head + data))
        except OSError as error:
            return errno_of(error)


def refusal(ourselves: Ourselves, file: File, command: int, data: "bytes | int" = 0) -> int:
    """The errno of an ioctl that is refused."""
    with pytest.raises((OSError, MdevUserError)) as caught:
        ourselves.ioctl(file, command, data if isinstance(data, int) else packed(data))
    return errno_of(caught.value)


@pytest.fixture
def program() -> Iterator[Program]:
    with Served() as served:
        program = Program(served)
        yield program
        program.ourselves.files.close()


# --- what there is


def test_info_writes_what_it_is_sized_for_only(program: Program) -> None:
    told = program.ioctl(Command.DEVICE_GET_INFO, struct.pack("=5I", 20, 9, 9, 9, 0xEEEEEEEE))
    assert struct.unpack("=5I", told) == (20, 3, 9, 5, 0xEEEEEEEE)


@pytest.mark.parametrize(
    ("command", "size"),
    [(Command.DEVICE_GET_INFO, 16), (Command.DEVICE_GET_REGION_INFO, 32), (Command.DEVICE_GET_IRQ_INFO, 16),
     (Command.DEVICE_SET_IRQS, 20)],
)  # fmt: skip
def test_too_small_an_argsz_is_refused(program: Program, command: int, size: int) -> None:
    assert program.refusal(command, struct.pack("=I", size - 1) + bytes(64)) == EINVAL


def test_structs_that_are_not_there_are_faults(program: Program) -> None:
    for command in (Command.DEVICE_GET_INFO, Command.DEVICE_GET_REGION_INFO, Command.DEVICE_SET_IRQS):
        assert refusal(program.ourselves, program.device, command, 8) == EFAULT


def test_unknown_ioctls_are_not_the_devices(program: Program) -> None:
    for command in (Command.DEVICE_GET_PCI_HOT_RESET_INFO, Command.DEVICE_IOEVENTFD, 0x3B64 + 99):
        assert program.refusal(command, bytes(64)) == ENOTTY


def region_info(program: Program, index: int, argsz: int) -> tuple[int, ...]:
    head = struct.pack("=IIIIQQ", argsz, 0, index, 0, 0, 0)
    told = program.ioctl(Command.DEVICE_GET_REGION_INFO, head, room=256)
    return struct.unpack_from("=IIIIQQ", told) + (struct.unpack_from("=HH", told, 32) if argsz > 32 else ())


def test_region_info_without_capabilities(program: Program) -> None:
    assert region_info(program, Region.CONFIG, 256) == (256, 3, Region.CONFIG, 0, 256, CONFIG, 0, 0)
    assert region_info(program, Region.BAR1, 32) == (32, 0, Region.BAR1, 0, 0, 0)
    assert region_info(program, Region.BAR4, 32) == (32, 7, Region.BAR4, 0, MEMORY_SIZE, region_offset(Region.BAR4))


def test_capabilities_come_where_there_is_room(program: Program) -> None:
    size, offset = MEMORY_SIZE, region_offset(Region.BAR2)
    for argsz in (32, 63):
        assert region_info(program, Region.BAR2, argsz)[:6] == (64, 0xF, Region.BAR2, 0, size, offset)
    assert region_info(program, Region.BAR2, 64) == (64, 0xF, Region.BAR2, 32, size, offset, 1, 1)


def test_indexes_beyond_the_devices_are_refused(program: Program) -> None:
    for index in (9, 100, 0xFFFF_FFFF):
        head = struct.pack("=IIIIQQ", 256, 0, index, 0, 0, 0)
        assert program.refusal(Command.DEVICE_GET_REGION_INFO, head + bytes(256)) == EINVAL
        assert program.refusal(Command.DEVICE_GET_IRQ_INFO, struct.pack("=4I", 16, 0, index, 0)) == EINVAL


# --- reads, writes, mappings


def test_regions_are_read_and_written_at_their_offsets(program: Program) -> None:
    assert program.read(8, CONFIG + 4) == bytes(range(4, 12))
    assert program.write(b"abcd", region_offset(Region.BAR0) + 0x10) == 4
    assert program.ops.scratch[0x10:0x14] == b"abcd"
    assert program.read(0, CONFIG) == b""
    assert program.read(KiB * 4, region_offset(Region.BAR0))[0x10:0x14] == b"abcd"


def test_reads_without_an_offset_go_on(program: Program) -> None:
    program.ops.scratch[:4] = b"wxyz"
    assert (program.read(1, None), program.read(2, None)) == (b"w", b"xy")


@pytest.mark.parametrize(
    ("offset", "errno"),
    [
        (CONFIG + 256, EFAULT),
        (region_offset(20), EFAULT),
        (REGION_BASE - 4, EFAULT),
        (0, EFAULT),
        ((1 << 63) - 4, EINVAL),
    ],
)
def test_offsets_without_a_region_are_faults(program: Program, offset: int, errno: int) -> None:
    for access in (lambda: program.read(4, offset), lambda: program.write(b"1234", offset)):
        with pytest.raises((OSError, MdevUserError)) as caught:
            access()
        assert errno_of(caught.value) == errno


def test_buffers_that_are_not_there_are_faults(program: Program) -> None:
    for transfer in (program.device.read, program.device.write):
        with pytest.raises(OSError, match="process_vm") as caught:
            transfer(program.ourselves.call(), 8, 4, CONFIG)
        assert errno_of(caught.value) == EFAULT
    with pytest.raises(OSError, match="seek") as caught:
        program.device.seek(program.ourselves.call())
    assert errno_of(caught.value) == ESPIPE


def test_only_what_is_mappable_is_mapped(program: Program) -> None:
    bar2, bar4 = region_offset(Region.BAR2), region_offset(Region.BAR4)
    allowed = [(MEMORY_SIZE, bar4), (100, bar4 + 4 * KiB), (4 * KiB, bar2 + 4 * KiB)]
    refused = [(MEMORY_SIZE + 1, bar4), (4 * KiB, bar2), (MEMORY_SIZE, bar2), (4 * KiB, CONFIG), (4 * KiB, 0)]
    assert [program.map(*each) for each in allowed] == [0, 0, 0]
    assert [program.map(*each) for each in refused] == [EINVAL] * 5
    assert program.map(4 * KiB, bar4, PRIVATE) == EINVAL


def test_a_mapping_shows_the_devices_memory(program: Program) -> None:
    with mmap.mmap(program.fd, MEMORY_SIZE, offset=region_offset(Region.BAR4)) as mapping:
        program.ops.mappable[Region.BAR4][5:9] = b"here"
        assert mapping[5:9] == b"here"
        mapping[100:103] = b"too"
    assert program.read(3, region_offset(Region.BAR4) + 100) == b"too"


# --- interrupts


def test_an_eventfd_of_the_program_is_signalled(program: Program) -> None:
    eventfd = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        assert program.set_irqs(TRIGGER_EVENTFD, 1, 0, 1, struct.pack("=i", eventfd)) == 0
        assert program.set_irqs(FIRE, 1, 0, 1) == 0
        assert os.eventfd_read(eventfd) == 1
        assert program.set_irqs(FIRE_BOOL, 1, 0, 1, b"\1") == 0
        assert os.eventfd_read(eventfd) == 1
        assert program.set_irqs(TRIGGER_EVENTFD, 1, 0, 1, struct.pack("=i", -1)) == 0
        assert program.set_irqs(FIRE, 1, 0, 1) == 0
        with pytest.raises(BlockingIOError):
            os.eventfd_read(eventfd)
    finally:
        os.close(eventfd)


def test_vectors_with_and_without_eventfds_in_one_call(program: Program) -> None:
    eventfds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(3)]
    a, b, c = eventfds
    try:
        data = struct.pack("=8i", a, -1, -1, b, c, -1, -1, -1)
        assert program.set_irqs(TRIGGER_EVENTFD, 2, 0, 8, data) == 0
        assert program.set_irqs(FIRE, 2, 0, 8) == 0
        assert [os.eventfd_read(each) for each in eventfds] == [1, 1, 1]
    finally:
        for each in eventfds:
            os.close(each)


def test_what_is_no_eventfd_is_refused(program: Program) -> None:
    eventfd = os.eventfd(0)
    data = struct.pack("=i", eventfd)
    refusals = {
        (TRIGGER_EVENTFD, 1, 0, 1, struct.pack("=i", 9999)): EBADF,
        (TRIGGER_EVENTFD, 1, 0, 1, struct.pack("=i", program.fd)): EINVAL,
        (TRIGGER_EVENTFD, 1, 0, 1, b""): EINVAL,
        (TRIGGER_EVENTFD, 5, 0, 1, data): EINVAL,
        (TRIGGER_EVENTFD, 0, 1, 1, data): EINVAL,
        (TRIGGER_EVENTFD, 0, 0, 2, data * 2): EINVAL,
        (TRIGGER_EVENTFD | 2, 0, 0, 1, data): EINVAL,
        (TRIGGER_EVENTFD | 1 << 31, 0, 0, 1, data): EINVAL,
        (TRIGGER_EVENTFD, 0, 0xFFFF_FFFF, 1, data): EINVAL,
    }
    assert {each: program.set_irqs(*each) for each in refusals} == refusals
    assert program.set_irqs(4, 0, 0, 1, data) == 0  # no action: nothing is done
    os.close(eventfd)


# --- life and death


def test_reset_reaches_the_device(program: Program) -> None:
    assert program.ourselves.ioctl(program.device, Command.DEVICE_RESET) == 0
    assert program.ops.resets == 1


def test_the_last_close_ends_the_session(program: Program) -> None:
    mapping = mmap.mmap(program.fd, MEMORY_SIZE, offset=region_offset(Region.BAR4))
    program.ourselves.close(program.fd)
    assert program.served.thread.is_alive()
    mapping.close()
    program.ourselves.files.settle()
    program.served.ended()


def test_a_server_that_dies_is_an_error_from_then_on(program: Program) -> None:
    program.served.session.close()
    program.served.ended()
    for _ in range(2):
        with pytest.raises(OSError, match="Errno 5") as caught:
            program.read(4, CONFIG)
        assert errno_of(caught.value) == EIO
    assert refusal(program.ourselves, program.device, Command.DEVICE_RESET) == EIO


def test_a_slow_server_lets_others_go_on(program: Program) -> None:
    held = threading.Event()

    def hold() -> None:
        with program.served.step_lock:
            held.set()
            threading.Event().wait(0.1)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(10)
    assert program.read(4, CONFIG + 4) == bytes(range(4, 8))
    holder.join()
    assert program.ourselves.waits == 1


def test_memory_is_served_while_the_program_does_nothing(program: Program) -> None:
    memory = mmap.mmap(-1, 4 * KiB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:4] = b"mine"
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    space = AddressSpace()
    space.map(program.ourselves.call().program, address, 0x1000, 4 * KiB, DmaFlags.READ | DmaFlags.WRITE)
    space.attach(program.device.client, program.device.lock)
    program.device.listen(wanted=space.serves(program.device.client))
    (ready,) = program.ourselves.watched.values()
    got: list[bytes | Exception] = []
    with program.served.step_lock:
        program.served.session.send_dma_read(0x1000, 4, got.append)
    while not got:
        ready()
    assert got == [b"mine"]


def test_only_memory_at_its_place_is_a_region_file() -> None:
    """Whatever else a server shows as a region is read by messages."""
    memory = os.memfd_create("region")
    pipe = os.pipe()
    flags, place = RegionFlags.MMAP, region_offset(0)

    def found(fd: int, offset: int = place, flags: RegionFlags = flags) -> bool:
        chosen = file_of([ClientRegion(0, flags, 4 * KiB, offset, (), fd)])
        if chosen is not None:
            os.close(chosen[1])
        return chosen is not None

    assert found(memory)
    with Path("/dev/zero").open("rb") as device, Path(__file__).open("rb") as file:
        assert not any(found(fd) for fd in (-1, *pipe, device.fileno(), file.fileno()))
    assert not found(memory, 0)
    assert not found(memory, flags=RegionFlags.READ)
    for fd in (memory, *pipe):
        os.close(fd)


def test_closing_does_not_wait_for_a_server_that_hangs(program: Program) -> None:
    errors: list[int] = []

    def read() -> None:
        try:
            program.read(4, CONFIG)
        except (OSError, MdevUserError) as error:
            errors.append(errno_of(error))

    with program.served.step_lock:
        reader = threading.Thread(target=read)
        reader.start()
        wait_until(lambda: program.ourselves.waits == 1)
        program.ourselves.close(program.fd)
        reader.join(10)
    assert errors == [EIO]


def wait_until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    end = monotonic() + seconds
    while not true():
        assert monotonic() < end
        sleep(0.001)


def test_a_server_whose_end_an_access_found_is_not_listened_to_any_more(program: Program) -> None:
    program.device.listen(wanted=True)
    (ready,) = program.ourselves.watched.values()
    program.device.client.socket.shutdown(2)
    with pytest.raises(OSError, match=r"server"):
        program.read(4, CONFIG)
    ready()
    assert not program.ourselves.watched


def held(name: str) -> int:
    """How many descriptors this process has of files of this name."""
    count = 0
    for each in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the folder itself
            count += name in str(each.readlink())
    return count


def test_a_device_that_cannot_be_opened_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its server ends in the middle, or there is no file to be had for it."""

    def gone(self: Client, index: int) -> ClientRegion:
        if index == Region.CONFIG:
            raise ConnectionResetError
        return ask(self, index)

    def full(*_args: object) -> int:
        raise OSError(EMFILE, "too many")

    ask = Client.region_info
    for where, what, fails in ((Client, "region_info", gone), (os, "dup", full)):
        with Served() as served:
            before = held("memfd:regions")
            served.socket.settimeout(None)
            with monkeypatch.context() as patch:
                patch.setattr(where, what, fails)
                with pytest.raises(OSError, match=r"^$|too many"):
                    Device("device", Client.over(served.socket), Ourselves())
            assert held("memfd:regions") == before
            assert served.socket.fileno() < 0
            served.ended()
