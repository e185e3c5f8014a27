"""``show --registers``, ``show --unmodelled`` and ``trace``: what is printed, in each form, whatever is in it."""

import json
from collections.abc import Callable
from datetime import datetime

import pytest
from typer.testing import CliRunner, Result

from mdev_user import cli
from mdev_user.cli.trace_lines import shown
from mdev_user.daemon.run_dir import RunDir
from mdev_user.vfio.inspection import Change, Decoded, FieldValue, TouchedRegister, TraceLine
from unit.daemon.fake_operations import USED, FakeOperations

Run = Callable[..., Result]
UNKNOWN = "99999999-9999-4999-8999-999999999999"


@pytest.fixture
def run(run_dir: RunDir) -> Run:
    return lambda *arguments: CliRunner().invoke(cli.app, [*map(str, arguments), "--run-dir", str(run_dir.path)])


# --- show --registers -------------------------------------------------------------------------------------------


def test_registers_are_a_table_of_values_and_fields(run: Run) -> None:
    result = run("show", USED, "--registers")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "PLACE       NAME            VALUE                       SEEN                     FIELDS",
        "BAR0+0x004  regs.status     0x00000081, 0xf00 computed                           "
        "busy=1 mode=FAST level=computed",
        "BAR0+0x008  regs.clock      computed",
        "BAR0+0x010  regs.divisor    0x0c                        while lcr.dlab, not now",
        r"            queued\x1b[31m  two",
        "                            lines",
    ]


def test_registers_are_json_with_the_same_names(run: Run) -> None:
    view = json.loads(run("show", USED, "--registers", "-o", "json").stdout)
    assert view["opened"] is True
    assert view["values"][0]["fields"][1] == {"name": "mode", "value": 1, "member": "FAST"}
    assert [each["value"] for each in view["values"]] == [0x81, None, 12, "two\nlines"]


def test_registers_are_names(run: Run) -> None:
    assert run("show", USED, "--registers", "-o", "name").stdout.splitlines()[:2] == ["regs.status", "regs.clock"]


@pytest.mark.parametrize("option", ["--registers", "--unmodelled"])
def test_what_is_shown_of_an_mdev_needs_one(run: Run, option: str) -> None:
    assert run("show", option).exit_code == 2
    unknown = run("show", UNKNOWN, option)
    assert unknown.exit_code == 1
    assert f"no mdev {UNKNOWN}" in unknown.stderr


def test_one_thing_is_shown_at_a_time(run: Run) -> None:
    assert run("show", USED, "--registers", "--unmodelled").exit_code == 2


# --- show --unmodelled ------------------------------------------------------------------------------------------


def test_what_is_missing_is_a_declaration(run: Run) -> None:
    assert run("show", USED, "--unmodelled").stdout.splitlines() == [
        "# class Regs; from mdev_user.driver import U16, U32, U64, UNIMPL, WO",
        "    unknown_0x40 = U32(0x40, UNIMPL)  # read 12 times",
        "    unknown_0x44 = U16(0x44, WO)  # written once",
        "    unknown_0x48 = U64(0x48)  # read 3 times, written 1,000 times",
        "    # and more: 3 are told at a time",
        "# There were more different accesses than are remembered; declare these, and look again.",
    ]


def test_what_is_missing_is_data_and_names_too(run: Run) -> None:
    found = json.loads(run("show", USED, "--unmodelled", "-o", "json").stdout)
    assert found["bars"][0]["registers"][0] == {
        "name": "unknown_0x40", "offset": 64, "size": 4, "reads": 12, "writes": 0,
    }  # fmt: skip
    assert run("show", USED, "--unmodelled", "-o", "name").stdout.split() == [
        "unknown_0x40",
        "unknown_0x44",
        "unknown_0x48",
    ]


# --- trace ------------------------------------------------------------------------------------------------------


