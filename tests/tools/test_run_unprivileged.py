"""An ordinary user with no privileges but /dev/fuse: a daemon, `mdev-user run`, and all that mdevctl does in it."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core import core_skip
from mdev_user.testing.daemon import RunningDaemon
from tools.ordinary import NOT_HERE
from tools.running import SECONDS, command, finished
from tools.test_run_program import CREATE, LISTEN, TOLD

pytestmark = [pytest.mark.fuse, pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")]

NOBODY = 65534
UUID = "11111111-1111-4111-8111-111111111111"
TESTS = Path(__file__).parents[1]


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    os.chown(folder, NOBODY, NOBODY)
    yield folder
    shutil.rmtree(folder)


def as_nobody(home: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    """A program of that user's; this one's Python and the package can be reached, and little else."""
    become = [str(Path(__file__).with_name("ordinary.py")), str(NOBODY), str(TESTS.parent), sys.prefix, sys.base_prefix]
    own = {"HOME": str(home), "XDG_RUNTIME_DIR": str(home), "PYTHONPATH": str(TESTS), "PYTHONDONTWRITEBYTECODE": "1"}
    done = finished(
        [sys.executable, *become, "--", *words],
        environment={**os.environ, **own},
        seconds=4 * SECONDS,  # a dozen programs, one after another
    )
    if done.returncode == NOT_HERE:
        pytest.skip(f"this container makes no device nodes: {done.stderr}")
    return done


def test_an_ordinary_user_can_do_everything(home: Path) -> None:
    for program in ("mdevctl", "fusermount3"):
        if shutil.which(program) is None:
            core_skip(f"{program} is absent: apt install mdevctl fuse3")
    done = as_nobody(home, [sys.executable, str(Path(__file__).with_name("as_user.py")), UUID, LISTEN])
    assert done.returncode == 0, done.stderr
    check(json.loads(done.stdout))


def test_an_ordinary_user_sees_roots_tree_and_changes_nothing(home: Path) -> None:
    with RunningDaemon("mtty") as daemon:
        seen = as_nobody(home, command(daemon, "--", "sh", "-c", f"ls /sys/class/mdev_bus; echo {UUID} > {CREATE}"))
        told = as_nobody(home, command(daemon, "--events=private", "--", "true"))
        assert daemon.control.mdevs() == []
    assert (seen.returncode, seen.stdout) == (2, "mtty\n")
    assert "Permission denied" in seen.stderr
    assert told.returncode == 1
    assert "another user's: its owner or root may use it" in told.stderr


# What mdevctl says, between what it was told and its exit status.
CYCLE = f"""\
# start -u {UUID} -p mtty --type mtty-2
[0]
# list
{UUID} mtty mtty-2 manual
[0]
# define -a -u {UUID}
[0]
# stop -u {UUID}
[0]
# list
[0]
# list -d
{UUID} mtty mtty-2 auto
[0]
# start -u {UUID}
[0]
"""


def check(found: dict[str, Any]) -> None:  # Any: what JSON has
    status, printed, complained = found["who"]
    assert printed == f"{NOBODY}\n{NOBODY}\nCapEff:\t{0:016x}\n"
    assert status != 0, "the machine's own is not the user's to write"
    assert "Permission denied" in complained
    assert "    Available instances: 12\n" in found["types"][1]
    status, printed, complained = found["cycle"]
    assert [line for line in printed.splitlines() if line] == CYCLE.splitlines()
    assert found["definitions"] == [UUID]
    assert found["autostarted"] == [UUID]
    assert [each.strip() for each in found["end"][1:]] == ["", ""]
    assert found["private"] == [0, TOLD, ""]
    assert found["host"][0] == 1
    assert "takes root; --events=private does not" in found["host"][2]
