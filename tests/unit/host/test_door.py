"""Who may come in, by real user numbers, and what those cost who may not, or not now."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from core import core_skip
from mdev_user.drivers.mtty import Mtty
from mdev_user.host import door
from mdev_user.host.door import Door, Peer, peer_of
from mdev_user.mdev.device import Mdev
from mdev_user.testing.local import LocalHost
from mdev_user.vfio_user.client import Client
from unit.host.parts import SECONDS, eventually

STRANGER, OWNER = 65533, 65532

CONNECT = """
import errno, os, socket, sys
path, user = sys.argv[1], int(sys.argv[2])
hello = bytes.fromhex(sys.argv[3])
os.setgroups([])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
with socket.socket(socket.AF_UNIX) as client:
    client.settimeout(20)
    client.connect(path)
    client.sendall(hello)
    print(errno.errorcode.get(int.from_bytes(client.recv(100)[12:16], sys.byteorder), "served"))
"""


@pytest.fixture
def host() -> Iterator[LocalHost]:
    with LocalHost() as host:
        yield host


@pytest.fixture
def mdev(host: LocalHost) -> Mdev:
    return host.create(host.bus.register_parent("mtty", Mtty()), "mtty-1")


@pytest.fixture
def open_to_all(host: LocalHost, mdev: Mdev) -> Path:
    """The mdev's socket, whose permissions somebody loosened."""
    if os.getuid() != 0:
        core_skip("other users' connections take root")
    path = host.socket(mdev)
    for each in (path, path.parent, path.parent.parent):
        each.chmod(0o777)
    return path


def hello() -> str:
    """VERSION of a client, in hex."""
    payload = b"\0\0\0\0{}\0"
    return ((1).to_bytes(2, "little") * 2 + (16 + len(payload)).to_bytes(4, "little") + bytes(8) + payload).hex()


def come(path: Path, user: int) -> str:
    """What becomes of a program of this user that connects."""
    command = [sys.executable, "-c", CONNECT, str(path), str(user), hello()]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True).stdout.strip()


