"""A page of the documentation, carried out: its files are written, its programs and commands are run and compared.

What a block is follows from its language and its first line:

* a first line ``# lamp.py`` (or ``/* lamp.c */``) names the file that the block is; ``# lamp.py, in class Lamp`` adds
  the block to the end of that class, ``# lamp.py, instead of class Lamp`` replaces it;
* any other ``python`` block is a program of its own, and ``sh`` are commands, both run in the folder of the files;
* ``sh guest`` are commands in a guest that has the mdevs which exist by then;
* every other block is what the last program or command printed: its lines are among those, in their order; ``...``
  stands for anything.

There is no other kind of block, so nothing in a page goes untried.
"""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self
from uuid import UUID

from mdev_user.testing.daemon import RunningDaemon

ROOT = Path(__file__).parents[2]
SECONDS = 120
"""How long a program or a block of commands may take."""
DIAGRAMS = (ROOT / "README.md",)
"""Where a block without a language is a drawing."""

_BLOCK = re.compile(r"^```(?P<words>[^\n]*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"(?:#|/\*) (?P<name>[\w.-]+\.\w+)(?:, (?P<place>in|instead of) class (?P<kind>\w+))?(?: \*/)?")
_SERVE = re.compile(r"mdev-user serve --background (?P<parents>[^#&]+?)(?: +#.*)?")
_RUN_DIR = "/run/mdev-user"
_PLACED = "--run-dir"
_WITHOUT_DAEMON = "new|registers|check|doctor"
"""The commands that take no run directory."""


class WrongPage(AssertionError):
    """A page says what is not so."""


class GuestShell(Protocol):
    """What a page needs of a guest."""

    def run(self, script: str) -> str: ...


@dataclass(frozen=True)
class Block:
    """A fenced block. ``words`` are its language and what follows that."""

    where: str
    words: tuple[str, ...]
    text: str

    @property
    def file(self) -> re.Match[str] | None:
        """Its first line, if that names a file."""
        return _FILE.fullmatch(self.text.partition("\n")[0])


def blocks_of(path: Path) -> list[Block]:
    """The blocks of a page, in their order; WrongPage for one without a language."""
    text = path.read_text()
    found = []
    for each in _BLOCK.finditer(text):
        where = f"{path.name}:{text.count(chr(10), 0, each.start()) + 1}"
        words = tuple(each["words"].split())
        if words:
            found.append(Block(where, words, each["text"]))
        elif path not in DIAGRAMS:
            raise WrongPage(f"{where}: expected a language behind the ```, given none")
    if text.count("```") != 2 * len(list(_BLOCK.finditer(text))):
        raise WrongPage(f"{path.name}: a block does not begin or end at the start of a line, or has no end")
    return found


class Reader:
    """Somebody who does what a page says, block by block, in a folder of their own."""

    def __init__(self, folder: Path, boot: Callable[[Sequence[Path]], GuestShell] | None = None) -> None:
        """``boot`` starts a guest with the mdevs of these sockets; without it, what is done in a guest is left out."""
        self.folder = folder
        self.done: list[str] = []
        """What was done: "file", "python", "sh", "guest" or "output" for each block."""
        self._boot = boot
        self._guest: GuestShell | None = None
        self._daemon: RunningDaemon | None = None
        self._run_dirs: dict[str, str] = {}
        """Where each daemon really is, by what the page calls its run directory."""
        self._printed = ""
        """By the last program."""
        self._left_out = False
        """Whether something was left out: then nobody knows what is printed from there on."""
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._exits.close()

    def read(self, path: Path) -> None:
        """Do all that a page says. WrongPage for the first thing that is not so."""
        for block in blocks_of(path):
            try:
                self.done.append(self._do(block))
            except (WrongPage, subprocess.TimeoutExpired) as error:
                raise WrongPage(f"{block.where}: {error}") from None

    def _do(self, block: Block) -> str:
        if block.file is not None:
            self._write(block, block.file)
            return "file"
        if block.words == ("python",):
            self._printed = self._finished([sys.executable, "-W", "error", "-c", block.text])
            return "python"
        if block.words == ("sh",):
            self._printed = self._shell(block.text)
            return "sh"
        if block.words == ("sh", "guest"):
            self._printed = self._in_guest(block.text)
            return "guest"
        if len(block.words) != 1:
            raise WrongPage(f"expected one language, or `sh guest`, given {' '.join(block.words)!r}")
        self._compare(block.text)
        return "output"

    # --- files --------------------------------------------------------------------------------------------------

    def _write(self, block: Block, named: re.Match[str]) -> None:
        path = self.folder / named["name"]
        if named["place"] is None:
            path.write_text(block.text)
            return
        added = block.text.partition("\n")[2]
        path.write_text(edited(path.read_text(), added, named["place"], named["kind"]))

    # --- programs and commands ----------------------------------------------------------------------------------

    def _shell(self, text: str) -> str:
        lines = text.splitlines()
        for line in lines:
            if (serve := _SERVE.fullmatch(line)) is not None:
                self._serve(serve["parents"].split())
        commands = "\n".join(line for line in lines if _SERVE.fullmatch(line) is None)
        return self._finished(["bash", "-euo", "pipefail", "-c", self._prelude() + self._here(commands)])

    def _serve(self, words: list[str]) -> None:
        """A daemon with a ``--run-dir`` of its own is another one; commands are given that option to find it."""
        place = words[words.index(_PLACED) + 1] if _PLACED in words else _RUN_DIR
        parents = [each for each in words if each not in {_PLACED, place}]
        absolute = [each.replace("./", f"{self.folder}/", 1) if each.startswith("./") else each for each in parents]
        daemon = self._exits.enter_context(RunningDaemon(*absolute))
        self._run_dirs[place] = str(daemon.run_dir.path)
        if place == _RUN_DIR:
            self._daemon = daemon

    def _prelude(self) -> str:
        """The machine's own: where the command and the run directory are; `make` says only whether it could."""
        run_dir = f'--run-dir "{self._daemon.run_dir.path}"' if self._daemon else ""
        command = f'"{Path(sys.executable).with_name("mdev-user")}"'
        return f"""
            mdev-user() {{
                local name=$1; shift
                case "$name" in
                {_WITHOUT_DAEMON}) {command} "$name" "$@" ;;
                *) {command} "$name" {run_dir} "$@" ;;
                esac
            }}
            PATH="$PATH:{Path(sys.executable).parent}"  # what other programs call of ours
            python() {{ "{sys.executable}" "$@"; }}
            pytest() {{ "{sys.executable}" -m pytest -q -p no:cacheprovider "$@"; }}
            make() {{ command make --dry-run -C "{ROOT}" "$@" >/dev/null; }}
        """

    def _here(self, text: str) -> str:
        for place, path in self._run_dirs.items():
            text = text.replace(place, path)
        return text

    def _there(self, text: str) -> str:
        for place, path in self._run_dirs.items():
            text = text.replace(path, place)
        return text

    def _finished(self, command: list[str]) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},  # a file may change twice in a second
            text=True,
            timeout=SECONDS,
            check=False,
        )
        if done.returncode:
            log = f"\n--- the daemon's log ---\n{self._daemon.log}" if self._daemon else ""
            raise WrongPage(f"exit status {done.returncode}\n{done.stdout}{log}")
        return self._there(done.stdout)

    def _in_guest(self, text: str) -> str:
        if self._boot is None:
            self._left_out = True
            return ""
        if self._guest is None:
            if self._daemon is None:
                raise WrongPage("expected `mdev-user serve ...` and a create before what is done in a guest")
            uuids = [UUID(each.uuid) for each in self._daemon.control.mdevs()]
            self._guest = self._boot([self._daemon.run_dir.socket(uuid) for uuid in uuids])
        return self._guest.run(f"set -e\n{text}")

    # --- output -------------------------------------------------------------------------------------------------

    def _compare(self, text: str) -> None:
        if self._left_out:
            return
        if not self.done or self.done[-1] == "file":
            raise WrongPage("expected a program or a command before what it prints")
        printed = iter(self._printed.splitlines())
        for line in filter(lambda each: each != "...", text.splitlines()):
            pattern = re.compile(".*".join(re.escape(part) for part in line.rstrip().split("...")))
            if not any(pattern.fullmatch(each.rstrip()) for each in printed):  # goes on behind the last one
                raise WrongPage(f"nothing printed is {line!r}, or not in this order:\n{self._printed}")


def edited(source: str, added: str, place: str, kind: str) -> str:
    """``source`` with ``added`` at the end of the class ``kind`` (``in``), or in its place (``instead of``)."""
    found = [each for each in ast.parse(source).body if isinstance(each, ast.ClassDef) and each.name == kind]
    if not found:
        raise WrongPage(f"the file has no class {kind} yet")
    node, lines = found[0], source.splitlines(keepends=True)
    start = min([node.lineno, *(each.lineno for each in node.decorator_list)]) - 1
    end = node.end_lineno or len(lines)
    before = lines[: end if place == "in" else start]
    return "".join([*before, "\n" if place == "in" else "", added, *lines[end:]])
