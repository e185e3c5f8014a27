"""Our own Python in a guest: the interpreter, what it loads, and each in the place that it has here."""

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from importlib.util import cache_from_source
from pathlib import Path
from struct import pack
from typing import Any

from mdev_user.guests.vm import Guest

PYTHON = Path(sys.executable).resolve()
_PLACES = [str(Path(__file__).parents[1]), *filter(None, sys.path)]
_LOADED = """
import sys
import {module}, mdev_user.host.program.__main__, encodings.ascii, encodings.latin_1, pickle, threading, site
print(*{{each for module in sys.modules.values() if (each := getattr(module, "__file__", None))}}, sep="\\n")
"""


def files_of(module: str) -> dict[str, bytes]:
    """What a program loads that imports a module of the tests, and that may start a process of an mdev's own."""
    command = [str(PYTHON), "-c", _LOADED.format(module=module)]
    environment = {"PYTHONPATH": ":".join(_PLACES), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    found = {*done.stdout.split(), str(PYTHON)}
    files = {each: Path(each).read_bytes() for each in found}
    files |= libraries_of([str(PYTHON), *(each for each in found if each.endswith(".so"))])
    for each in list(files):
        if each.endswith(".py") and (cached := Path(cache_from_source(each))).exists():
            code = cached.read_bytes()  # with a head that says not to look at the source: its time is another one there
            files[str(cached)] = code[:4] + pack("<IQ", 1, 0) + code[16:]
    return files


def libraries_of(programs: Iterable[str]) -> dict[str, bytes]:
    """What the dynamic linker loads with them."""
    told = subprocess.run(["ldd", *programs], capture_output=True, text=True, timeout=60, check=True).stdout
    return {each: Path(each).read_bytes() for each in re.findall(r"(/\S+) \(0x", told)}


def told(guest: Guest, module: str, *calls: str, first: str = "", environment: str = "") -> list[Any]:
    """What functions of a module return in the guest, as JSON has it (hence Any); ``first`` is done by its shell."""
    given = ", ".join(map(repr, calls))
    program = f'PYTHONPATH={":".join(_PLACES)} {environment} exec {PYTHON} -c "import {module}; {module}.main({given})"'
    guest.run(f"cat > /run/program <<'END'\n{first}\n{program}\nEND")
    printed = guest.run("sh /run/program 2>/run/errors || { cat /run/errors; false; }", 300.0)
    return [json.loads(line) for line in printed.splitlines()]
