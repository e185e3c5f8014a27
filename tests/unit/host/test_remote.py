"""A host process: where its code comes from, and when it is called stuck."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue

import pytest
from typing_extensions import override

from mdev_user.errors import NoDevice
from mdev_user.host import remote
from mdev_user.host.remote import RemoteHost
from mdev_user.host.wire import GetAvailable, Load, ParentDescription
from unit.host.parts import SECONDS, eventually


def test_a_host_runs_nothing_that_lies_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of a daemon that root started may be anybody's."""
    (tmp_path / "mdev_user.py").write_text("raise SystemExit('of the working directory')")
    monkeypatch.chdir(tmp_path)
    host = RemoteHost("any", tmp_path, lambda _host, _reason: None)
    try:
        assert isinstance(host.ask(Load("mtty", "mtty", {})), ParentDescription)
    finally:
        host.stop()


def test_ctrl_c_before_a_host_can_ignore_it_does_not_end_it(tmp_path: Path) -> None:
    """At any moment of its start, of which most is imports."""
    for pause in (0.0, 0.01, 0.05, 0.1, 0.2):
        host = RemoteHost("any", tmp_path, lambda _host, _reason: None)
        try:
            time.sleep(pause)
            os.kill(host.pid, signal.SIGINT)
            assert isinstance(host.call(Load("mtty", "mtty", {})), ParentDescription)
        finally:
            host.stop()


def test_it_would_without_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control. The thread that starts hosts keeps its mask: it is another one."""
    monkeypatch.setattr(remote, "_spawner", ThreadPoolExecutor(1))
    monkeypatch.setattr(signal, "pthread_sigmask", lambda _how, _which: None)
    host = RemoteHost("any", tmp_path, lambda _host, _reason: None)
    try:
        time.sleep(0.05)
        os.kill(host.pid, signal.SIGINT)
        with pytest.raises(NoDevice):
            host.call(Load("mtty", "mtty", {}))
    finally:
        host.stop()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteHost]:
    monkeypatch.setattr(remote, "_PROMPT", SECONDS)
    host = RemoteHost("any", tmp_path, lambda _host, _reason: None)
    host.ask(Load("mtty", "mtty", {}))
    yield host
    host.stop()


ASKED = GetAvailable("mtty", "mtty-1")


def test_a_host_that_does_not_answer_is_stuck_until_it_does(host: RemoteHost, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(remote, "_PROMPT", 0.05)
        os.kill(host.pid, signal.SIGSTOP)
        with pytest.raises(TimeoutError, match="does not answer GetAvailable: its driver is stuck"):
            host.ask(ASKED)
    with pytest.raises(TimeoutError):  # at once
        host.ask(ASKED)
    os.kill(host.pid, signal.SIGCONT)
    eventually(lambda: answers(host))


def answers(host: RemoteHost) -> bool:
    try:
        return bool(host.ask(ASKED))
    except TimeoutError:
        return False


class Late(SimpleQueue[object]):
    """Who waits gives up at the moment at which the answer is there."""

    @override
    def get(self, block: bool = True, timeout: float | None = None) -> object:
        super().get(block, timeout)
        raise Empty


def test_a_host_that_answers_a_moment_late_is_not_stuck_for_ever(
    host: RemoteHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(remote, "SimpleQueue", Late)
        with pytest.raises(TimeoutError):
            host.ask(ASKED)
    assert host.ask(ASKED)


def test_it_would_be_if_nobody_looked_at_what_was_heard_since(
    host: RemoteHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: silence counts from the end of the wait."""
    test_a_host_that_answers_a_moment_late_is_not_stuck_for_ever(host, monkeypatch)
    host._given_up = host._heard
    with pytest.raises(TimeoutError):
        host.ask(ASKED)
