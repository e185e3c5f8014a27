"""Sockets that somebody else made: by name from the command line and from systemd, and what is none of them."""

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from mdev_user.daemon.listening import Lent, take_sockets
from mdev_user.errors import ConfigError

UUID_TEXT = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def listener(folder: Path) -> Iterator[int]:
    """A file descriptor that is the test's own, inherited by programs, as one is that was passed."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(folder / "s"))
        made.listen()
        made.set_inheritable(True)
        yield made.fileno()


def let_go(lent: Lent) -> None:
    """They are the fixture's."""
    for each in (lent.control, *lent.mdevs.values()):
        if each is not None:
            each.detach()


def environment(listener: int, names: str, pid: int | None = None) -> dict[str, str]:
    """As systemd makes it; its file descriptors begin at 3, which is somebody else's here."""
    return {"LISTEN_PID": str(pid or os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": names, "OTHER": "stays"}


@pytest.fixture
def at_first(listener: int, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("mdev_user.daemon.listening._FIRST", listener)
    return listener


def test_a_socket_by_a_uuid_and_one_for_control(listener: int, folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(folder / "c"))
        other.listen()
        lent = take_sockets([f"{UUID_TEXT}={listener}", f"control={other.fileno()}"], {})
        assert {uuid: each.fileno() for uuid, each in lent.mdevs.items()} == {UUID(UUID_TEXT): listener}
        assert lent.control is not None
        assert lent.control.fileno() == other.fileno()
        let_go(lent)


def test_it_is_closed_in_programs_and_does_not_block(listener: int) -> None:
    let_go(take_sockets([f"{UUID_TEXT}={listener}"], {}))
    assert not os.get_inheritable(listener)
    assert not os.get_blocking(listener)


def test_systemds_sockets_are_taken_by_their_names(at_first: int) -> None:
    given = environment(at_first, UUID_TEXT.upper())
    lent = take_sockets([], given)
    assert list(lent.mdevs) == [UUID(UUID_TEXT)]
    assert given == {"OTHER": "stays"}, "a program that we start would take them for its own"
    let_go(lent)


def test_sockets_for_another_process_are_not_ours(at_first: int) -> None:
    given = environment(at_first, "control", pid=1)
    assert take_sockets([], given) == Lent()
    assert len(given) == 4


@pytest.mark.parametrize("names", ["", "unknown", "mdev-user.socket", "83b8f4f2"])
def test_a_socket_unit_without_a_name_of_ours_is_told_how(at_first: int, names: str) -> None:
    with pytest.raises(ConfigError, match="FileDescriptorName="):
        take_sockets([], environment(at_first, names))


def test_a_count_that_is_none_is_refused(at_first: int) -> None:
    with pytest.raises(ConfigError, match="LISTEN_FDS"):
        take_sockets([], environment(at_first, "control") | {"LISTEN_FDS": "-1"})


@pytest.mark.parametrize("text", ["", "control", "control=", "=3", "control=x", "control=2", "control=-1", "control=٣",
     "control=" + "0" * 20 + "3", "control=0000001" + "0" * 5000])  # fmt: skip
def test_what_is_no_name_and_number_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected NAME=N"):
        take_sockets([text], {})


@pytest.mark.parametrize("name", ["controls", "1", f"{UUID_TEXT}x", UUID_TEXT.replace("-", "")])
def test_a_name_that_is_neither_is_refused(listener: int, name: str) -> None:
    with pytest.raises(ConfigError, match="expected control or an mdev's UUID"):
        take_sockets([f"{name}={listener}"], {})


@pytest.mark.parametrize("mode", [0o660, 0o602])
def test_a_control_socket_for_everybody_is_refused(folder: Path, mode: int) -> None:
    """As systemd makes it without SocketMode=."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(folder / "c"))
        made.listen()
        (folder / "c").chmod(mode)
        given = [f"control={made.fileno()}"]
        if mode & 0o002:
            with pytest.raises(ConfigError, match="SocketMode=0600"):
                take_sockets(given, {})
        else:
            let_go(take_sockets(given, {}))


def test_a_control_socket_without_a_file_is_refused() -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("")  # Linux gives it an abstract name
        made.listen()
        with pytest.raises(ConfigError, match="anybody may connect"):
            take_sockets([f"control={made.fileno()}"], {})


def test_one_given_twice_is_refused(listener: int, folder: Path) -> None:
    with pytest.raises(ConfigError, match="given twice"):
        take_sockets([f"{UUID_TEXT}={listener}", f"control={listener}"], {})


@pytest.mark.parametrize("kind", ["idle", "datagram", "tcp", "connected", "file", "closed"])
def test_what_is_no_listening_unix_socket_is_refused_with_the_reason(kind: str, folder: Path) -> None:
    pair = socket.socketpair()
    made = {
        "idle": socket.socket(socket.AF_UNIX),
        "datagram": socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
        "tcp": socket.socket(socket.AF_INET),
        "connected": pair[0],
    }
    made["tcp"].listen()
    fd = os.open(folder, os.O_RDONLY)
    numbers = {name: each.fileno() for name, each in made.items()} | {"file": fd, "closed": 999_999}
    with pytest.raises(ConfigError, match="expected a listening"):
        take_sockets([f"control={numbers[kind]}"], {})
    for each in (*made.values(), *pair):
        each.close()
    os.close(fd)


def test_a_socket_where_the_daemon_makes_its_own_is_refused(listener: int, folder: Path) -> None:
    lent = take_sockets([f"{UUID_TEXT}={listener}"], {})
    lent.check_places(folder / "devices")
    with pytest.raises(ConfigError, match="bind it elsewhere"):
        lent.check_places(folder)
    let_go(lent)
