"""What an ordinary user with no privileges but /dev/fuse can do: the demo with Debian 12's 7.2, and a recent QEMU."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import core_skip
from mdev_user.guests.cached import cache_folder
from mdev_user.guests.plain_qemu import find_plain_qemu
from mdev_user.guests.qemu import Qemu
from mdev_user.guests.rig import Rig
from tools.ordinary import NOT_HERE

pytestmark = [
    pytest.mark.guest,
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user"),
]

NOBODY = 65534
TESTS = Path(__file__).parents[1]
SECONDS = 150
FACTS = 7


@pytest.fixture(scope="module")
def plain(rig: Rig) -> Qemu:
    assert rig.kernel.exists()
    return find_plain_qemu() or core_skip("no QEMU without vfio-user: `python -m mdev_user.guests plain-qemu`")


@pytest.fixture
def home(plain: Qemu) -> Iterator[Path]:
    """An ordinary user's home, and in its ``bin`` the machine's QEMU."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    (folder / "bin").mkdir()
    program = folder / "bin/qemu-system-x86_64"
    program.write_text(f'#!/bin/sh\nexec {" ".join(plain.command)} "$@"\n')
    program.chmod(0o755)
    os.chown(folder, NOBODY, NOBODY)
    yield folder
    shutil.rmtree(folder)


def printed_as_nobody(home: Path, *words: str) -> str:
    """What a Python program prints as that user, who sees the cache and cannot write to it."""
    reachable = [TESTS.parent, sys.prefix, sys.base_prefix, cache_folder()]
    become = [str(TESTS / "tools/ordinary.py"), str(NOBODY), *map(str, reachable)]
    own = {
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home),
        "TMPDIR": str(home),
        "COLUMNS": "200",
        "MDEV_USER_CACHE": str(cache_folder()),
        "PATH": f"{home}/bin:{os.environ['PATH']}",
        "PYTHONPATH": str(TESTS),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, *become, "--", sys.executable, *words],
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode == NOT_HERE:
        pytest.skip(f"this container makes no device nodes: {done.stderr}")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_ordinary_users_qemu_7_2_does_the_demo(home: Path, plain: Qemu) -> None:
    text = printed_as_nobody(home, "-m", "mdev_user", "demo")
    assert f"this machine's QEMU {plain.version}, by vfio-pci under `mdev-user run`" in text
    assert text.count("16550A, irq") == 2
    assert len(re.findall(r"│ yes +│", text)) == FACTS, text


def test_an_ordinary_users_recent_qemu_has_both_apis(home: Path, rig: Rig) -> None:
    assert rig.kernel.exists()
    lines = printed_as_nobody(home, str(TESTS / "guest/ordinary_guests.py")).splitlines()
    assert [re.sub(r"\d+", "N", each) for each in lines] == [
        "legacy: irq N, identical",
        "iommufd: irq N, identical",
    ]
    assert not any("irq 0," in each for each in lines), "a port without an interrupt is polled"
