"""A Python with Cyborg from the package index, in a folder of the cache; ``python tests/tools/openstack.py`` makes it.

It is none of the project's dependencies, and the project is none of its: a virtual environment of its own.
"""

import subprocess
import sys
import time
import venv
from pathlib import Path

from mdev_user.guests.archive import RigError
from mdev_user.guests.cached import CachedFolder, Progress, cache_folder, cost

_REQUIREMENTS = Path(__file__).with_suffix(".txt")
_FOLDER = "openstack-1"
_STAMP = "stamp"
_SECONDS = 300


def find_openstack(cache: Path | None = None) -> Path | None:
    """The Python with Cyborg, if this machine has one already; the network is never asked."""
    folder = (cache or cache_folder()) / _FOLDER
    try:
        is_complete = (folder / _STAMP).read_text() == _stamp()
    except FileNotFoundError:
        return None
    return folder / "bin/python" if is_complete else None


def build_openstack(progress: Progress, cache: Path | None = None) -> Path:
    """The Python with Cyborg, installed now if need be; RigError where it cannot be."""
    return CachedFolder(_FOLDER, "the environment with Cyborg", find_openstack, _fill).build(progress, cache)


def _stamp() -> str:
    return f"# Python {sys.version}\n{_REQUIREMENTS.read_text()}"


def _fill(work: Path, progress: Progress) -> None:
    started = time.monotonic()
    progress("environment with Cyborg: installing it from the package index (about 7 MB)")
    folder = work / "openstack"
    venv.create(folder, symlinks=True)
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile", "--only-binary", ":all:")
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "install", *options]
    command = [*pip, "--requirement", str(_REQUIREMENTS)]
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except subprocess.TimeoutExpired:
        raise RigError(f"pip did not install Cyborg within {_SECONDS} s") from None
    except subprocess.CalledProcessError as error:
        raise RigError(f"pip could not install Cyborg: {error.stderr.strip()[-200:]}") from None
    (folder / _STAMP).write_text(_stamp())
    progress(f"environment with Cyborg ready: {cost(folder, started)}")


if __name__ == "__main__":
    try:
        print(build_openstack(lambda line: print(line, file=sys.stderr, flush=True)))
    except RigError as error:
        sys.exit(f"no environment with Cyborg: {error}")
