"""A small static program, for a guest that has no libraries or a test that wants none: compiled when its test runs."""

import shutil
import subprocess
from pathlib import Path

from core import core_skip

_MUSL = Path("/usr/lib/x86_64-linux-musl")
_MUSL_HEADERS = "/usr/include/x86_64-linux-musl"
_SECONDS = 60


def compile_static(source: Path, target: Path) -> None:
    """Compile and link one C file, with warnings as errors; a core skip where this machine has no compiler for it.

    tcc with musl is a hundredth of gcc with glibc in packages, so that is what ``make test`` installs.
    """
    done = subprocess.run(_command(source, target), capture_output=True, text=True, timeout=_SECONDS, check=False)
    assert done.returncode == 0, done.stderr


def _command(source: Path, target: Path) -> list[str]:
    if (tcc := shutil.which("tcc")) and (_MUSL / "libc.a").exists():
        start, end = [str(_MUSL / name) for name in ("crt1.o", "crti.o")], [str(_MUSL / "crtn.o")]
        options = ["-Wall", "-Werror", "-static", "-nostdlib", "-nostdinc", "-isystem", _MUSL_HEADERS]
        return [tcc, *options, "-o", str(target), *start, str(source), str(_MUSL / "libc.a"), *end]
    cc = shutil.which("cc") or core_skip("no C compiler for a test's program: install tcc and musl-dev")
    return [cc, "-Wall", "-Werror", "-static", "-o", str(target), str(source)]
