"""`mdev-user run` as a test starts it."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from mdev_user.testing.daemon import RunningDaemon

SECONDS = 30
"""How long one command may take, on a machine that is busy with others."""


def command(daemon: RunningDaemon, *words: str, preamble: str = "") -> list[str]:
    """``words`` are options of ``run``, perhaps ``--``, and the program. ``preamble`` breaks something first."""
    main = f"{preamble}\nfrom mdev_user.cli import main; main()"
    return [sys.executable, "-c", main, "run", "--run-dir", str(daemon.run_dir.path), *words]


def finished(
    words: list[str],
    *,
    stdin: str = "",
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    seconds: float = SECONDS,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        env=environment,
        cwd=folder,
    )


def printed(words: list[str], stdin: str = "") -> str:
    """What a program prints that succeeds and complains of nothing."""
    done = finished(words, stdin=stdin)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def script(daemon: RunningDaemon, text: str) -> str:
    """What a bash script prints in `run`; the first command that fails ends it."""
    return printed(command(daemon, "--", "bash", "-euc", text))
