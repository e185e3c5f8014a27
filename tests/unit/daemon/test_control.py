"""The control API over its real socket: answers, refusals, hostile requests, and who waits for whom."""

import http.client
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from anyio import to_thread
from typing_extensions import override

from mdev_user.daemon import control
from mdev_user.daemon.client import Client, Refused
from mdev_user.daemon.control import ControlServer, listening_socket
from mdev_user.daemon.run_dir import RunDir
from mdev_user.errors import MdevUserError
from mdev_user.host.purpose import Purpose
from unit.daemon.fake_operations import USED, FakeOperations, served

UNKNOWN = UUID("99999999-9999-4999-8999-999999999999")


def ask(run_dir: RunDir, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("localhost", timeout=20)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(20)
    connection.sock.connect(str(run_dir.control))
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_reads_answer_the_views(run_dir: RunDir, operations: FakeOperations) -> None:
    client = Client(run_dir)
    assert client.status() == operations.status()
    assert client.types() == operations.types()
    assert client.mdevs() == operations.mdevs()
    assert client.mdev(USED) == operations.mdev(USED)
    assert ask(run_dir, "GET", "/v1/parents")[1][0]["name"] == "mtty"


def test_a_created_mdev_is_listed_until_it_is_removed(run_dir: RunDir) -> None:
    uuid = uuid4()
    status, view = ask(run_dir, "POST", "/v1/mdevs", json.dumps({"type": "mtty-1", "uuid": str(uuid)}).encode())
    assert (status, view["uuid"]) == (201, str(uuid))
    assert str(uuid) in {each["uuid"] for each in ask(run_dir, "GET", "/v1/mdevs")[1]}
    assert ask(run_dir, "DELETE", f"/v1/mdevs/{uuid}") == (200, None)
    assert str(uuid) not in {each["uuid"] for each in ask(run_dir, "GET", "/v1/mdevs")[1]}


def test_parents_come_and_go(run_dir: RunDir, operations: FakeOperations) -> None:
    client = Client(run_dir)
    client.register_parent("/a b/ä:x.py:Card")
    assert "/a b/ä:x.py:Card" in operations.registered
    client.register_parent("4d44:00:01.0")
    client.unregister_parent("4d44:00:01.0")
    assert "4d44:00:01.0" not in operations.registered


def test_a_move_is_begun_and_an_mdev_handed_over(run_dir: RunDir, operations: FakeOperations) -> None:
    client = Client(run_dir)
    assert client.begin_move(USED, Purpose.SAVE).socket == f"{run_dir.path}/save.sock"
    client.hand_over(USED, "/run/other")
    assert operations.moved == [(USED, "/run/other")]
    idle = UUID(client.create("mtty-1", None, None).uuid)
    assert client.begin_move(idle, Purpose.LOAD).socket == f"{run_dir.path}/load.sock"
    with pytest.raises(Refused, match=r"nobody has .* open \(ENODEV\)"):
        client.begin_move(idle, Purpose.SAVE)
    with pytest.raises(Refused, match=r"is not stopped \(EBUSY\)"):
        client.hand_over(idle, "/run/other")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("migration", b'{"purpose": "steal"}'),
        ("migration", b"{}"),
        ("migration?purpose=save", b'{"purpose": "save"}'),
        ("moved", b'{"place": 7}'),
        ("moved", b'{"place": "' + b"x" * 5000 + b'"}'),
    ],
)
def test_a_bad_move_is_refused(run_dir: RunDir, path: str, body: bytes) -> None:
    status, answer = ask(run_dir, "POST", f"/v1/mdevs/{USED}/{path}", body)
    assert (status, answer["errno"]) == (400, "EINVAL")


def test_remove_passes_wait_and_force(run_dir: RunDir, operations: FakeOperations) -> None:
    assert ask(run_dir, "DELETE", f"/v1/mdevs/{USED}?wait=2.5&force=true") == (200, None)
    assert operations.removes == [(USED, 2.5, True)]