def test_a_stranger_is_refused_whatever_the_sockets_permissions_say(
    host: LocalHost, mdev: Mdev, open_to_all: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert come(open_to_all, STRANGER) == "EPERM"
    assert f"it runs as user {STRANGER}; the mdev is user 0's" in caplog.text
    assert host.endpoint(mdev).device.counters.opens == 0
    assert come(open_to_all, 0) == "served"


def test_the_owner_of_the_mdevs_folder_may_come_as_long_as_it_is_the_owner(open_to_all: Path) -> None:
    os.chown(open_to_all.parent, OWNER, OWNER)
    assert [come(open_to_all, user) for user in (OWNER, 0, STRANGER)] == ["served", "served", "EPERM"]
    os.chown(open_to_all.parent, STRANGER, STRANGER)
    assert [come(open_to_all, user) for user in (OWNER, STRANGER)] == ["EPERM", "served"]


def test_the_owner_of_an_earlier_mdev_of_this_uuid_may_not_come(host: LocalHost, mdev: Mdev, open_to_all: Path) -> None:
    """Nor put a socket of its own in this one's place, though a file that it left kept its folder."""
    folder = open_to_all.parent
    os.chown(folder, OWNER, OWNER)
    (folder / "left").touch()
    host.bus.remove(mdev.uuid)
    host.create(mdev.parent, "mtty-1", mdev.uuid)
    assert (folder.stat().st_uid, folder.stat().st_mode & 0o777) == (0, 0o700)
    for each in (folder, open_to_all):
        each.chmod(0o777)
    assert come(open_to_all, OWNER) == "EPERM"


def test_without_the_look_at_the_user_the_stranger_would_be_served(
    open_to_all: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the tests above."""
    monkeypatch.setattr(Door, "_check", lambda _door, _peer: None)
    assert come(open_to_all, STRANGER) == "served"


def test_a_stranger_at_a_socket_that_somebody_else_made_is_refused(host: LocalHost) -> None:
    if os.getuid() != 0:
        core_skip("other users' connections take root")
    with tempfile.TemporaryDirectory(dir="/tmp") as name, socket.socket(socket.AF_UNIX) as listener:
        Path(name).chmod(0o755)
        path = Path(name, "lent")
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen()
        listener.setblocking(False)
        mdev = host.bus.register_parent("mtty", Mtty())
        unused = listener.dup()
        made = host.create(mdev, "mtty-1")
        host.endpoints.lend(made.uuid, unused)
        host.bus.remove(made.uuid)  # it had none: what is lent waits for the next one
        again = host.create(mdev, "mtty-1", made.uuid)
        assert come(path, STRANGER) == "EPERM"
        os.chown(host.socket(again).parent, STRANGER, STRANGER)
        assert come(path, STRANGER) == "served"
        host.bus.remove(made.uuid)
        assert unused.fileno() < 0


def test_what_is_lent_and_not_used_is_closed(host: LocalHost, mdev: Mdev) -> None:
    sockets = [socket.socket(socket.AF_UNIX) for _ in range(2)]
    for each in sockets:
        host.endpoints.lend(mdev.uuid, each)
    assert sockets[0].fileno() < 0
    host.endpoints.lent.pop(mdev.uuid).close()


def test_a_name_that_looks_like_a_log_line_is_shown_as_it_is() -> None:
    code = "import sys; open('/proc/self/comm', 'w').write('x\\nroot: hi'); print(); sys.stdout.flush(); input()"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        program = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert program.stdout is not None
        program.stdout.readline()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(door, "credentials_of", lambda _socket: (program.pid, 0))
            assert peer_of(ours) == Peer(program.pid, 0, r"'x\nroot: hi'")
        program.communicate(b"\n", SECONDS)


# --- how much they cost ------------------------------------------------------------------------------------------


def threads_of(mdev: Mdev) -> int:
    return sum(str(mdev.uuid) in each.name for each in threading.enumerate())


def knock(path: Path, count: int) -> list[socket.socket]:
    """As many connections at once as the kernel takes."""
    sockets = []
    for _ in range(count):
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            made.connect(str(path))
        except BlockingIOError:
            made.close()
        else:
            sockets.append(made)
    return sockets


def test_all_who_knock_while_it_is_in_use_cost_one_thread(host: LocalHost, mdev: Mdev) -> None:
    most = 0
    with host.client(mdev) as user:
        deadline = time.monotonic() + 0.7
        while time.monotonic() < deadline:
            sockets = knock(host.socket(mdev), 30)
            most = max(most, threads_of(mdev))
            for each in sockets:
                each.close()
            assert user.region_read(0, 5, 1) == b"\x60"
        assert most == 2, "the user's and one"
    eventually(lambda: not threads_of(mdev))


def test_all_who_wait_for_the_last_user_to_be_gone_cost_one_thread(host: LocalHost, mdev: Mdev) -> None:
    first = host.client(mdev)
    with host.endpoint(mdev).lock:  # the last user's close cannot be done yet
        first.close()
        sockets = knock(host.socket(mdev), 40)
        assert len(sockets) <= door.BACKLOG + 2
        time.sleep(0.05)
        assert threads_of(mdev) == 2
    for each in sockets:
        each.close()
    eventually(lambda: not threads_of(mdev))
    assert works(host, mdev)


def works(host: LocalHost, mdev: Mdev) -> bool:
    with Client(host.socket(mdev), timeout=SECONDS) as client:
        return client.region_read(0, 5, 1) == b"\x60"


def test_an_mdev_is_removed_at_once_while_they_knock(host: LocalHost, mdev: Mdev) -> None:
    user = host.client(mdev)
    sockets = knock(host.socket(mdev), 30)
    began = time.monotonic()
    remover = threading.Thread(target=host.bus.remove, args=(mdev.uuid,))
    remover.start()
    user.close()
    remover.join(SECONDS)
    assert not remover.is_alive()
    assert time.monotonic() - began < 2
    for each in sockets:
        each.settimeout(SECONDS)
        with suppress(ConnectionResetError):
            assert each.recv(1) == b""
        each.close()
    eventually(lambda: not threads_of(mdev))


def test_a_host_without_file_descriptors_serves_again_when_it_has_some(
    host: LocalHost, mdev: Mdev, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    accept, failures = socket.socket.accept, [OSError(24, "Too many open files")] * 2

    def fails(listener: socket.socket) -> tuple[socket.socket, object]:
        if failures:
            raise failures.pop()
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", fails)
    assert works(host, mdev)
    assert caplog.text.count("Too many open files") == 2