def test_a_trace_ends_after_as_many_lines_as_were_asked_for(run: Run, operations: FakeOperations) -> None:
    result = run("trace", USED, "--count", 2)
    assert result.exit_code == 0, result.output
    assert result.stderr == f"tracing {USED}; Ctrl-C ends it\n"
    first, second = result.stdout.splitlines()
    assert first.endswith(r"opened by pid 7 (\x1b[31mqemu\n)")
    assert second.endswith("w regs.status = 0x00000081 (busy=1 mode=FAST) [1 interrupt]")
    assert operations.traces[0].closed.wait(20)


def test_a_traces_json_is_an_object_a_line(run: Run) -> None:
    lines = run("trace", USED, "--count", 2, "-o", "json").stdout.splitlines()
    assert json.loads(lines[0])["text"] == "pid 7 (\x1b[31mqemu\n)"
    assert json.loads(lines[1])["decoded"]["registers"][0]["name"] == "regs.status"


def test_a_trace_of_what_goes_ends_with_the_reason(run: Run, operations: FakeOperations) -> None:
    def begun(uuid: object) -> object:
        trace = trace_of(uuid)  # type: ignore[arg-type]  # as it is called
        trace.gone.set()
        trace.lines = []
        return trace

    trace_of, operations.trace = operations.trace, begun  # type: ignore[method-assign, assignment]  # a fake's
    result = run("trace", USED)
    assert result.exit_code == 1
    assert "the trace has ended: the mdev is gone" in result.stderr


@pytest.mark.parametrize("count", ["0", "-1", "many"])
def test_a_wrong_count_is_wrong_usage(run: Run, count: str) -> None:
    assert run("trace", USED, "--count", count).exit_code == 2


def line(kind: str = "read", **values: object) -> str:
    text = shown(TraceLine(kind=kind, time=0.25, **values))  # type: ignore[arg-type]  # as the cases say
    when, _space, rest = text.partition(" ")
    assert when == datetime.fromtimestamp(0.25).astimezone().strftime("%H:%M:%S.250000")
    return rest


STATUS = TouchedRegister("regs.status", 0x81, 4, fields=(FieldValue("busy", 1), FieldValue("level", 0x2A)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (line(region=7, offset=4, size=2, data="0600"), "r CONFIG+0x004 = 0x0006"),
        (line(region=12, offset=4, size=1, data="06"), "r REGION12+0x004 = 0x06"),
        (line(region=0, offset=4, size=4), "r BAR0+0x004, 4 bytes"),
        (line(region=0, offset=0, size=3, data="010203"), "r BAR0+0x000 = 0x030201"),
        (line(region=2, offset=0, size=4096, data="00" * 3), "r BAR2+0x000 = 00 00 00... (4096 bytes)"),
        (line(decoded=Decoded((STATUS,))), "r regs.status = 0x00000081 (busy=1 level=0x2a)"),
        (
            line("write", decoded=Decoded((TouchedRegister("a", 1, 1), TouchedRegister("b", 2, 2, skipped=6)))),
            "w a = 0x01, b+6 = 0x0002",
        ),
        (
            line(decoded=Decoded((STATUS,), (Change("x", "0", "1"),), (Change("y", "A", "B"),))),
            "r regs.status = 0x00000081 (busy=1 level=0x2a); x 0 -> 1; before it y A -> B",
        ),
        (
            line(region=0, offset=64, size=4, data="00000000", decoded=Decoded(unmodelled=True)),
            "r BAR0+0x040 = 0x00000000 [unmodelled]",
        ),
        (line(size=100, decoded=Decoded((STATUS,), left_out=True))[-14:], "[of 100 bytes]"),
        (line(region=0, size=4, text="no\x1b[0m\nway"), "r BAR0+0x000, 4 bytes [refused: no\x1b[0m\\nway]"),
        (line("job", text="compute"), "job compute is started"),
        (line("interrupt", count=3), "3 interrupts"),
        (line("interrupt", count=1), "1 interrupt"),
        (line("reset"), "reset"),
        (line("opened", text="pid 7"), "opened by pid 7"),
        (line("lost", count=12), "12 lines lost: they were read too slowly"),
        (line("of a later version"), "of a later version"),
    ],
)
def test_a_line_says_what_happened(text: str, expected: str) -> None:
    assert text == expected
