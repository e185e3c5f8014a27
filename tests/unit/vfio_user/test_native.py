"""The native loop's objects: a lock like Python's, a table that only its holder changes; neither can be misused."""

import os
import socket
import threading
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from core import core_skip
from mdev_user.vfio.plain import PlainRead, PlainWrite
from mdev_user.vfio_user.framing import Command, command_message
from mdev_user.vfio_user.loops import why_not_native
from mdev_user.vfio_user.messages import ACCESS

if not why_not_native():
    from mdev_user.vfio_user import _native as native

REQUEST = command_message(1, Command.REGION_READ, ACCESS.pack(0, 0, 8))


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    if absent := why_not_native():
        core_skip(absent)


@pytest.fixture
def lock() -> "native.StepLock":
    return native.StepLock()


@pytest.fixture
def table(lock: "native.StepLock") -> "native.PlainTable":
    return native.PlainTable(lock)


def in_thread(work: Callable[[], object]) -> object:
    results: list[object] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:  # noqa: BLE001 - given to the test
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    return results[0]


# --- the lock ---------------------------------------------------------------------------------------------------


def test_only_its_holder_releases_it(lock: "native.StepLock") -> None:
    with pytest.raises(RuntimeError, match="does not hold"):
        lock.release()
    with lock:
        assert isinstance(in_thread(lock.release), RuntimeError)
        assert lock.locked()


@pytest.mark.parametrize(
    "given", [{"timeout": -2}, {"timeout": 1e300}, {"blocking": False, "timeout": 1}, {"timeout": float("nan")}]
)
def test_a_timeout_that_means_nothing_is_refused(lock: "native.StepLock", given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="timeout"):
        lock.acquire(**given)
    assert not lock.locked()


# --- the table --------------------------------------------------------------------------------------------------


def rows(values: "array[int]", **changed: Any) -> list[PlainRead]:
    row = PlainRead(0, 0, 8, values, 0, 0, (1 << 64) - 1)
    return [row._replace(**changed)]


def test_a_table_is_changed_by_the_holder_of_its_lock_only(lock: "native.StepLock", table: "native.PlainTable") -> None:
    changes: list[Callable[[], None]] = [lambda: table.fill([], []), table.clear]
    for change in changes:
        with pytest.raises(RuntimeError, match="step lock"):
            change()
        with lock:
            assert isinstance(in_thread(change), RuntimeError)
            change()


@pytest.mark.parametrize(
    "changed",
    [
        {"number": 1},
        {"number": -1},
        {"size": 0},
        {"size": 9},
        {"shift": 64},
        {"values": array("I", [1, 2])},
        {"values": bytearray(16)},
        {"values": memoryview(bytes(16)).cast("Q")},
        {"values": memoryview(bytearray(17))[1:].cast("Q")},
        {"values": [1]},
        {"values": None},
        {"offset": "x"},
    ],
)
def test_a_row_that_points_nowhere_is_refused_and_the_table_stays(
    lock: "native.StepLock", table: "native.PlainTable", changed: dict[str, Any]
) -> None:
    good = array("Q", [0x1122])
    with lock:
        table.fill(rows(good), [])
        with pytest.raises((ValueError, TypeError, BufferError)):
            table.fill(rows(array("Q", [5]), **changed), [])
    assert served(table) == (0x1122).to_bytes(8, "little")


def test_what_is_no_row_is_refused(lock: "native.StepLock", table: "native.PlainTable") -> None:
    with lock:
        for given in ([1], [()], [[0] * 7], [rows(array("Q", [1]))[0][:5]], 7, None):
            with pytest.raises((TypeError, ValueError)):
                table.fill(given, [])  # type: ignore[arg-type]  # on purpose
            with pytest.raises((TypeError, ValueError)):
                table.fill([], given)  # type: ignore[arg-type]  # on purpose


def test_values_stay_while_a_table_points_at_them(lock: "native.StepLock", table: "native.PlainTable") -> None:
    values = array("Q", [7])
    with lock:
        table.fill(rows(values), [])
        with pytest.raises(BufferError):
            values.append(1)
        with pytest.raises(BufferError):
            del values[:]
    assert served(table) == (7).to_bytes(8, "little")
    with lock:
        table.clear()
    values.append(1)


def test_many_rows_are_all_found(lock: "native.StepLock", table: "native.PlainTable") -> None:
    values = array("Q", range(5000))
    with lock:
        table.fill([PlainRead(0, 8 * at, 8, values, at, 0, (1 << 64) - 1) for at in range(5000)], [])
    requests = [command_message(1, Command.REGION_READ, ACCESS.pack(8 * at, 0, 8)) for at in range(0, 5000, 97)]
    assert [int.from_bytes(served(table, each), "little") for each in requests] == list(range(0, 5000, 97))


