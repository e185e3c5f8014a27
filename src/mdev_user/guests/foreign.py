"""Programs of another Debian release, run with the libraries they were built for: through their own ELF interpreter."""

import subprocess
from collections.abc import Iterable
from pathlib import Path

LIBRARIES = "usr/lib/x86_64-linux-gnu"
"""Where a release's packages have them."""
INTERPRETER = "ld-linux-x86-64.so.2"
_PROBE_SECONDS = 60


def interpreter(*folders: Path) -> tuple[str, ...]:
    """The beginning of an argv: a program behind it runs with the libraries of ``folders`` and none of the machine's.

    The first of the folders has the interpreter itself.
    """
    path = ":".join(map(str, folders))
    return str(folders[0] / INTERPRETER), "--inhibit-cache", "--library-path", path


def libraries(folders: Iterable[Path], binary: Path) -> set[Path]:
    """The libraries in ``folders`` that ``binary`` loads at its start, and the interpreter."""
    found = tuple(folders)
    listing = program_output([*interpreter(*found), "--list", str(binary)])
    words = (word for line in listing.splitlines() for word in line.split())
    return {Path(word) for word in words if word.startswith(tuple(map(str, found)))} | {found[0] / INTERPRETER}


def program_output(command: list[str]) -> str:
    """What ``command`` prints; nothing where it cannot run, which each caller judges."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
