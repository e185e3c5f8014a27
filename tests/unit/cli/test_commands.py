"""The commands against a real control socket: what they print in each form, and with which exit status they end."""

import json
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from uuid import UUID

import pytest
from typer.testing import CliRunner, Result

from mdev_user import __version__, cli
from mdev_user.daemon.client import Client, NoDaemon, Refused
from mdev_user.daemon.run_dir import RunDir
from mdev_user.daemon.views import ClientView
from mdev_user.guests.arguments import device_arguments, qemu_arguments
from mdev_user.units import GiB
from unit.daemon.fake_operations import USED, FakeOperations

FREE = UUID("83b8f4f2-509f-382f-3c1e-e6bfe0fa1001")

Run = Callable[..., Result]


@pytest.fixture
def run(run_dir: RunDir) -> Run:
    """Runs ``mdev-user`` with these arguments and this run directory; output in one piece, errors in another."""
    return lambda *arguments: CliRunner().invoke(cli.app, [*arguments, "--run-dir", str(run_dir.path)])


def lines(result: Result) -> list[list[str]]:
    assert result.exit_code == 0, result.output
    return [line.split() for line in result.stdout.splitlines()]


def test_types_is_a_table(run: Run) -> None:
    heading, row = lines(run("types"))
    assert heading == ["TYPE", "PARENT", "AVAILABLE", "API", "NAME", "DESCRIPTION"]
    assert row == ["mtty-1", "mtty", "23", "vfio-pci", "Single", "port", "serial", "one", "port"]


def test_list_tells_who_uses_an_mdev(run: Run) -> None:
    assert lines(run("list"))[1] == [str(USED), "mtty-1", "mtty", "active", "7", "qemu", "(pid", "42)"]


@pytest.mark.parametrize(("command", "name"), [("types", "mtty-1"), ("list", str(USED)), ("show", "mtty")])
def test_name_is_one_name_a_line(run: Run, command: str, name: str) -> None:
    assert run(command, "-o", "name").stdout == f"{name}\n"


def test_json_is_the_views(run: Run, operations: FakeOperations) -> None:
    assert json.loads(run("types", "-o", "json").stdout)[0]["available_instances"] == 23
    assert json.loads(run("list", "-o", "json").stdout)[0]["client"]["pid"] == 42
    assert json.loads(run("show", "-o", "json").stdout)["sysfs_reason"] == "no libfuse"
    assert json.loads(run("show", str(USED), "-o", "json").stdout)["counters"]["reads"] == 1234567


def test_a_table_is_neither_cut_nor_coloured_where_there_is_no_terminal(run: Run, operations: FakeOperations) -> None:
    operations.registered["x" * 300] = "y" * 300
    out = run("show").stdout
    assert "x" * 300 in out
    assert "y" * 300 in out
    assert "\x1b" not in out


def test_show_tells_all_of_an_mdev(run: Run) -> None:
    shown = {" ".join(line[:-1]): line[-1] for line in lines(run("show", str(USED)))}
    assert shown["reads"] == "1,234,567"
    assert shown["dma read bytes"] == "4,096"
    assert shown["guest errors"] == "1"
    assert shown["slow steps"] == "1"
    assert list(shown)[-2] == "frobs"  # what this version does not know comes last
    out = run("show", str(USED)).stdout
    assert out.index("\nreads ") < out.index("\nwrites ") < out.index("\ninterrupts ")
    assert "\nslowest step      write of BAR0 1.5 ms\n" in out
    assert "qemu (pid 42)" in out
    assert "read of 3 bytes at 0x10" in out
    assert "ValueError: boom" in out
    assert "Traceback" not in out
    assert "the guest's RAM is not shared" in out


def test_show_without_an_mdev_tells_of_the_daemon_and_its_parents(run: Run) -> None:
    out = run("show").stdout
    assert "mdev-user 0.1.0 (pid 99)" in out
    assert "not mounted: no libfuse" in out
    assert "registered" in out


def test_what_a_stranger_names_itself_does_not_reach_the_terminal(run: Run, operations: FakeOperations) -> None:
    client = ClientView(pid=1, name="\x1b[31m[red]\x9b\u202e", uid=0, unshared_memory=0)
    operations.created[FREE] = operations.view(FREE, client)
    for form in ("table", "json"):
        out = run("list", "-o", form).stdout
        assert all(character.isprintable() or character == "\n" for character in out)
    assert r"\x1b[31m[red]\x9b\u202e" in run("list").stdout


def test_create_prints_the_uuid(run: Run, operations: FakeOperations) -> None:
    given = run("create", "mtty-1", str(FREE))
    assert (given.exit_code, given.stdout) == (0, f"{FREE}\n")
    chosen = run("create", "mtty-1", "--parent", "mtty")
    assert UUID(chosen.stdout.strip()) in operations.created
    assert json.loads(run("create", "mtty-1", "-o", "json").stdout)["state"] == "active"


def test_remove_is_silent_when_done(run: Run, operations: FakeOperations) -> None:
    operations.created[FREE] = operations.view(FREE)
    result = run("remove", str(FREE))
    assert (result.exit_code, result.output) == (0, "")
    assert FREE not in operations.created


def test_remove_passes_wait_and_force(run: Run, operations: FakeOperations) -> None:
    assert run("remove", str(USED), "--wait", "1.5", "--force").exit_code == 0
    assert operations.removes == [(USED, 1.5, True)]


def test_register_sends_a_file_by_its_whole_path(
    run: Run, operations: FakeOperations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "card.py").touch()
    monkeypatch.chdir(tmp_path)
    assert run("register", "card.py:Card,name=c").exit_code == 0
    assert f"{tmp_path}/card.py:Card,name=c" in operations.registered


