"""Files of ours: found whatever number they have, and released with their last copy, however it goes."""

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typing_extensions import override

from mdev_user.uapi.files import File, Files


class Noted(File):
    """Notes that it was released."""

    def __init__(self, name: str = "noted") -> None:
        super().__init__(name)
        self.gone = False

    @override
    def released(self) -> None:
        self.gone = True


@pytest.fixture
def files() -> Iterator[Files]:
    files = Files()
    yield files
    files.close()


def opened(files: Files) -> tuple[Noted, int]:
    file = Noted()
    files.add(file)
    return file, files.new_description(file)


def is_gone(files: Files, file: Noted, seconds: float = 10.0) -> bool:
    """Once something was closed."""
    select.select([files.inotify], [], [], seconds)
    files.settle()
    return file.gone


def released_after_a_close_that_is_slow(files: Files) -> bool:
    """Linux tells that a file is being closed, and then lets go of its locks; the process may not run in between."""
    file, fd = opened(files)
    os.close(os.open(f"/proc/self/fd/{file.fd}", os.O_RDWR))  # tells the same, with the lock still there
    files.settle()
    os.close(fd)
    os.read(files.inotify, 4096)  # nothing more is told
    while not file.gone and select.select([files.alarm], [], [], 0.1)[0]:
        files.settle()
    return file.gone


def test_a_close_that_is_told_of_too_early_is_seen(files: Files) -> None:
    assert released_after_a_close_that_is_slow(files)


def test_looked_at_once_it_would_not_be(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    monkeypatch.setattr(Files, "_set_alarm", lambda _self: None)
    assert not released_after_a_close_that_is_slow(files)


def test_what_is_in_use_is_looked_at_less_and_less(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("mdev_user.uapi.files.monotonic", lambda: now)
    file, fd = opened(files)
    os.close(os.open(f"/proc/self/fd/{file.fd}", os.O_RDWR))
    times = 0
    files.settle()
    while files._unsettled and times < 100:
        now += min(max(now - 100.0, 0.001), 1.0)
        times += 1
        files.settle()
    assert 10 < times < 40
    assert not file.gone
    os.close(fd)


def test_a_file_is_released_by_its_last_close(files: Files) -> None:
    file, fd = opened(files)
    copy = os.dup(fd)
    other = files.new_description(file)
    for number in (fd, other):
        os.close(number)
        files.settle()
        assert not file.gone
    os.close(copy)
    files.settle()
    assert file.gone


def test_a_mapping_keeps_a_file(files: Files) -> None:
    import mmap

    file, fd = opened(files)
    os.ftruncate(file.fd, mmap.PAGESIZE)
    mapping = mmap.mmap(fd, mmap.PAGESIZE)
    os.close(fd)
    files.settle()
    assert not file.gone
    mapping.close()
    files.settle()
    assert file.gone


def test_a_killed_process_lets_go_of_a_file(files: Files) -> None:
    file, fd = opened(files)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[fd]) as child:
        os.close(fd)
        files.settle()
        assert not file.gone
        child.kill()
    assert is_gone(files, file)


def test_without_its_lock_a_description_is_not_seen(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """That `test_a_file_is_released_by_its_last_close` would fail were the lock not taken."""
    monkeypatch.setattr("mdev_user.uapi.files._SHARED_LOCK", b"\2" + bytes(31))  # F_UNLCK
    file, fd = opened(files)
    os.close(os.dup(files.new_description(file)))
    other = files.new_description(file)
    os.close(other)
    files.settle()
    assert file.gone
    os.close(fd)


def test_a_file_is_found_by_its_inode_until_it_is_released(files: Files) -> None:
    file, fd = opened(files)
    status = os.fstat(fd)
    assert files.find(status.st_dev, status.st_ino) is file
    os.close(fd)
    files.settle()
    assert files.find(status.st_dev, status.st_ino) is None


def test_a_removed_file_is_released_and_closed(files: Files) -> None:
    file = Noted()
    files.add(file)
    files.remove(file)
    assert file.gone
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(file.fd)


def test_one_of_many_files_is_released_alone(files: Files) -> None:
    pairs = [opened(files) for _ in range(20)]
    os.close(pairs[7][1])
    files.settle()
    assert [file.gone for file, _fd in pairs] == [each == 7 for each in range(20)]
    for file, fd in pairs:
        if not file.gone:
            os.close(fd)


def test_a_release_that_fails_harms_nobody_who_notices_it(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(File):
        @override
        def released(self) -> None:
            raise RuntimeError("broken")

    file = Failing("failing")
    files.add(file)
    os.close(files.new_description(file))
    files.settle()
    assert "broken" in caplog.text


def fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_file_that_cannot_be_given_is_released(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was opened, so that nothing will be closed."""
    file, given = Noted(), Noted()
    for each in (file, given):
        files.add(each)
    other = files.new_description(given)
    with monkeypatch.context() as patch:
        patch.setattr("mdev_user.uapi.files._proc_path", lambda _fd: b"/proc/self/fd/-1")
        for each in (file, given):
            with pytest.raises(OSError, match="No such file"):
                files.new_description(each)
    files.settle()
    assert (file.gone, given.gone) == (True, False)
    os.close(other)


def test_a_file_that_cannot_be_added_is_released(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fds()
    file = Noted()
    with monkeypatch.context() as patch:
        patch.setattr("mdev_user.uapi.files._IN_CLOSE", 0)
        with pytest.raises(OSError, match="inotify_add_watch"):
            files.add(file)
    assert file.gone
    assert fds() == before


def test_one_inode_is_one_file(files: Files) -> None:
    """Two servers may show one file for their regions: then only one of the two devices can be open."""
    file, fd = opened(files)
    with pytest.raises(OSError, match="busy"):
        files.add(File("second", 0, os.dup(fd)))
    assert files.find(os.fstat(fd).st_dev, os.fstat(fd).st_ino) is file
    os.close(fd)
    files.settle()
    assert file.gone
