"""``mdev-user-qemu``: which QEMU, whether with a supervisor, and whose mdevs; nothing is run here."""

import os
import sys
from pathlib import Path

import pytest

from mdev_user import cli
from mdev_user.cli import qemu
from mdev_user.daemon.run_dir import RUN_DIR_VARIABLE


class Became(Exception):
    """What this process would have become."""


@pytest.fixture
def emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A QEMU in PATH, on a machine where /sys shows no tree."""
    path = tmp_path / "bin/qemu-system-x86_64"
    path.parent.mkdir()
    path.touch(mode=0o755)

    def become(program: str, words: list[str]) -> None:
        raise Became(program, *words)

    def run() -> None:
        raise Became(*sys.argv)

    monkeypatch.setenv("PATH", str(path.parent))
    for name in (qemu.QEMU_VARIABLE, RUN_DIR_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "execv", become)
    monkeypatch.setattr(cli, "main", run)
    monkeypatch.setattr(qemu, "places_of", lambda _shown: [])
    return path


def became(monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[object, ...]:
    monkeypatch.setattr("sys.argv", ["mdev-user-qemu", *words])
    with pytest.raises(Became) as caught:
        qemu.main()
    return caught.value.args


def test_it_is_run_with_a_supervisor(emulator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("-machine", "q35,accel=tcg", "-device", "vfio-pci")
    assert became(monkeypatch, *words) == ("mdev-user", "run", "--", str(emulator), *words)


def test_arguments_that_look_like_runs_are_qemus(emulator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert became(monkeypatch, "--help") == ("mdev-user", "run", "--", str(emulator), "--help")


@pytest.mark.parametrize("words", [("-machine", "none,accel=kvm:tcg"), ("-S", "--machine", "none", "-nographic")])
def test_who_asks_what_it_can_do_gets_the_qemu_itself(
    words: tuple[str, ...], emulator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert became(monkeypatch, *words) == (str(emulator), str(emulator), *words)


@pytest.mark.parametrize("words", [("-machine", "nonesuch"), ("none", "-machine"), ("-name", "none")])
def test_only_the_machine_none_is_such_a_question(
    words: tuple[str, ...], emulator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert became(monkeypatch, *words) == ("mdev-user", "run", "--", str(emulator), *words)


def test_the_daemon_is_the_one_whose_tree_sys_shows(emulator: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "places_of", lambda shown: [Path("/srv/one/root/sys")] if shown == Path("/sys") else [])
    assert became(monkeypatch) == ("mdev-user", "run", "--run-dir", "/srv/one", "--", str(emulator))
    monkeypatch.setenv(RUN_DIR_VARIABLE, "/srv/other")
    assert became(monkeypatch) == ("mdev-user", "run", "--", str(emulator))


def test_another_qemu_is_taken_where_one_is_named(
    emulator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.touch(mode=0o755)
    monkeypatch.setenv(qemu.QEMU_VARIABLE, str(other))
    assert became(monkeypatch)[-1] == str(other)
    assert emulator != other


@pytest.mark.parametrize("named", [None, "/no/such/qemu"])
@pytest.mark.usefixtures("emulator")
def test_that_there_is_none_is_said_with_what_to_do(
    named: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if named is not None:
        monkeypatch.setenv(qemu.QEMU_VARIABLE, named)
    monkeypatch.setattr("sys.argv", ["mdev-user-qemu", "-machine", "none"])
    with pytest.raises(
        SystemExit, match=r"expected .* in \$MDEV_USER_QEMU, given '.*qemu.*', which was not found"
    ) as ended:
        qemu.main()
    assert isinstance(ended.value.code, str), "status 1"
