"""The files of parent drivers: a change is told once, when the file is whole."""

import os
from pathlib import Path
from threading import Event
from time import monotonic

import pytest

from mdev_user.daemon import reload
from mdev_user.daemon.reload import FileWatch, Loaded, look


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "card.py"
    path.write_text("1")
    return path


class Driver:
    """A file that counts as loaded when its change was told."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.watch = FileWatch(lambda: {"card": self.loaded}, lambda name: None)
        self.load()

    def load(self) -> None:
        self.loaded = Loaded(self.file, look(self.file))


def watch(file: Path) -> Driver:
    return Driver(file)


def looks(made: Driver, times: int) -> list[str]:
    told = []
    for _ in range(times):
        for name in made.watch.settled():
            told.append(name)
            made.load()
    return told


def test_a_change_is_told_once(file: Path) -> None:
    made = watch(file)
    file.write_text("22")
    assert looks(made, 4) == ["card"]


def test_a_file_that_is_still_being_written_is_not_told(file: Path) -> None:
    made = watch(file)
    file.write_text("22")
    assert looks(made, 1) == []
    file.write_text("333")
    assert looks(made, 1) == []
    assert looks(made, 1) == ["card"]


def test_another_file_in_its_place_is_a_change(file: Path) -> None:
    made = watch(file)
    times = file.stat()
    other = file.with_name("other")
    other.write_text("2")
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(file)
    assert looks(made, 2) == ["card"]


def test_a_file_that_is_away_for_a_while_is_told_when_it_is_back(file: Path) -> None:
    made = watch(file)
    file.unlink()
    assert looks(made, 3) == []
    file.write_text("22")
    assert looks(made, 3) == ["card"]


def test_a_change_before_the_first_look_is_told(file: Path) -> None:
    made = watch(file)
    file.write_text("22")
    assert looks(made, 2) == ["card"]


def test_nothing_is_told_of_a_file_as_it_was_loaded(file: Path) -> None:
    assert looks(watch(file), 3) == []


def test_a_thread_tells_it(file: Path) -> None:
    told = Event()
    loaded = Loaded(file, look(file))
    file.write_text("22")
    made = FileWatch(lambda: {"card": loaded}, lambda name: told.set())
    made.start()
    try:
        assert told.wait(30)
    finally:
        made.stop()


def test_a_reload_that_hangs_does_not_keep_the_daemon(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "_MOMENT", 0.05)
    hangs, may_end, told = Event(), Event(), []

    def changed(name: str) -> None:
        told.append(name)
        hangs.set()
        may_end.wait(30)

    loaded = Loaded(file, look(file))
    file.write_text("22")
    made = FileWatch(lambda: {"one": loaded, "two": loaded}, changed)
    made.start()
    try:
        assert hangs.wait(30)
        began = monotonic()
        made.stop()
        assert monotonic() - began < 10
    finally:
        may_end.set()
        made._thread.join(30)
    assert told == ["one"]