REFUSALS: list[tuple[str, str, bytes | None, int, str, str]] = [
    ("GET", f"/v1/mdevs/{UNKNOWN}", None, 404, "ENODEV", f"no mdev {UNKNOWN}"),
    ("DELETE", f"/v1/mdevs/{USED}", None, 409, "EBUSY", f"mdev {USED} is in use by qemu (pid 42)"),
    ("POST", "/v1/mdevs", b'{"type":"mtty-1","uuid":"%s"}' % str(USED).encode(), 409, "EEXIST", f"mdev {USED} exists"),
    ("POST", "/v1/mdevs", b'{"type":"mtty-9"}', 400, "EINVAL", "no type mtty-9; there is mtty-1"),
    ("GET", "/v1/mdevs/1234", None, 400, "EINVAL", "expected a UUID (8-4-4-4-12 hexadecimal digits), given '1234'"),
    ("GET", "/v2", None, 404, "ENOENT", "GET /v2: no such request of the control API"),
    ("GET", "/", None, 404, "ENOENT", "GET /: no such request of the control API"),
    ("PUT", "/v1/mdevs", b"{}", 405, "ENOTSUP", "PUT /v1/mdevs: no such request of the control API"),
    ("GET", "/v1/mdevs?all=1", None, 400, "EINVAL", "expected nothing after the ?, each once, given 'all'"),
    (
        "DELETE",
        f"/v1/mdevs/{USED}?wiat=1",
        None,
        400,
        "EINVAL",
        "expected wait and force after the ?, each once, given 'wiat'",
    ),
    (
        "DELETE",
        f"/v1/mdevs/{USED}?wait=1&wait=2",
        None,
        400,
        "EINVAL",
        "expected wait and force after the ?, each once, given 'wait'",
    ),
    *(
        (
            "DELETE",
            f"/v1/mdevs/{USED}?wait={value}",
            None,
            400,
            "EINVAL",
            f"expected wait to be a number of seconds from 0 to 86400, given {value!r}",
        )
        for value in ("-1", "nan", "inf", "86401", "soon")
    ),
    (
        "DELETE",
        f"/v1/mdevs/{USED}?force=yes",
        None,
        400,
        "EINVAL",
        "expected force to be true or false, given 'yes'",
    ),
    ("POST", "/v1/mdevs", b"", 400, "EINVAL", "the body is no CreateRequest in JSON: Input data was truncated"),
    (
        "POST",
        "/v1/mdevs",
        b'{"type":"mtty-1","uid":"x"}',
        400,
        "EINVAL",
        "the body is no CreateRequest in JSON: Object contains unknown field `uid`",
    ),
    (
        "POST",
        "/v1/mdevs",
        b'{"uuid":null}',
        400,
        "EINVAL",
        "the body is no CreateRequest in JSON: Object missing required field `type`",
    ),
    (
        "POST",
        "/v1/mdevs",
        b'{"type":"mtty-1","uuid":"xyz"}',
        400,
        "EINVAL",
        "the body is no CreateRequest in JSON: Invalid UUID - at `$.uuid`",
    ),
    (
        "POST",
        "/v1/parents",
        b'{"specification":["mtty"]}',
        400,
        "EINVAL",
        "the body is no RegisterRequest in JSON: Expected `str`, got `array` - at `$.specification`",
    ),
]


@pytest.mark.parametrize(("method", "path", "body", "answer"), [(*each[:3], each[3:]) for each in REFUSALS])
def test_a_refusal_says_why(
    run_dir: RunDir, method: str, path: str, body: bytes | None, answer: tuple[int, str, str]
) -> None:
    status, number, text = answer
    assert ask(run_dir, method, path, body) == (status, {"error": text, "errno": number})


HOSTILE_BODIES = {
    "not JSON": b"\x00\xff{",
    "not UTF-8": b'{"type":"\xff"}',
    "deep": b"[" * 60000,
    "deep in a field": b'{"type":' + b"[" * 60000,
    "a number": b"1e999",
    "doubled": b"{}{}",
}


@pytest.mark.parametrize("body", HOSTILE_BODIES.values(), ids=HOSTILE_BODIES.keys())
def test_a_hostile_body_is_refused_and_the_next_request_served(run_dir: RunDir, body: bytes) -> None:
    status, answer = ask(run_dir, "POST", "/v1/mdevs", body)
    assert (status, answer["errno"]) == (400, "EINVAL")
    assert ask(run_dir, "GET", "/v1/types")[0] == 200


def test_a_body_is_bounded(run_dir: RunDir) -> None:
    status, answer = ask(run_dir, "POST", "/v1/mdevs", b" " * (control.MOST_BODY + 1))
    assert (status, answer["errno"]) == (413, "EMSGSIZE")
    assert ask(run_dir, "POST", "/v1/mdevs", b'{"type":"mtty-1"}'.ljust(control.MOST_BODY))[0] == 201


