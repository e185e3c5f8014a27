"""Files with a saved state: private from their first moment, and there as a whole or not at all."""

import os
from pathlib import Path

import pytest

from mdev_user.daemon.state_file import new_state_file, open_state_file
from mdev_user.errors import InvalidValue


def test_a_new_file_is_its_owners_only_and_takes_its_place_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"the one before")
    before = os.umask(0)
    try:
        with new_state_file(path) as file:
            file.write(b"state")
            (unfinished,) = set(tmp_path.iterdir()) - {path}
            assert unfinished.stat().st_mode & 0o777 == 0o600
            assert path.read_bytes() == b"the one before"
    finally:
        os.umask(before)
    assert path.read_bytes() == b"state"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_fails_leaves_the_file_of_before(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"the one before")
    with pytest.raises(ZeroDivisionError), new_state_file(path) as file:
        file.write(b"half of it" * (1 // 0))
    assert path.read_bytes() == b"the one before"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_but_a_plain_file_is_replaced_or_read(tmp_path: Path) -> None:
    link, fifo = tmp_path / "link", tmp_path / "fifo"
    link.symlink_to("elsewhere")
    os.mkfifo(fifo)
    for path in (tmp_path, link, fifo):
        with pytest.raises(InvalidValue, match="is no plain file"), new_state_file(path):
            pass
    for path in (tmp_path, fifo, Path("/dev/null")):
        with pytest.raises(InvalidValue, match="is no plain file"), open_state_file(path):
            pass
    assert not (tmp_path / "elsewhere").exists()
