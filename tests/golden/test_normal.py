"""What two runs of one kernel do not have in common is taken out, and nothing else."""

import pytest

from golden.comparing import parts_of_answer, parts_of_events
from golden.normal import CDEV, NORMALISATIONS, SKIPPED, Normalisation, normal, skipped
from golden.races import RACES
from golden.transcript import STRETCHES, Answer, Step, read_events, read_steps

LISTING = "drwxr-xr-x    4 0        0                0 Nov 22 11:07 mdev_supported_types\n"


def shell(out: str, command: str = "ls -l") -> Step:
    return Step("step", ("sh", command), Answer(0, None, out))


def parts(kernel: str, ours: str, command: str = "ls -l") -> list[str]:
    return parts_of_answer(shell(kernel, command), Answer(0, None, ours))


OF_KERNEL = [each for each in NORMALISATIONS if each.name != CDEV]


@pytest.mark.parametrize("each", OF_KERNEL, ids=lambda each: each.name)
def test_every_normalisation_is_needed(each: Normalisation) -> None:
    assert any(each.applies(step, step.answer) != step.answer for step in read_steps())


def test_the_number_of_a_cdev_is_one_that_the_recorded_kernel_had_not() -> None:
    each = next(each for each in NORMALISATIONS if each.name == CDEV)
    assert all(each.applies(step, step.answer) == step.answer for step in read_steps())
    said = 'f 0444 4096 /sys/mtty/vfio-dev/vfio0/dev = "{}"\n'
    assert parts("", said.format("243:0\\n"), "tree") == []
    assert len(parts("", said.format("8:0\\n"), "tree")) == 1


def test_every_skip_is_needed() -> None:
    reasons = [skipped(step) for step in read_steps()]
    assert all(each in reasons for each in SKIPPED)


def test_normal_answers_stay_as_they_are() -> None:
    steps = read_steps()
    assert all(normal(step, normal(step, step.answer)) == normal(step, step.answer) for step in steps if not skip(step))


def skip(step: Step) -> bool:
    # what is left of these is no longer what the recorder wrote
    return step.cmd[0] in RACES or "/proc/uptime" in step.cmd[-1] or skipped(step) is not None


def test_another_date_is_no_difference() -> None:
    assert parts(LISTING, LISTING.replace("Nov 22 11:07", "Jan  1  2031")) == []


@pytest.mark.parametrize("ours", ["drwxr-x--x", "drwxrwxr-x"])
def test_another_mode_is_one(ours: str) -> None:
    assert len(parts(LISTING, LISTING.replace("drwxr-xr-x", ours))) == 2


@pytest.mark.parametrize(
    ("old", "new"),
    [("    4 ", "    5 "), ("  0 Nov", "  9 Nov"), (" 0        0 ", " 0        7 "), ("_types", "_type")],
)
def test_another_owner_size_link_count_or_name_is_one(old: str, new: str) -> None:
    assert LISTING.count(old) == 1
    assert len(parts(LISTING, LISTING.replace(old, new))) == 2


def test_folders_of_power_management_are_no_difference() -> None:
    step = next(step for step in read_steps() if step.name == "good-lsl")
    assert "power" in step.answer.out
    assert "power" not in normal(step, step.answer).out
    assert "sample_mdev_dev" in normal(step, step.answer).out


def test_the_number_of_names_counts_without_them() -> None:
    step = Step("step", ("ls", "/sys/x"), Answer(2, None, "power\nuevent\n"))
    assert parts_of_answer(step, Answer(1, None, "uevent\n")) == []
    assert parts_of_answer(step, Answer(2, None, "uevent\n")) == ["rc 1 -> 2"]


def test_how_long_a_step_waited_is_no_difference_and_that_it_waited_is_one() -> None:
    command = "cut -d' ' -f1 /proc/uptime; x; cut -d' ' -f1 /proc/uptime"
    assert parts("77.47\nrc=0\n79.43\n", "1.00\nrc=0\n1.50\n", command) == []
    assert parts("77.47\nrc=0\n79.43\n", "1.00\nrc=0\n1.01\n", command) != []


def test_a_race_without_a_winner_is_a_difference() -> None:
    for name in ("race-same-uuid", "race-remove", "race-distinct-40", "rate-mtty-1"):
        step = next(step for step in read_steps() if step.name == name)
        assert parts_of_answer(step, step.answer) == []
        worse = step.answer.out.replace("20 ", "19 ").replace("=20", "=19").replace("=21", "=22").replace("s=0", "s=1")
        assert parts_of_answer(step, Answer(0, None, worse)) != []


def test_numbers_of_events_are_no_difference_and_their_order_is_one() -> None:
    first, *_, last = read_events()["create-good"]
    assert parts_of_events([first, last], [{**first, "SEQNUM": "1"}, {**last, "SEQNUM": "2"}]) == []
    assert parts_of_events([first, last], [last, first]) != []
    assert parts_of_events([first, last], [first]) != []


def test_events_are_of_steps_or_of_a_stretch_of_them() -> None:
    steps, stretches = {step.name for step in read_steps()}, {each.recorded for each in STRETCHES}
    assert read_events().keys() <= steps | stretches
    assert {name for each in STRETCHES for name in (each.first, each.last)} <= steps
