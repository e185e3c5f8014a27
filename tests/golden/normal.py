"""What two runs of one kernel do not have in common: taken out of both sides before they are compared."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from golden.transcript import Answer, Step

Uevent = Mapping[str, str]


@dataclass(frozen=True)
class Normalisation:
    """One thing that is not compared, and why."""

    name: str
    reason: str
    applies: Callable[[Step, Answer], Answer]


@dataclass(frozen=True)
class Skipped:
    """Steps that are not compared at all."""

    pattern: str
    """Of the step's name."""
    reason: str


SKIPPED = (
    Skipped(r"dmesg", "the kernel's log"),
    Skipped(r".*-times", "when a writer began and ended"),
    Skipped(r"good-(stat|read)-power/control", "power/ folders: runtime power management of the kernel"),
)


def skipped(step: Step) -> Skipped | None:
    return next((each for each in SKIPPED if re.fullmatch(each.pattern, step.name)), None)


def normal(step: Step, answer: Answer) -> Answer:
    """The answer without what is not compared."""
    for each in NORMALISATIONS:
        answer = each.applies(step, answer)
    return answer


def normal_event(event: Uevent) -> Uevent:
    """The variables of a uevent without those that are not compared."""
    return {name: value for name, value in event.items() if name not in NO_VARIABLES and not _is_cdev(name, event)}


def _is_cdev(name: str, event: Uevent) -> bool:
    """Whether it is the node of a VFIO device, of which a kernel tells that has CONFIG_IOMMUFD. The recorded had not.

    The row `cdev` says so of the nodes themselves.
    """
    if name != "DEVNAME" or event["SUBSYSTEM"] != "vfio-dev":
        return False
    return event[name] == f"vfio/devices/{event['DEVPATH'].rpartition('/')[2]}"


NO_VARIABLES: Mapping[str, str] = {
    "SEQNUM": "counts from when the machine was started",
    "MAJOR": "of device nodes: whatever was free",
    "MINOR": "of device nodes: whatever was free",
}


# --- how each is taken out ------------------------------------------------------------------------------------------


def _lines(pattern: str, replacement: str) -> Callable[[Step, Answer], Answer]:
    """In the texts of shell steps."""
    compiled = re.compile(pattern, re.MULTILINE)

    def applies(step: Step, answer: Answer) -> Answer:
        if step.cmd[0] != "sh":
            return answer
        return replace(answer, out=compiled.sub(replacement, answer.out))

    return applies


def _without_power(step: Step, answer: Answer) -> Answer:
    if step.cmd[0] == "ls" and "power\n" in answer.out.splitlines(keepends=True):
        return replace(answer, rc=answer.rc - 1, out=re.sub(r"^power\n", "", answer.out, flags=re.MULTILINE))
    if step.cmd[0] in {"tree", "sh"}:
        return replace(answer, out=_POWER.sub("", answer.out))
    return answer


_POWER = re.compile(
    "|".join(
        (
            r"^[dfl] \d{4} (?:\d+ )?\S*/power(?:/\S*)?(?: .*)?\n",  # tree
            r"^(?:[d-][r-][w-]\S{7}\s.*[ /])?power\n",  # ls, ls -l: the folder itself
            r"^[d-][r-]\S{8}\s.*/power/\S*\n",  # ls -l FILES: what is in it
            r"\n\S*/power:\ntotal 0\n(?:[-d][r-]\S{8}\s.*\n)*",  # ls -lR: its own part
        )
    ),
    re.MULTILINE,
)


CDEV = "number of a cdev"


def _without_cdev(step: Step, answer: Answer) -> Answer:
    if step.cmd[0] not in {"tree", "sh"}:
        return answer
    return replace(answer, out=_CDEV_DEVNAME.sub(r'\1""', _CDEV_NUMBER.sub("", answer.out)))