def test_rows_that_change_the_table_while_they_are_read_do_no_harm(
    lock: "native.StepLock", table: "native.PlainTable"
) -> None:
    values = array("Q", [3])

    def sly() -> Iterator[PlainRead]:
        table.fill(rows(array("Q", [4])), [])
        yield from rows(values)
        table.clear()

    with lock:
        table.fill(sly(), [])
    assert served(table) == (3).to_bytes(8, "little")


# --- the loop ---------------------------------------------------------------------------------------------------


def serve(table: "native.PlainTable", sock: socket.socket, read: Callable[..., Any] = bytes) -> Any:
    """Nothing but reads is performed."""
    perform: Any = read
    there = sock.fileno(), bytearray(4096), table
    return native.serve(*there, perform, perform, perform, bytearray(1), 0, -1, -1, perform)


def served(table: "native.PlainTable", request: bytes = REQUEST) -> bytes:
    """The value that the loop answers with."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(10)
        thread = threading.Thread(target=serve, args=(table, theirs))
        thread.start()
        ours.send(request)
        reply = ours.recv(100)
        ours.shutdown(socket.SHUT_WR)
        thread.join(10)
    return reply[32:]


@pytest.mark.parametrize(
    "given",
    [
        {"buffer": bytearray(39)},
        {"buffer": b"x" * 4096},
        {"stuck": bytearray()},
        {"table": None},
        {"fd": "3"},
    ],
)
def test_what_cannot_be_served_is_refused(table: "native.PlainTable", given: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"fd": 0, "buffer": bytearray(4096), "table": table, "stuck": bytearray(1)} | given
    fd, buffer, other, stuck = (arguments[name] for name in ("fd", "buffer", "table", "stuck"))
    perform: Any = bytes
    with pytest.raises((TypeError, ValueError, BufferError)):
        native.serve(fd, buffer, other, perform, perform, perform, stuck, 0, -1, -1, perform)


def test_a_thread_that_holds_the_lock_cannot_serve(lock: "native.StepLock", table: "native.PlainTable") -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, lock, pytest.raises(RuntimeError, match="already"):
        serve(table, theirs)


@pytest.mark.parametrize("answer", [None, 5, "text", bytearray(40)])
def test_a_reply_that_is_no_bytes_ends_the_loop_and_the_step(
    lock: "native.StepLock", table: "native.PlainTable", answer: object
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.send(REQUEST)
        with pytest.raises(TypeError, match="bytes"):
            serve(table, theirs, lambda *_: answer)
    assert not lock.locked()


def test_a_step_that_lets_go_of_its_lock_ends_the_loop(lock: "native.StepLock", table: "native.PlainTable") -> None:
    ours, theirs = socket.socketpair()

    def sly(*_: object) -> bytes:
        lock.release()
        return b"reply"

    with ours, theirs:
        ours.send(REQUEST)
        with pytest.raises(RuntimeError, match="within a step"):
            serve(table, theirs, sly)
    assert not lock.locked()


def test_what_is_no_access_is_given_back_with_its_fds(table: "native.PlainTable") -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.send_fds(ours, [REQUEST], [0, 1])
        size, ancillary, _flags = serve(table, theirs)
        assert size == len(REQUEST)
        ((level, kind, data),) = ancillary
        assert (level, kind, len(data)) == (socket.SOL_SOCKET, socket.SCM_RIGHTS, 8)
        for fd in array("i", data):
            assert not os.get_inheritable(fd)
            os.close(fd)
        ours.send(b"x" * 40)
        assert serve(table, theirs) == (40, [], socket.MSG_CMSG_CLOEXEC)
        ours.close()
        assert serve(table, theirs) == (0, [], socket.MSG_CMSG_CLOEXEC)


def test_writes_combine_as_their_row_says(lock: "native.StepLock", table: "native.PlainTable") -> None:
    values = array("Q", [0xFF00])
    write = PlainWrite(0, 0, 8, values, 0, 0, ~0xFF0F, 0x000F, 0x00F0, 0x8000)
    with lock:
        table.fill([], [write])
    served(table, command_message(1, Command.REGION_WRITE, ACCESS.pack(0, 0, 8) + (0x80FA).to_bytes(8, "little")))
    assert values[0] == (((0xFF00 & ~0xFF0F) | 0x000A) & ~(0x80FA & 0xF0)) | 0x8000
    assert table.writes == 1
