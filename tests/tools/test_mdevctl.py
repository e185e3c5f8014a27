"""mdevctl, unmodified: Debian 12's and Debian 13's do the same with our tree, and each does what it says."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import core_skip
from mdev_user.guests.management import ManagementRoot
from mdev_user.testing.daemon import RunningDaemon
from tools.conftest import VGPU
from tools.inside import Inside
from tools.mdevctls import Mdevctl, of_the_machine, of_the_root, with_env_root
from tools.transcript import Step, parse, record

pytestmark = [pytest.mark.fuse, pytest.mark.usefixtures("no_mdevs_left")]

TRANSCRIPT = tuple(parse(Path(__file__).with_name("mdevctl.txt").read_text()))
FIRST, SECOND = (f"c0ffee00-0000-4000-8000-00000000000{number}" for number in (5, 6))
GPU = "4d44:00:01.0"

# Debian 13's words are those of the transcript. Each row: a step, what 1.2.0 says instead, and why.
WORDS_OF_1_2 = (
    (
        "start -u nonsense -p mtty -t mtty-1",
        """\
! error: Invalid value "nonsense" for '--uuid <UUID>': invalid character: expected an optional prefix of `urn:uuid:` \
followed by [0-9a-zA-Z], found `n` at 1
! For more information try --help
[2]
""",
        "its libraries' words for a wrong argument",
    ),
    (
        f"list -v -u {FIRST}",
        f"""\
{FIRST} {GPU} nvidia-223 manual (defined)
  Attrs:
    @{{0}}: {{"vgpu/limit":"30"}}
    @{{1}}: {{"title":"first"}}
""",
        "of an active device it also lists the attributes that are only in its definition",
    ),
    (
        f"stop -u {FIRST}",
        f"""\
! Error: Error removing device {FIRST}
! Caused by:
!     No such file or directory (os error 2)
[1]
""",
        "it does not look before it removes",
    ),
)


@pytest.fixture(scope="module")
def mdevctls(
    both_parents: RunningDaemon,
    inside: Inside,
    management_root: ManagementRoot,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Mdevctl, ...]:
    """Debian 12's through ``run``, Debian 13's through ``run``, and that with MDEVCTL_ENV_ROOT."""
    if shutil.which("mdevctl") is None:
        core_skip("no mdevctl: `scripts/install-system-packages test` installs it")
    folder = tmp_path_factory.mktemp("mdevctl")
    return (
        of_the_machine(inside, folder / "machine"),
        of_the_root(inside, management_root, folder / "root"),
        with_env_root(both_parents, management_root, folder / "env"),
    )


def play(mdevctl: Mdevctl, daemon: RunningDaemon) -> list[Step]:
    return list(record(TRANSCRIPT, mdevctl, daemon.sys))


def version(mdevctl: Mdevctl) -> str:
    return mdevctl("--version").text.split()[1]


def in_words_of_1_2() -> Iterator[Step]:
    """The transcript as 1.2.0 has it; a row replaces the last step with its command."""
    rows = {f"mdevctl {command}": said for command, said, _why in WORDS_OF_1_2}
    replaced = {step.command: number for number, step in enumerate(TRANSCRIPT) if step.command in rows}
    assert replaced.keys() == rows.keys(), "a row without its step"
    for number, step in enumerate(TRANSCRIPT):
        if replaced.get(step.command) == number:
            assert rows[step.command] != step.said, f"a row without a difference: {step.command}"
            yield Step(step.command, rows[step.command])
        else:
            yield step


def test_debian_13s_mdevctl_does_what_the_transcript_says(
    both_parents: RunningDaemon, mdevctls: tuple[Mdevctl, ...]
) -> None:
    _machine, root, env_root = mdevctls
    assert version(root) == version(env_root) == "1.4.0"
    assert play(root, both_parents) == list(TRANSCRIPT)


def test_it_does_the_same_without_run_by_its_own_root_variable(
    both_parents: RunningDaemon, mdevctls: tuple[Mdevctl, ...]
) -> None:
    assert play(mdevctls[2], both_parents) == list(TRANSCRIPT)


def test_debian_12s_mdevctl_does_the_same_in_its_own_words(
    both_parents: RunningDaemon, mdevctls: tuple[Mdevctl, ...]
) -> None:
    machine = mdevctls[0]
    expected = list(in_words_of_1_2()) if version(machine).startswith("1.2.") else list(TRANSCRIPT)
    assert play(machine, both_parents) == expected


def test_a_tree_that_swallows_what_is_written_would_be_noticed(management_root: ManagementRoot, tmp_path: Path) -> None:
    swallow = "from mdev_user.host.remote import RemoteParent; RemoteParent.store = lambda *_: None"
    with RunningDaemon("mtty", f"{VGPU},name={GPU}", preamble=swallow) as daemon:
        played = play(with_env_root(daemon, management_root, tmp_path), daemon)
        wrong = [step.command for step, wanted in zip(played, TRANSCRIPT, strict=True) if step != wanted]
    assert wrong[:2] == [f"cat bus/mdev/devices/{FIRST}/{name}" for name in ("vgpu/limit", "title")]


CALLOUT = """\
#!/bin/sh
# Answers for the parents of one type, refuses to start one UUID, and writes down what it was asked.
json=$(while read -r line || [ -n "$line" ]; do printf '%s' "$line"; done)
echo "$* $json" >> "${0%/*}/asked"
case "$*" in
*"-e get -a capabilities"*) exit 2 ;;
*"-t nvidia-223 -e get -a attributes"*) echo '[{"vgpu/limit": "42"}]' ;;
*"-e pre -a start"*"-u SECOND"*) echo "not this one" >&2; exit 1 ;;
esac
"""


def test_callout_scripts_are_asked_alike_and_have_their_say(
    both_parents: RunningDaemon, mdevctls: tuple[Mdevctl, ...]
) -> None:
    asked = []
    for mdevctl in mdevctls:
        script = mdevctl.callouts / "ours.sh"
        script.write_text(CALLOUT.replace("SECOND", SECOND))
        script.chmod(0o755)
        assert mdevctl("start", "-u", FIRST, "-p", GPU, "-t", "nvidia-223").text == ""
        refused = mdevctl("start", "-u", SECOND, "-p", GPU, "-t", "nvidia-223")
        assert (refused.status, "not this one" in refused.err) == (1, True)
        assert mdevctl("define", "-u", FIRST).text == ""
        assert '{"vgpu/limit":"42"}' in mdevctl("list", "-d", "-v", "-u", FIRST).text  # what the script said it has
        assert mdevctl("stop", "-u", FIRST).text == ""
        assert mdevctl("undefine", "-u", FIRST).text == ""
        script.unlink()
        log = [line.split() for line in (mdevctl.callouts / "asked").read_text().splitlines()]
        of_device = [words for words in log if "capabilities" not in words]  # which 1.4 asks before it asks the rest
        asked.append([(words[3], words[5], words[7]) for words in of_device if words[3] != "get"])
        assert [words[3:14] for words in of_device if words[3] == "get"] == [
            ["get", "-a", "attributes", "-s", "none", "-u", FIRST, "-p", GPU]
        ]
        assert "".join(of_device[0][12:]) == '{"mdev_type":"nvidia-223","start":"manual","attrs":[]}'
    assert asked[0] == asked[1] == asked[2]
    assert asked[0] == [
        ("pre", "start", "none"), ("post", "start", "success"), ("pre", "start", "none"),
        *((when, action, result) for action in ("define", "stop", "undefine")
          for when, result in (("pre", "none"), ("post", "success"))),
    ]  # fmt: skip
