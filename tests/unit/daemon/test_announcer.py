"""The process beside a program that tells of uevents: what goes wrong in it is not lost."""

import subprocess
import sys
from pathlib import Path

from unit.sysfs.scene import PATIENCE, until

START = """
import io, sys
from pathlib import Path
from mdev_user.daemon import announcer
from mdev_user.daemon.run_dir import RunDir

def broken(client, sender, program, ready):
    if sys.argv[1:]:
        ready()
    raise RuntimeError("a mistake of ours")

announcer.broadcast = broken
announcer.UdevSender = io.BytesIO
announcer.syslog.syslog = lambda _priority, text: Path(sys.argv[1]).write_text(text)
announcer.start_announcer(RunDir(Path("/nowhere")))
print("started", flush=True)
sys.stdin.read()
"""


def test_an_unexpected_error_at_first_is_told_to_who_starts_it() -> None:
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert "no uevents can be told: a mistake of ours" in done.stderr


def test_an_unexpected_error_later_is_told_in_the_systems_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", START, str(log)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        until(lambda: log.exists() and "no more uevents are told: a mistake of ours" in log.read_text())
        _output, errors = process.communicate()
    assert errors == b""
