"""The kernel's VFIO transcript is executed again through real system calls: nothing differs but what we mean."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest

from core import core_skip
from golden.differences import MOST_OF_VFIO, Difference, complaints, read_vfio
from golden.summary import TOLD, summary
from golden.vfio.replay import Replayed, compare, replay
from golden.vfio.steps import read_vfio_steps, skipped
from golden.vfio.table import device_of, find
from mdev_user.testing.daemon import RunningDaemon

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    if os.geteuid() != 0:
        core_skip("the recorder was root, whose /dev/vfio/N is 0600")
    with RunningDaemon("mtty", "mdpy", "mbochs") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def done(daemon: RunningDaemon) -> list[Replayed]:
    return replay(read_vfio_steps(), daemon)


@pytest.fixture(scope="module")
def found(done: list[Replayed]) -> Mapping[str, Sequence[str]]:
    return compare(done)


@pytest.fixture(scope="module")
def rows() -> list[Difference]:
    return read_vfio([step.name for step in read_vfio_steps() if skipped(step) is None])


def test_every_step_is_executed(
    done: list[Replayed],
    found: Mapping[str, Sequence[str]],
    rows: list[Difference],
    record_property: Callable[[str, object], None],
) -> None:
    record_property(TOLD, f"VFIO: {summary(read_vfio_steps(), found, rows, skipped)}")
    assert [each.step for each in done] == read_vfio_steps()


def test_nothing_differs_but_what_we_mean(found: Mapping[str, Sequence[str]], rows: list[Difference]) -> None:
    wrong = complaints(found, rows, MOST_OF_VFIO)
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


def test_every_step_has_one_meaning() -> None:
    steps = read_vfio_steps()
    assert len({step.name for step in steps}) == len(steps) == 1354
    assert [step.name for step in steps if find(step) is None] == []


# --- negative controls ----------------------------------------------------------------------------------------------


BROKEN = """
import errno
from mdev_user.uapi import claims, group
claims.EBUSY = errno.EIO
group.abi.GROUP_VIABLE = 0
"""


def test_what_is_broken_is_named(daemon: RunningDaemon, rows: list[Difference]) -> None:
    steps = [each for each in read_vfio_steps() if device_of(each) == "mdpy"]
    first = next(index for index, each in enumerate(steps) if each.name == "mdpy/get-device-fd")
    found = compare(replay(steps[:first], daemon, preamble=BROKEN))
    assert {name: parts for name, parts in found.items() if parts} == {
        "mdpy/group-open-second": ["errno EBUSY -> EIO"],
        "mdpy/group-status-0": ["flags 0x1 -> 0x0"],
        "mdpy/group-status-1": ["flags 0x3 -> 0x2"],
    }
    assert any(each.startswith("mdpy/group-open-second differs, and no row") for each in complaints(found, rows))
