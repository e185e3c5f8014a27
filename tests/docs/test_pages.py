"""Every block of the README and of the pages in docs is true; see ``page.py`` for what a block is."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from docs.page import ROOT, Reader, WrongPage, blocks_of, edited
from mdev_user.driver import Parent
from mdev_user.testing import CheckFailed, check

FOLDERS = ("tutorial", "how-to", "reference", "explanation")
WRITTEN = {"driver.md", "testing.md", "differences.md"}
"""By scripts: what they show are no programs."""
FOUND = sorted(page for name in FOLDERS for page in (ROOT / "docs" / name).glob("*.md"))
PAGES = [ROOT / "README.md", *(page for page in FOUND if page.name not in WRITTEN)]
TOOLS = {"cc": "no C compiler", "mdevctl": "no mdevctl: apt install mdevctl", "udevadm": "no udevadm: apt install udev"}


def marks_of(path: Path) -> list[pytest.MarkDecorator]:
    """A daemon shows its tree by FUSE."""
    text = path.read_text()
    return [pytest.mark.fuse] if "mdev-user serve " in text or "mdev_host" in text else []


@pytest.mark.parametrize("path", [pytest.param(each, marks=marks_of(each), id=each.stem) for each in PAGES])
def test_what_the_page_says_is_so(path: Path, tmp_path: Path) -> None:
    for tool, reason in TOOLS.items():
        if re.search(rf"^(.* )?{tool} ", path.read_text(), re.MULTILINE) and shutil.which(tool) is None:
            pytest.skip(reason)
    with Reader(tmp_path) as reader:
        reader.read(path)
        assert {"python", "sh"} & set(reader.done) or path.parent.name == "explanation"


def test_the_pages_are_found() -> None:
    assert {"README", "your-first-parent-driver", "read-a-register-map", "jobs"} <= {path.stem for path in PAGES}


_FROM = re.compile(r"^(?:from|import) (\w+)", re.MULTILINE)


# --- the drivers of the pages -----------------------------------------------------------------------------------


def drivers() -> Iterator[tuple[str, str]]:
    """The Python files of all pages as they are in the end, each by a name of its own."""
    for path in PAGES:
        files: dict[str, str] = {}
        for block in blocks_of(path):
            named = block.file
            if named is None or not named["name"].endswith(".py"):
                continue
            text = block.text
            if named["place"]:
                text = edited(files[named["name"]], text.partition("\n")[2], named["place"], named["kind"])
            files[named["name"]] = text
        for name, text in files.items():
            yield f"{path.stem.replace('-', '_').lower()}__{name}", text


def parent_of(name: str, text: str, folder: Path, patch: pytest.MonkeyPatch) -> type[Parent[Any]]:
    """The parent that a page's file declares."""
    (folder / name).write_text(text)
    patch.syspath_prepend(folder)
    module = importlib.import_module(name.removesuffix(".py"))
    (parent,) = (each for each in vars(module).values() if isinstance(each, type) and each.__base__ is Parent)
    return parent


def mypy(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--config-file", "", "--strict", "--python-version", "3.11"),
            *("--cache-dir", str(ROOT / ".mypy_cache" / "pages"), *sorted(each.name for each in folder.iterdir())),
        ],
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def alone(text: str) -> bool:
    """Whether a file imports no other of its page, by the name that this one has there."""
    return all(each.startswith("mdev_user") or each in sys.stdlib_module_names for each in _FROM.findall(text))


