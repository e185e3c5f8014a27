"""What the users of one host may have it keep: each something for sure, and no one all of it."""

import resource
import threading

import pytest

from mdev_user.errors import TooManyFiles
from mdev_user.vfio_user.shares import ASSURED_FILES, MOST_MAPPED, HostShare, Share


def test_one_user_cannot_have_the_files_of_the_others() -> None:
    host = HostShare(files=100)
    greedy, other = Share(host), Share(host)
    greedy.take_files(ASSURED_FILES + 100)
    with pytest.raises(TooManyFiles, match="unmap some"):
        greedy.take_files(1)
    other.take_files(ASSURED_FILES)
    with pytest.raises(TooManyFiles):
        other.take_files(1)
    assert other.files == ASSURED_FILES


def test_what_is_given_back_is_there_for_all() -> None:
    host = HostShare(files=5)
    one, other = Share(host), Share(host)
    one.take_files(ASSURED_FILES + 5)
    one.give_files(3)
    other.take_files(ASSURED_FILES + 3)
    with pytest.raises(TooManyFiles):
        one.take_files(1)
    other.give_files(ASSURED_FILES + 3)
    one.give_files(ASSURED_FILES + 2)
    assert (host.files, one.files, other.files) == (5, 0, 0)


def test_a_host_gives_half_of_what_it_may_have_open() -> None:
    assert HostShare().files == resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2


def test_address_space_has_an_end_for_each_and_for_all() -> None:
    host = HostShare(mapped=MOST_MAPPED + 4096)
    one, other = Share(host), Share(host)
    assert one.take_space(MOST_MAPPED)
    assert not one.take_space(1)
    assert other.take_space(4096)
    assert not other.take_space(1)
    one.give_space(MOST_MAPPED)
    assert other.take_space(1)


def test_several_threads_take_and_give() -> None:
    host = HostShare(files=10_000)

    def churn() -> None:
        share = Share(host)
        for _ in range(300):
            share.take_files(ASSURED_FILES + 7)
            share.give_files(ASSURED_FILES + 7)

    threads = [threading.Thread(target=churn) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert host.files == 10_000
