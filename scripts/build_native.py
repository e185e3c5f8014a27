"""Builds the native loop: a hook of the package's build, and a program to build it where an editable install looks.

The loop is optional. Without a C compiler or Python's headers nothing is built, and the build goes on.
"""

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run as a program
    BuildHookInterface = object  # type: ignore[assignment, misc]

ROOT = Path(__file__).parent.parent
SOURCES = ROOT / "src" / "native"
FOLDER = Path("src/mdev_user/vfio_user")
WARNINGS = ("-Wall", "-Wextra", "-Wno-missing-field-initializers")
FLAGS = ("-O2", "-std=gnu11", "-fPIC", "-shared", "-s", "-fvisibility=hidden", *WARNINGS)


class CannotBuild(Exception):
    """The text says what is missing."""


def build() -> Path:
    """Compile the loop for this Python, into the package; returns the file, relative to the root."""
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").exists():
        raise CannotBuild(f"no {headers}/Python.h: apt-get install python3-dev")
    library = FOLDER / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    made = ROOT / library.with_suffix(".new")
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    command = [*compiler, *FLAGS, f"-I{headers}", "-o", str(made), *sorted(each.name for each in SOURCES.glob("*.c"))]
    try:
        done = subprocess.run(command, cwd=SOURCES, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CannotBuild(f"no C compiler ({error}): apt-get install gcc libc6-dev") from error
    if done.returncode:
        raise CannotBuild(f"{shlex.join(command)} failed:\n{done.stderr}")
    made.replace(ROOT / library)  # a process that has the old one loaded keeps it
    return library


class NativeLoop(BuildHookInterface):
    """The hook: it adds the library to what is installed, if it can be built."""

    # Any: what hatchling hands over
    def initialize(self, _version: str, build_data: dict[str, Any]) -> None:  # Any: as above
        if self.target_name != "wheel":
            return
        try:
            library = build()
        except CannotBuild as error:
            self.app.display_warning(f"without the native loop: {error}")
            return
        build_data["artifacts"].append(str(library))
        build_data["infer_tag"], build_data["pure_python"] = True, False


if __name__ == "__main__":
    try:
        sys.stdout.write(f"the native loop: built {build()}\n")
    except CannotBuild as error:
        sys.exit(f"the native loop was not built: {error}")
