"""A host process: where its code comes from."""

from pathlib import Path

import pytest

from mdev_user.host.remote import RemoteHost
from mdev_user.host.wire import Load, ParentDescription


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
