"""The files of parent drivers: a change is told once, when the file is whole."""

import os
from pathlib import Path

import pytest

from mdev_user.daemon.reload import FileWatch


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "card.py"
    path.write_text("1")
    return path


def watch(file: Path) -> FileWatch:
    made = FileWatch(lambda: {"card": file}, lambda name: None)
    assert looks(made, 2) == []
    return made


def looks(made: FileWatch, times: int) -> list[str]:
    return [name for _ in range(times) for name in made.settled()]


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


def test_a_thread_tells_it(file: Path) -> None:
    from threading import Event

    told = Event()
    made = FileWatch(lambda: {"card": file}, lambda name: told.set())
    made.start()
    try:
        for number in range(100):
            file.write_text("2" * (number + 2))
            if told.wait(0.3):
                break
        assert told.is_set()
    finally:
        made.stop()