def test_unregister(run: Run, operations: FakeOperations) -> None:
    assert run("unregister", "mtty").exit_code == 0
    assert operations.registered == {}


def test_qemu_args_can_be_pasted_into_a_shell(run: Run, run_dir: RunDir, operations: FakeOperations) -> None:
    operations.created[FREE] = operations.view(FREE)
    path = str(run_dir.socket(FREE))
    assert shlex.split(run("qemu-args", str(FREE)).stdout) == qemu_arguments(path, GiB)
    asked = run("qemu-args", str(FREE), "--memory", "4g", "-o", "json").stdout
    assert json.loads(asked) == qemu_arguments(path, 4 * GiB)
    assert json.loads(asked)[-2:] == device_arguments(path)


REFUSED = [
    (["show", str(FREE)], f"no mdev {FREE} (ENODEV)"),
    (["create", "mtty-1", str(USED)], f"mdev {USED} exists (EEXIST)"),
    (["create", "mtty-9"], "no type mtty-9; there is mtty-1 (EINVAL)"),
    (["remove", str(USED), "--wait", "0.01"], f"mdev {USED} is in use by qemu (pid 42) (EBUSY)"),
    (["unregister", "a/b c"], "no parent a/b c (ENODEV)"),
    (["register", "mtty"], "parent mtty is registered (EEXIST)"),
]


@pytest.mark.parametrize(("arguments", "text"), REFUSED, ids=lambda value: value[0] if isinstance(value, list) else "")
def test_a_refusal_is_one_line_and_status_1(run: Run, arguments: list[str], text: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"mdev-user: {text}\n")


USAGE = [
    ["lst"],
    ["list", "-o", "xml"],
    ["show", "1234"],
    ["create"],
    ["create", "mtty-1", "notauuid"],
    ["remove", str(USED), "--wait", "-1"],
    ["remove", str(USED), "--wait", "nan"],
    ["qemu-args", str(USED), "--memory", "lots"],
    ["qemu-args", str(USED), "--memory", "0"],
    ["list", "extra"],
]


@pytest.mark.parametrize("arguments", USAGE, ids=" ".join)
def test_wrong_usage_is_status_2(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr


def test_an_unknown_command_is_answered_with_the_likeliest(run: Run) -> None:
    assert "no command 'lst'; did you mean 'list'?" in run("lst").stderr


def test_help_lists_every_command() -> None:
    result = CliRunner().invoke(cli.app, ["--help"])
    assert result.exit_code == 0
    for command in cli._COMMANDS:
        assert f" {command} " in result.stdout


def test_version() -> None:
    assert CliRunner().invoke(cli.app, ["--version"]).stdout == f"mdev-user {__version__}\n"


def test_no_daemon_says_how_to_start_one() -> None:
    result = CliRunner().invoke(cli.app, ["list", "--run-dir", "/nonexistent"])
    text = "no daemon at /nonexistent: start `mdev-user serve mtty`, or give its --run-dir DIR"
    assert (result.exit_code, result.stderr) == (1, f"mdev-user: {text}\n")


def test_a_dead_daemons_socket_is_no_daemon(run_dir: RunDir) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(run_dir.path / "dead.sock"))
    run_dir.control = run_dir.path / "dead.sock"
    with pytest.raises(NoDaemon, match="no daemon at"):
        Client(run_dir).types()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"", "hung up"),
        (b"SSH-2.0-x\r\n", "hung up"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "does not speak mdev-user's control API"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\n{}", "does not speak mdev-user's control API"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n[", "hung up"),
    ],
)
def test_a_stranger_at_the_socket_is_told_apart(run_dir: RunDir, answer: bytes, text: str) -> None:
    run_dir.control = run_dir.path / "other.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(run_dir.control))
        listener.listen()

        def answer_one() -> None:
            with listener.accept()[0] as peer:
                peer.recv(4096)
                peer.sendall(answer)

        thread = Thread(target=answer_one)
        thread.start()
        with pytest.raises((NoDaemon, Refused), match=text):
            Client(run_dir).types()
        thread.join(10)


def test_a_run_dir_too_long_is_refused_with_that_reason(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["list", "--run-dir", str(tmp_path / ("x" * 100))])
    assert result.exit_code == 1
    assert "is too long: expected at most" in result.stderr


def test_serve_refuses_a_wrong_configuration_before_anything_starts(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("restrat = 1")
    result = CliRunner().invoke(cli.app, ["serve", "--config", str(file), "--run-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert f"{file}: unknown key 'restrat'; did you mean 'restart'?" in result.stderr
    assert not (tmp_path / "devices").exists()


def test_listing_imports_no_server_and_no_other_command() -> None:
    code = (
        "import sys; from mdev_user import cli\n"
        "try: cli.app(['list', '--run-dir', '/nonexistent'])\n"
        "except SystemExit as end: assert end.code == 1\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    modules = set(done.stdout.split())
    assert "mdev_user.cli.list_mdevs" in modules
    assert not modules & {
        "uvicorn",
        "starlette",
        "anyio",
        "asyncio",
        "mfusepy",
        "mdev_user.cli.checks",
        "mdev_user.mdev",
    }


def test_serve_does_not_begin_with_a_loop_that_is_not_there(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["serve", "--run-dir", str(tmp_path)], env={"MDEV_USER_LOOP": "fast"})
    assert result.exit_code == 1
    assert "MDEV_USER_LOOP: expected native or python, given 'fast'" in result.output