def send_chunks(client: socket.socket, count: int) -> None:
    for _ in range(count):
        client.sendall(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")


def test_an_endless_body_is_cut_off(run_dir: RunDir) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(run_dir.control))
        client.sendall(b"POST /v1/mdevs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            send_chunks(client, 10_000)  # 160 MB, of which the daemon takes no more than the first few
    assert ask(run_dir, "GET", "/v1/types")[0] == 200


@pytest.mark.parametrize("data", [b"\x00" * 100, b"GET / HTTP/9.9\r\n\r\n", b"A" * 100_000, b""])
def test_what_is_not_http_ends_only_its_own_connection(run_dir: RunDir, data: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(run_dir.control))
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        while True:
            try:
                if not client.recv(65536):
                    break
            except ConnectionResetError:
                break
    assert ask(run_dir, "GET", "/v1/types")[0] == 200


def test_an_error_of_our_own_is_told_as_one(run_dir: RunDir, operations: FakeOperations) -> None:
    operations.fault = ZeroDivisionError("division by zero")
    status, answer = ask(run_dir, "GET", "/v1/types")
    assert (status, answer["errno"]) == (500, "EIO")
    assert answer["error"] == "an error of the daemon's own, see its log: ZeroDivisionError: division by zero"


@pytest.mark.parametrize(("number", "status"), [(28, 507), (13, 403), (5, 500)])
def test_an_oserror_keeps_its_errno(run_dir: RunDir, operations: FakeOperations, number: int, status: int) -> None:
    operations.fault = OSError(number, "text")
    answered, answer = ask(run_dir, "GET", "/v1/types")
    assert (answered, answer["error"]) == (status, "text")  # without "[Errno 28]": the answer has the name beside it


def wait_in_removes(operations: FakeOperations, run_dir: RunDir, count: int, enough: int) -> list[threading.Thread]:
    """``count`` clients that each wait for the mdev's user; returns when ``enough`` of their removes run."""

    def remove() -> None:
        with suppress(MdevUserError):
            Client(run_dir).remove(USED, wait=60, force=False)

    threads = [threading.Thread(target=remove, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for _ in range(enough):
        assert operations.waiting.acquire(timeout=30)
    return threads


def seconds_to_list(run_dir: RunDir, limit: float) -> float:
    """How long a list takes; ``limit`` when it takes longer."""
    done = threading.Event()

    def list_mdevs() -> None:
        Client(run_dir).mdevs()
        done.set()

    thread = threading.Thread(target=list_mdevs, daemon=True)
    began = time.monotonic()
    thread.start()
    return time.monotonic() - began if done.wait(limit) else limit


def test_100_waiting_removes_delay_no_list(run_dir: RunDir, operations: FakeOperations) -> None:
    threads = wait_in_removes(operations, run_dir, 100, 100)
    assert seconds_to_list(run_dir, 5) < 5
    operations.let_go.set()
    for thread in threads:
        thread.join(20)


def test_more_waiting_removes_than_threads_delay_no_list(
    operations: FakeOperations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "MOST_CHANGES", 5)
    with served(operations) as run_dir:
        threads = wait_in_removes(operations, run_dir, 20, 5)
        assert seconds_to_list(run_dir, 5) < 5
        operations.let_go.set()
        for thread in threads:
            thread.join(20)


def test_without_threads_of_their_own_reads_wait_for_removes(
    operations: FakeOperations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: all requests share 40 threads, as is the library's default."""
    run_sync = to_thread.run_sync

    async def shared(call: Callable[[], object], limiter: object, abandon_on_cancel: bool) -> object:
        return await run_sync(call, abandon_on_cancel=abandon_on_cancel)

    monkeypatch.setattr(to_thread, "run_sync", shared)
    with served(operations) as run_dir:
        threads = wait_in_removes(operations, run_dir, 100, 40)
        assert seconds_to_list(run_dir, 1) == 1
        operations.let_go.set()
        for thread in threads:
            thread.join(20)


def test_the_socket_is_the_owners_from_its_first_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    bind = socket.socket.bind

    class Watching(socket.socket):
        @override
        def bind(self, address: Any) -> None:
            bind(self, address)
            modes.append(stat.S_IMODE(Path(address).stat().st_mode))

    monkeypatch.setattr(socket, "socket", Watching)
    monkeypatch.chdir(tmp_path)
    old = os.umask(0)
    try:
        listening_socket(Path("s")).close()
    finally:
        os.umask(old)
    assert modes == [0o600]


def test_a_dead_daemons_socket_is_replaced(
    operations: FakeOperations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind("s")
    listening_socket(Path("s")).close()


def test_a_file_in_the_sockets_place_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s").write_text("mine")
    with pytest.raises(OSError, match="in use"):
        listening_socket(Path("s"))
    assert Path("s").read_text() == "mine"


def test_stop_ends_the_thread_and_the_socket_although_a_remove_waits(operations: FakeOperations) -> None:
    with served(operations) as run_dir:
        server = ControlServer(operations, run_dir.path / "second.sock")
        server.start()
        second = RunDir(run_dir.path)
        second.control = run_dir.path / "second.sock"
        threads = wait_in_removes(operations, second, 1, 1)
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 10
        assert not second.control.exists()
        threads[0].join(10)
        assert not threads[0].is_alive()  # its client was hung up on


def test_stop_without_start_is_nothing(operations: FakeOperations, tmp_path: Path) -> None:
    ControlServer(operations, tmp_path / "s").stop()
