"""sd_notify: heard where a supervisor listens, silent elsewhere."""

import socket
from pathlib import Path

import pytest

from mdev_user.daemon.notify import notify


@pytest.mark.parametrize("name", ["socket", "@"])
def test_a_supervisor_hears_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    address = f"@mdev-user-test-{id(tmp_path)}" if name == "@" else str(tmp_path / name)
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.settimeout(10)
        supervisor.bind("\0" + address[1:] if name == "@" else address)
        assert notify("READY=1")
        assert supervisor.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", [None, "", "relative", "/nobody/listens"])
def test_without_a_listener_nothing_happens(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not notify("READY=1")