def test_a_type_checker_has_nothing_to_say_of_the_drivers(tmp_path: Path) -> None:
    for name, text in drivers():
        if alone(text):
            (tmp_path / name).write_text(text)
    assert len(list(tmp_path.iterdir())) > 10
    done = mypy(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


WRONG = {"test_a_driver__adder.py"}
"""What its page has check find."""
WORKING = [
    pytest.param(name, text, id=name)
    for name, text in drivers()
    if alone(text) and "async def" in text and name not in WRONG
]


@pytest.mark.parametrize(("name", "text"), WORKING)
def test_the_drivers_with_jobs_hold_what_check_demands(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(parent_of(name, text, tmp_path, monkeypatch), examples=10)


# --- negative controls: each kind of a wrong block is found -----------------------------------------------------

LAMP = "```python\n# lamp.py\nclass Lamp:\n    on = 1\n```\n"


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ("```python\nassert 1 == 2\n```\n", r"page\.md:1: exit status 1\n.*AssertionError"),
        ("text\n\n```python\nimport nothing_of_this_name\n```\n", r"page\.md:3: .*\n.*ModuleNotFoundError"),
        ("```sh\nfalse\n```\n", "exit status 1"),
        ("```sh\nfalse\ntrue\n```\n", "exit status 1"),
        ("```sh\nno-command-of-this-name\n```\n", "not found"),
        ("```sh\nmdev-user registers nothing\n```\n", "no parent driver 'nothing'"),
        ("```sh\nmake nothing-of-this-name\n```\n", "No rule to make target"),
        ("```sh\necho 23\n```\n\n```text\n24\n```\n", r"page\.md:5: nothing printed is '24'"),
        ("```sh\necho abc\n```\n\n```text\na...d\n```\n", r"nothing printed is 'a\.\.\.d'"),
        ("```sh\necho 1; echo 2\n```\n\n```text\n2\n1\n```\n", "nothing printed is '1', or not in this order"),
        ("```text\nabc\n```\n", "expected a program or a command before"),
        (f"{LAMP}\n```text\nabc\n```\n", "expected a program or a command before"),
        ("```\nabc\n```\n", "expected a language"),
        ("```sh later\ntrue\n```\n", "given 'sh later'"),
        ("```sh\ntrue\n", "has no end"),
        (f"{LAMP}\n```python\n# lamp.py, in class Bulb\n    off = 2\n```\n", "has no class Bulb"),
    ],
)
def test_a_wrong_page_is_found(page: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(page)
    with Reader(tmp_path) as reader, pytest.raises(WrongPage, match=re.compile(complaint, re.DOTALL)):
        reader.read(path)


def test_what_is_done_in_a_guest_needs_a_daemon(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("```sh guest\ntrue\n```\n")
    with Reader(tmp_path, lambda _sockets: pytest.fail("no mdev")) as reader, pytest.raises(WrongPage, match="serve"):
        reader.read(path)


BUS = """```sh
mdev-user serve --background crc
mdev-user create crc-small
```

```sh guest
lspci
```

```text
00:01.0 1de5:0c3c
```
"""


class PlayedShell:
    """A guest whose every command prints the same."""

    def __init__(self, printed: str) -> None:
        self._printed = printed

    def run(self, script: str) -> str:
        return self._printed


@pytest.mark.fuse
def test_what_a_guest_prints_is_compared(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(BUS)
    sockets: list[Path] = []

    def boot(given: Sequence[Path]) -> PlayedShell:
        sockets.extend(given)
        return PlayedShell("00:01.0 1de5:0c3c\n")

    with Reader(tmp_path, boot) as reader:
        reader.read(path)
        assert [each.is_socket() for each in sockets] == [True]
    path.write_text(BUS.replace("0c3c", "0c3d"))
    with Reader(tmp_path, boot) as other, pytest.raises(WrongPage, match=r"page\.md:10: nothing printed is '00:01"):
        other.read(path)


def test_files_grow_as_a_page_says(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(
        f"{LAMP}\n```python\n# lamp.py, in class Lamp\n    off = 2\n```\n"
        "```python\nfrom lamp import Lamp\nprint(Lamp.on, Lamp.off)\n```\n```text\n1 2\n...\n```\n"
        "```python\n# lamp.py, instead of class Lamp\nclass Lamp:\n    off = 3\n```\n"
        "```python\nfrom lamp import Lamp\nassert not hasattr(Lamp, 'on')\nprint('off', Lamp.off)\n```\n"
        "```text\no... 3\n```\n"
    )
    with Reader(tmp_path) as reader:
        reader.read(path)
    assert reader.done == ["file", "file", "python", "output", "file", "python", "output"]


def test_a_type_checker_finds_a_wrong_driver(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text("from mdev_user.driver import Pool\n\nlanes: int = Pool('four')\n")
    assert mypy(tmp_path).returncode == 1


def test_check_finds_what_the_tutorial_says_that_it_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = (text for name, text in drivers() if name == "your_first_parent_driver__lamp.py")
    waits, effect = "        await sleep(0.01 * length)\n", "        if pattern:\n            self.dim(max(pattern))\n"
    assert waits + effect in text
    parent = parent_of("hasty_lamp.py", text.replace(waits + effect, effect + waits), tmp_path, monkeypatch)
    with pytest.raises(CheckFailed, match="in the device that was saved and loaded"):
        check(parent, examples=20)
