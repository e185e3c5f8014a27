"""The kernel's transcript is executed again, step by step, and nothing differs but what we mean (differences.toml)."""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from core import core_skip
from golden.differences import complaints, read
from golden.replay import Replay, Replayed, compare
from golden.summary import TOLD, summary
from golden.transcript import Answer, read_events, read_steps
from mdev_user.guests.rig import Rig, find_rig

pytestmark = pytest.mark.fuse

_ALONE = ("unshare", "--mount", "--pid", "--fork", "true")


@pytest.fixture(scope="module")
def rig() -> Rig:
    """What the replay needs: root, as whom the recorder did what it did, namespaces and a busybox."""
    if os.geteuid() != 0:
        core_skip("the steps of the kernel's transcript are root's: chown, mount, and a /sys of its own")
    if shutil.which("unshare") is None or subprocess.run(_ALONE, check=False).returncode:
        core_skip(f"no mount namespace can be made here ({' '.join(_ALONE)})")
    rig = find_rig()
    if rig is None:
        core_skip("no static busybox: build the guest rig with `python -m mdev_user.guests`")
    return rig


@pytest.fixture(scope="module")
def done(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> list[Replayed]:
    return Replay(rig, tmp_path_factory.mktemp("machine")).run(read_steps())


@pytest.fixture(scope="module")
def found(done: list[Replayed]) -> Mapping[str, Sequence[str]]:
    return compare(done, read_events())


def test_every_step_is_executed(
    done: list[Replayed], found: Mapping[str, Sequence[str]], record_property: Callable[[str, object], None]
) -> None:
    record_property(TOLD, summary(read_steps(), found, read()))
    assert [each.step for each in done] == read_steps()


def test_nothing_differs_but_what_we_mean(found: Mapping[str, Sequence[str]]) -> None:
    wrong = complaints(found, read())
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


# --- negative controls ------------------------------------------------------------------------------------------


FEW = ("load-core", "load-mtty", "create-good", "create-dup-same-type")
WRONG_ERRNO = """
from mdev_user.errors import NoSpace
from mdev_user.mdev import bus
bus.AlreadyExists = NoSpace
"""
LOST_EVENT = """
from mdev_user.mdev.events import EventKind
from mdev_user.sysfs import uevents
del uevents._UEVENTS[EventKind.VFIO_ADDED]
"""


@pytest.mark.parametrize(
    ("preamble", "step", "part"),
    [
        pytest.param(WRONG_ERRNO, "create-dup-same-type", "errno EEXIST -> ENOSPC", id="errno"),
        pytest.param(LOST_EVENT, "create-good", "event - ACTION=add DEVPATH=/devices/virtual/", id="event"),
    ],
)
def test_what_is_broken_is_named(rig: Rig, tmp_path: Path, preamble: str, step: str, part: str) -> None:
    steps = [each for each in read_steps() if each.name in FEW]
    found = compare(Replay(rig, tmp_path, preamble).run(steps), read_events())
    assert [name for name in FEW[1:] if found[name]] == [step]
    assert len(found[step]) == 1
    assert found[step][0].startswith(part)
    assert any(each.startswith(f"{step} differs") for each in complaints(found, read()))


def test_another_text_and_another_value_are_seen(done: list[Replayed]) -> None:
    whole = [Replayed(each.step, each.answer, each.events) for each in done]
    index = next(number for number, each in enumerate(whole) if each.step.name == "good-read-uevent")
    whole[index].answer = Answer(13, None, "DRIVER=mttyx\n")
    assert compare(whole, read_events())["good-read-uevent"] == [
        "rc 12 -> 13",
        "out - DRIVER=mtty",
        "out + DRIVER=mttyx",
    ]