_CDEV_NUMBER = re.compile(
    r"^f 0444 4096 \S*/vfio-dev/vfio\d+/dev = \"243:\d+\\n\"\n"  # tree
    r"|^-r--r--r-- .* dev\n"  # ls -l of its folder
    r"|^-r--r--r-- .*/vfio-dev/vfio\d+/dev\n",
    re.MULTILINE,
)
_CDEV_DEVNAME = re.compile(
    r"^(f 0644 4096 \S*/vfio-dev/(vfio\d+)/uevent = )\"MAJOR=243\\nMINOR=\d+\\nDEVNAME=vfio/devices/\2\\n\"$",
    re.MULTILINE,
)


def _uptime(step: Step, answer: Answer) -> Answer:
    """Two lines of /proc/uptime around something: what remains is whether it had to wait."""
    if "/proc/uptime" not in step.cmd[1]:
        return answer
    before, after = (float(each) for each in _UPTIME.findall(answer.out))
    waited = "waited" if after - before > _WAITED else "did not wait"
    return replace(answer, out=_UPTIME.sub(waited, answer.out))


_UPTIME = re.compile(r"^\d+\.\d\d$", re.MULTILINE)
_WAITED = 0.2
"""Seconds."""


def _race(step: Step, answer: Answer) -> Answer:
    if step.cmd[0] not in _OF_RACE:
        return answer
    return replace(answer, out=_OF_RACE[step.cmd[0]](answer.out))


def _of_removes(out: str) -> str:
    """How many rounds had a winner, which errors the others got, and how many creates worked."""
    rounds = sum(int(number) for number in re.findall(r"rounds_with_[12]_ok=(\d+)", out))
    errors = sorted({name for name, _ in re.findall(r"\b(E\w+)=(\d+)", out)} - {"ENOENT", "ENODEV"})
    return f"rounds={rounds} other_errors={errors} {''.join(re.findall('create:ok=.*', out))}"


def _of_rate(out: str) -> str:
    """How many creates and removes there were, and how many failed."""
    return "".join(re.findall(r"n=\d+ errors=\d+", out))


_OF_RACE: Mapping[str, Callable[[str], str]] = {"race-remove": _of_removes, "rate": _of_rate}

NORMALISATIONS = (
    Normalisation("power", "power/ folders are the kernel's runtime power management", _without_power),
    Normalisation(
        "power's link",
        "a directory's link count counts its power/ folder",
        _lines(r"^(drwxr-xr-x +)3( .* (?:\S*/)?(?:vfio\d+|vfio/\d+))$", r"\g<1>2\2"),
    ),
    Normalisation(
        "date",
        "when a node was made",
        _lines(r"^([bcdl-][r-][w-]\S{7} .*) [A-Z][a-z]{2} [ \d]\d (?:\d\d:\d\d| \d{4}) ", r"\1 DATE "),
    ),
    Normalisation(
        "device number", "majors and minors are whatever was free", _lines(r"^(c\S{9} .*) \d+, +\d+ ", r"\1 N, N ")
    ),
    Normalisation(
        CDEV,
        "a VFIO device has one, and says so in sysfs, where CONFIG_IOMMUFD is set: the row `cdev` tells of it",
        _without_cdev,
    ),
    Normalisation("dmesg", "the kernel's log", _lines(r"^\[ *\d+\.\d+\] .*\n", "")),
    Normalisation("uptime", "timing; that a step had to wait is compared", _uptime),
    Normalisation(
        "writer",
        "the process that waits is the recorder's own program; what counts is the state in which ps shows it",
        _lines(r"^ *\d+ (\S+) +.*-remove-blocking\b.*$", r"PID \1 WRITER"),
    ),
    Normalisation(
        "busybox",
        "the recorder's busybox says its version in a usage text, and that a command of -c is line 0",
        _lines(r"^BusyBox v\S+ \(.*\) |(?<=^sh: )line 0: ", ""),
    ),
    Normalisation("race", "which writer came when, and how long it took; winners and errors are compared", _race),
)
