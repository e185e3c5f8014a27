"""Dirty pages: DMA_LOGGING_START, STOP and REPORT, and the bitmap of DMA_UNMAP, of what the device really wrote."""

import struct
from collections.abc import Iterator
from errno import E2BIG, EINVAL, EOVERFLOW

import pytest

from mdev_user.units import GiB, MiB
from mdev_user.vfio.dirty import LARGEST_BITMAP, MOST_RANGES, DirtyLog
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.framing import Command
from mdev_user.vfio_user.messages import DeviceFeature, DmaLogging, DmaReport, Feature
from protocol.dma_device import ServedDma
from protocol.ram import SIZE, dma_map
from protocol.served import Wire

PAGE = 4096
PAGES = SIZE // PAGE
FAR = 4 * GiB


class Memory:
    """Guest memory that the device asks for by messages."""

    def __init__(self) -> None:
        self.bytes = bytearray(SIZE)

    def read(self, address: int, count: int) -> bytes:
        return bytes(self.bytes[address - FAR : address - FAR + count])

    def write(self, address: int, data: bytes) -> None:
        self.bytes[address - FAR : address - FAR + len(data)] = data


@pytest.fixture
def dma() -> Iterator[ServedDma]:
    with ServedDma() as served:
        yield served


@pytest.fixture
def client(dma: ServedDma, ram: int) -> Client:
    """With shared memory at 0 and memory that is none of a file at FAR."""
    client = Client.over(dma.socket, Memory())
    client.dma_map(0, SIZE, ram)
    client.dma_map(FAR, SIZE)
    return client


@pytest.fixture
def wire(dma: ServedDma, ram: int) -> Wire:
    wire = Wire(dma.socket)
    wire.hello()
    wire.ask(Command.DMA_MAP, dma_map(), [ram])
    return wire


def pages(bitmap: bytes) -> list[int]:
    bits = int.from_bytes(bitmap, "little")
    return [page for page in range(bits.bit_length()) if bits >> page & 1]


def reported(client: Client, iova: int = 0) -> list[int]:
    return pages(client.report_dma_logging(iova, SIZE, PAGE))


def test_what_the_device_wrote_is_reported_once(client: Client, dma: ServedDma) -> None:
    assert client.start_dma_logging(PAGE) == PAGE
    dma.write(3 * PAGE + 10, b"x")
    dma.write(6 * PAGE - 1, b"xy")
    assert reported(client) == [3, 5, 6]
    assert reported(client) == []
    dma.write(3 * PAGE, b"x")
    assert reported(client) == [3]


