"""The mdevs that mdevctl has defined are there again whenever their parent is: with mdevctl itself."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from core import core_skip
from daemon.support import eventually
from mdev_user.testing.daemon import RunningDaemon
from tools.running import command, finished, printed

pytestmark = pytest.mark.fuse

FIRST, SECOND = (UUID(f"11111111-1111-4111-8111-11111111111{number}") for number in (1, 2))
NEVER = """
autostart = "never"
[[parent]]
driver = "mtty"
"""


def with_definitions(daemon: RunningDaemon) -> RunningDaemon:
    """A folder of definitions of its own: the machine's are no test's."""
    definitions = daemon.root / "etc/mdevctl.d"
    definitions.mkdir(parents=True)
    for folder in (daemon.run_dir.path, daemon.root):
        folder.chmod(0o711)
    return daemon


@pytest.fixture
def daemon() -> Iterator[RunningDaemon]:
    if shutil.which("mdevctl", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        core_skip("mdevctl is absent: apt install mdevctl")
    with with_definitions(RunningDaemon("mtty")) as daemon:
        yield daemon


def mdevctl(daemon: RunningDaemon, words: str) -> None:
    assert printed(command(daemon, "--", "mdevctl", *words.split())) == ""


def mdevs(daemon: RunningDaemon) -> list[str]:
    return [each.uuid for each in daemon.control.mdevs()]


def test_definitions_are_started_whenever_their_parent_is_registered(daemon: RunningDaemon) -> None:
    mdevctl(daemon, f"define --auto -u {FIRST} -p mtty --type mtty-1")
    mdevctl(daemon, f"define -u {SECOND} -p mtty --type mtty-1")
    assert sorted(each.name for each in (daemon.root / "etc/mdevctl.d/mtty").iterdir()) == [str(FIRST), str(SECOND)]
    assert not Path(f"/etc/mdevctl.d/mtty/{FIRST}").exists(), "that is another folder"

    daemon.control.unregister_parent("mtty")
    assert mdevs(daemon) == []
    daemon.control.register_parent("mtty")
    eventually(lambda: mdevs(daemon) == [str(FIRST)], "registering starts it")

    os.kill(daemon.host_pids()["mtty"], 9)
    eventually(lambda: daemon.log.count("autostart of mtty: done") == 2, "so does a host's restart")
    assert mdevs(daemon) == [str(FIRST)]

    daemon.stop()
    daemon.start()
    eventually(lambda: mdevs(daemon) == [str(FIRST)], "so does the daemon's")


def test_who_wants_none_has_none(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(NEVER)
    with with_definitions(RunningDaemon(config=config)) as daemon:
        finished(command(daemon, "--", "mdevctl", *f"define --auto -u {FIRST} -p mtty --type mtty-1".split()))
        daemon.stop()
        daemon.start()
        daemon.stop()
        assert "autostart" not in daemon.log
