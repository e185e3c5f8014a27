"""What is in an mdev, and its trace, over the control socket: answers, refusals, and clients that go."""

import http.client
import socket
import time
from contextlib import closing
from uuid import UUID

import pytest

from mdev_user.daemon.client import Client, NoDaemon, Refused
from mdev_user.daemon.run_dir import RunDir
from unit.daemon.fake_operations import LINES, MISSING, USED, VALUES, FakeOperations, served

UNKNOWN = UUID("99999999-9999-4999-8999-999999999999")
SECONDS = 20.0


def test_values_and_what_is_missing_survive_the_socket(run_dir: RunDir) -> None:
    client = Client(run_dir)
    view = client.values(USED)
    assert (view.uuid, view.opened, view.values) == (str(USED), True, VALUES)
    assert client.unmodelled(USED) == MISSING


def test_an_unknown_mdev_is_refused(run_dir: RunDir) -> None:
    client = Client(run_dir)
    for ask in (client.values, client.unmodelled):
        with pytest.raises(Refused, match=r"no mdev 99999999.*\(ENODEV\)"):
            ask(UNKNOWN)
    with pytest.raises(Refused, match=r"no mdev 99999999.*\(ENODEV\)"), client.trace(UNKNOWN):
        pass


@pytest.mark.parametrize("path", ["values", "unmodelled", "trace"])
def test_a_wrong_request_is_refused(run_dir: RunDir, path: str) -> None:
    with closing(http.client.HTTPConnection("localhost", timeout=SECONDS)) as connection:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(run_dir.control))
        for request, status in ((f"{USED}/{path}?x=1", 400), (f"nonsense/{path}", 400)):
            connection.request("GET", f"/v1/mdevs/{request}")
            response = connection.getresponse()
            assert (response.status, b"expected" in response.read()) == (status, True)


def test_a_trace_is_lines_until_the_reader_goes(run_dir: RunDir, operations: FakeOperations) -> None:
    with Client(run_dir).trace(USED) as lines:
        assert [next(lines), next(lines)] == LINES
        [trace] = operations.traces
        assert not trace.closed.is_set()
    assert trace.closed.wait(SECONDS)


def test_a_trace_of_what_goes_ends_with_the_reason(run_dir: RunDir, operations: FakeOperations) -> None:
    with Client(run_dir).trace(USED) as lines:
        next(lines), next(lines)
        operations.traces[0].gone.set()
        with pytest.raises(Refused, match="the trace has ended: the mdev is gone"):
            next(lines)
    assert operations.traces[0].closed.wait(SECONDS)


def test_a_reader_that_dies_while_nothing_happens_is_noticed(run_dir: RunDir, operations: FakeOperations) -> None:
    with socket.socket(socket.AF_UNIX) as reader:
        reader.connect(str(run_dir.control))
        reader.sendall(f"GET /v1/mdevs/{USED}/trace HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert reader.recv(10) == b"HTTP/1.1 2"
    assert operations.traces[0].closed.wait(SECONDS)


def test_a_daemon_that_ends_ends_a_trace() -> None:
    operations = FakeOperations()
    with served(operations) as run_dir:
        tracing = Client(run_dir).trace(USED)
        lines = tracing.__enter__()
        next(lines), next(lines)
        began = time.monotonic()
    assert time.monotonic() - began < SECONDS / 2  # it does not wait for its readers
    with pytest.raises(NoDaemon, match="hung up"):
        next(lines)
    tracing.__exit__(None, None, None)


def test_waiting_traces_delay_no_other_request(run_dir: RunDir, operations: FakeOperations) -> None:
    client = Client(run_dir)
    readers = [client.trace(USED) for _ in range(20)]  # more than there are threads for reads
    try:
        for each in readers:
            each.__enter__()
        began = time.monotonic()
        assert client.mdevs()
        assert time.monotonic() - began < SECONDS / 4
    finally:
        for each in readers:
            each.__exit__(None, None, None)


def test_without_a_daemon_a_trace_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(NoDaemon, match="no daemon at"), Client(RunDir("/tmp/nowhere-at-all")).trace(USED):
        pass