def test_without_the_mark_nothing_would_be_reported(
    client: Client, dma: ServedDma, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: no dirty page."""
    monkeypatch.setattr(DirtyLog, "mark", lambda *_arguments: None)
    client.start_dma_logging(PAGE)
    dma.write(3 * PAGE, b"x")
    assert reported(client) == []


def test_what_is_read_is_not_dirty(client: Client, dma: ServedDma) -> None:
    client.start_dma_logging(PAGE)
    dma.start(dma.dma.read_guest(0, 64))
    assert dma.outcome() == bytes(64)
    assert reported(client) == []


def test_what_is_written_by_messages_is_reported_too(client: Client, dma: ServedDma) -> None:
    client.start_dma_logging(PAGE)
    dma.start(dma.dma.write_guest(FAR + 2 * PAGE, bytes(2 * PAGE)))
    client.serve()
    assert dma.outcome() == 2 * PAGE
    assert reported(client, FAR) == [2, 3]


def test_only_the_ranges_that_were_asked_for_are_logged(client: Client, dma: ServedDma) -> None:
    client.start_dma_logging(PAGE, [(2 * PAGE, PAGE), (8 * PAGE, 2 * PAGE)])
    dma.write(0, bytes(SIZE))
    assert reported(client) == [2, 8, 9]


def test_before_the_start_and_after_the_stop_nothing_is_logged(client: Client, dma: ServedDma) -> None:
    dma.write(0, b"x")
    client.start_dma_logging(PAGE)
    assert reported(client) == []
    client.stop_dma_logging()
    dma.write(PAGE, b"x")
    client.start_dma_logging(PAGE)
    assert reported(client) == []
    client.stop_dma_logging()
    client.stop_dma_logging()  # harmless


def test_a_report_may_be_by_other_pages_than_the_log(client: Client, dma: ServedDma) -> None:
    client.start_dma_logging(PAGE)
    dma.write(5 * PAGE, b"x")
    assert pages(client.report_dma_logging(0, SIZE, 4 * PAGE)) == [1]
    client.stop_dma_logging()
    assert client.start_dma_logging(1 << 40) < 1 << 40, "the device says which size it chose"


def test_the_bitmap_of_a_report_is_words_of_64(client: Client) -> None:
    client.start_dma_logging(PAGE)
    assert len(client.report_dma_logging(0, 64 * PAGE, PAGE)) == 8
    assert len(client.report_dma_logging(0, 65 * PAGE, PAGE)) == 16
    assert len(client.report_dma_logging(0, LARGEST_BITMAP * 8 * PAGE, PAGE)) == MiB


def test_an_unmap_tells_what_was_written_and_forgets_it(client: Client, dma: ServedDma) -> None:
    client.start_dma_logging(PAGE)
    dma.write(4 * PAGE, b"x")
    assert pages(client.dma_unmap_dirty(0, SIZE, PAGE)) == [4]
    assert len(dma.device.dma) == 1
    assert reported(client) == []


def test_an_unmap_without_a_bitmap_leaves_the_log(client: Client, dma: ServedDma) -> None:
    client.start_dma_logging(PAGE)
    dma.write(4 * PAGE, b"x")
    client.dma_unmap(0, SIZE)
    assert reported(client) == [4]


# --- hostile --------------------------------------------------------------------------------------------------


def start(page_size: int, *ranges: tuple[int, int]) -> DeviceFeature:
    return DeviceFeature.set(Feature.DMA_LOGGING_START, DmaLogging(page_size, ranges).encode())


def report(iova: int, length: int, page_size: int, room: int = 1 << 16) -> DeviceFeature:
    data = DmaReport(iova, length, page_size).encode()
    return DeviceFeature.get(Feature.DMA_LOGGING_REPORT, data, room=room)


def feature(wire: Wire, request: DeviceFeature) -> int:
    return wire.ask(Command.DEVICE_FEATURE, request.encode()).errno


@pytest.mark.parametrize(
    ("request_", "errno"),
    [
        (start(0), EINVAL),
        (start(3000), EINVAL),
        (start(PAGE, (1, PAGE)), EINVAL),
        (start(PAGE, (0, 0)), EINVAL),
        (start(PAGE, (0, PAGE + 1)), EINVAL),
        (start(PAGE, (0, 2 * PAGE), (PAGE, PAGE)), EINVAL),
        (start(PAGE, ((1 << 64) - PAGE, PAGE)), EOVERFLOW),
        (start(PAGE, ((1 << 64) - PAGE, 2 * PAGE)), EOVERFLOW),
        (start(PAGE, *((2 * page * PAGE, PAGE) for page in range(MOST_RANGES + 1))), E2BIG),
        (DeviceFeature.set(Feature.DMA_LOGGING_START, struct.pack("=QII", PAGE, 2, 0) + bytes(31)), EINVAL),
        (DeviceFeature.set(Feature.DMA_LOGGING_START, struct.pack("=QII", PAGE, (1 << 32) - 1, 0)), E2BIG),
        (report(0, SIZE, PAGE), EINVAL),
    ],
)
def test_a_log_that_cannot_be_started_has_its_errno(wire: Wire, request_: DeviceFeature, errno: int) -> None:
    assert feature(wire, request_) == errno
    assert feature(wire, start(PAGE)) == 0
    assert feature(wire, start(PAGE)) == EINVAL, "it is under way"


@pytest.mark.parametrize(
    ("request_", "errno"),
    [
        (report(0, SIZE, 0), EINVAL),
        (report(0, SIZE, 2048), EINVAL),
        (report(0, SIZE, 3 * PAGE), EINVAL),
        (report((1 << 64) - PAGE, 2 * PAGE, PAGE), EOVERFLOW),
        (report(0, 1 << 63, PAGE, room=1 << 20), EINVAL),
        (report(0, (1 << 64) - 1, 1 << 63, room=0), EINVAL),
        (report(0, SIZE, PAGE, room=24 + 7), EINVAL),
        (report(0, SIZE, PAGE, room=23), EINVAL),
    ],
)
def test_a_report_that_is_refused_clears_nothing(
    wire: Wire, dma: ServedDma, request_: DeviceFeature, errno: int
) -> None:
    feature(wire, start(PAGE))
    dma.write(PAGE, b"x")
    assert feature(wire, request_) == errno
    answer = wire.ask(Command.DEVICE_FEATURE, report(0, SIZE, PAGE).encode())
    assert pages(answer.payload[32:]) == [1]


def test_the_smallest_room_for_a_report_is_enough(wire: Wire) -> None:
    feature(wire, start(PAGE))
    answer = wire.ask(Command.DEVICE_FEATURE, report(0, SIZE, PAGE, room=32).encode())
    assert (answer.errno, len(answer.payload)) == (0, 8 + 24 + 8)


def unmap(page_size: int, bitmap_size: int, argsz: int = 1 << 16, size: int = SIZE) -> bytes:
    return struct.pack("=IIQQQQ", argsz, 1, 0, size, page_size, bitmap_size)


@pytest.mark.parametrize(
    "payload",
    [
        unmap(0, 8),
        unmap(3 * PAGE, 8),
        unmap(2048, 8),
        unmap(PAGE, 0),
        unmap(PAGE, 7),
        unmap(PAGE, 8, argsz=47),
        unmap(PAGE, LARGEST_BITMAP + 1, argsz=1 << 31),
        unmap(PAGE, 8, size=SIZE - PAGE),
        unmap(PAGE, 8)[:-1],
    ],
)
def test_an_unmap_with_a_bad_bitmap_unmaps_and_clears_nothing(wire: Wire, dma: ServedDma, payload: bytes) -> None:
    feature(wire, start(PAGE))
    dma.write(PAGE, b"x")
    assert wire.ask(Command.DMA_UNMAP, payload).errno == EINVAL
    assert len(dma.device.dma) == 1
    answer = wire.ask(Command.DMA_UNMAP, unmap(PAGE, 16))
    assert struct.unpack_from("=IIQQQQ", answer.payload) == (40 + 16, 1, 0, SIZE, PAGE, 16)
    assert pages(answer.payload[40:]) == [1]
    assert len(answer.payload) == 56, "as many bytes as were asked for"
