"""A driver's mistakes: what is an errno to the guest, and what ends its connection with a reason and a traceback."""

import errno
import logging
import os
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from typing_extensions import override

from mdev_user.errors import Busy, DriverError, GuestError
from mdev_user.vfio.ops import DeviceOps
from mdev_user.vfio.requests import DeviceInfo, GetRegionInfo, Irq, RegionFlags, RegionInfo, Reply, Request, Reset
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.framing import Command
from protocol.device import TestDevice
from protocol.served import Served, Wire


class Faulty(TestDevice):
    """Raises whatever a test wants in every operation."""

    raising: BaseException | None = None
    data: object = None

    def _perhaps(self) -> None:
        if self.raising is not None:
            raise self.raising

    @override
    def read(self, region: int, offset: int, count: int) -> bytes:
        self._perhaps()
        wrong: Any = self.data  # a driver without types
        return super().read(region, offset, count) if wrong is None else wrong

    @override
    def write(self, region: int, offset: int, data: bytes) -> None:
        self._perhaps()
        super().write(region, offset, data)

    @override
    def ioctl(self, request: Request) -> Reply:
        self._perhaps()
        return super().ioctl(request)


@pytest.fixture
def device() -> Faulty:
    return Faulty()


@pytest.fixture
def served(device: Faulty) -> Iterator[Served]:
    with Served(device) as served:
        yield served


@pytest.fixture
def client(served: Served) -> Client:
    return Client.over(served.socket)


OPERATIONS: list[Callable[[Client], object]] = [
    lambda client: client.region_read(0, 0, 4),
    lambda client: client.region_write(0, 0, b"abcd"),
    lambda client: client.region_write(0, 0, bytes(100)),
    Client.reset,
    Client.device_info,
]


def attempts(client: Client) -> list[int | None]:
    """The errno of one operation of each kind."""
    found = []
    for operation in OPERATIONS:
        with pytest.raises(OSError, match="refused") as error:
            operation(client)
        found.append(error.value.errno)
    return found


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (GuestError("bad"), errno.EINVAL),
        (Busy("in use"), errno.EBUSY),
        (DriverError("wrong"), errno.EINVAL),
        (OSError(errno.ENXIO, "no such device"), errno.ENXIO),
        (OSError("without a number"), errno.EIO),
        (BrokenPipeError(errno.EPIPE, "a file of the driver's, not our socket"), errno.EPIPE),
    ],
)
def test_an_expected_error_is_an_errno_and_counted(
    client: Client, served: Served, device: Faulty, error: Exception, number: int
) -> None:
    device.raising = error
    assert attempts(client) == [number] * 5
    assert served.device.counters.guest_errors == 5
    assert served.device.counters.last_guest_error == str(error)
    device.raising = None
    assert client.region_read(7, 0, 1) == b"\0"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_bug_ends_the_connection_with_its_reason_and_traceback(
    client: Client,
    served: Served,
    device: Faulty,
    operation: Callable[[Client], object],
    caplog: pytest.LogCaptureFixture,
) -> None:
    device.raising = ZeroDivisionError("author's mistake")
    with caplog.at_level(logging.ERROR), pytest.raises(ConnectionError):
        operation(client)
    assert served.ended() == "the driver failed: ZeroDivisionError: author's mistake"
    assert "in _perhaps" in caplog.text
    assert not served.device.opened


@pytest.mark.parametrize("data", [b"", b"123", b"12345", b"12345678"])
def test_a_read_of_another_length_is_a_bug(client: Client, served: Served, device: Faulty, data: bytes) -> None:
    device.data = data
    with pytest.raises(ConnectionError):
        client.region_read(0, 0x10, 4)
    expected = f"read of region 0 +0x10: expected 4 bytes, the driver gave {len(data)}"
    assert served.ended() == f"the driver failed: ValueError: {expected}"


@pytest.mark.parametrize("data", [7, "abcd", [1, 2, 3, 4]])
def test_a_read_of_another_type_is_a_bug(client: Client, served: Served, device: Faulty, data: object) -> None:
    device.data = data
    with pytest.raises(ConnectionError):
        client.region_read(0, 0, 4)
    assert served.ended().startswith("the driver failed: ")


@pytest.mark.parametrize("data", [bytearray(b"abcd"), memoryview(b"abcd")])
def test_a_read_may_give_any_bytes(client: Client, device: Faulty, data: object) -> None:
    device.data = data
    assert client.region_read(0, 0, 4) == b"abcd"


def test_a_driver_without_operations_answers_einval() -> None:
    with Served(DeviceOps()) as served:
        client = Client.over(served.socket)
        assert attempts(client) == [errno.EINVAL] * 5
        client.dma_map(0, 4096)


class Absurd(TestDevice):
    """Says of itself what no message can carry."""

    @override
    def ioctl(self, request: Request) -> Reply:
        if isinstance(request, GetRegionInfo):
            return RegionInfo(request.index, RegionFlags.READ, 1 << 70)
        if isinstance(request, Reset):
            raise RecursionError("too deep")
        return None


@pytest.mark.parametrize("command", [Command.DEVICE_GET_REGION_INFO, Command.DEVICE_RESET])
def test_absurd_answers_are_bugs(command: int) -> None:
    with Served(Absurd()) as served:
        wire = Wire(served.socket)
        wire.hello()
        payload = struct.pack("=IIIIQQ", 32, 0, 0, 0, 0, 0) if command != Command.DEVICE_RESET else b""
        with pytest.raises((EOFError, ConnectionError)):
            wire.ask(command, payload)
        assert served.ended().startswith("the driver failed: ")


def test_an_answer_of_the_wrong_kind_is_einval() -> None:
    with Served(Absurd()) as served:
        client = Client.over(served.socket)
        with pytest.raises(OSError, match="DEVICE_GET_INFO") as refused:
            client.device_info()
        assert refused.value.errno == errno.EINVAL
        assert f"expected {DeviceInfo.__name__}" in served.device.counters.last_guest_error


def test_a_bug_reported_by_a_job_ends_the_connection(client: Client, served: Served) -> None:
    served.session.fail(ZeroDivisionError("author's mistake"), "job compute")
    assert served.ended() == "the driver failed: ZeroDivisionError: author's mistake (in job compute)"


def test_a_bug_of_ours_ends_the_session_and_is_logged(
    client: Client, served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(_event: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(served.session._conversation, "_reply_to", wrong)
    with pytest.raises(ConnectionError):
        client.reset()
    assert served.ended() == "internal error: KeyError('ours')"
    assert "only its mdev's connection ends" in caplog.text


def test_the_process_has_the_same_fds_after_a_failure(client: Client, served: Served, device: Faulty) -> None:
    device.raising = ZeroDivisionError("author's mistake")
    fd = os.eventfd(0)
    with pytest.raises(ConnectionError):
        client.arm(Irq.INTX, [fd])
    os.close(fd)
    assert served.ended().startswith("the driver failed")
