"""The command ``mdev-user``: one file per command, and what they share.

Exit status: 0 done, 1 refused (the reason is on stderr), 2 wrong usage.
"""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typing_extensions import override

from mdev_user import __version__
from mdev_user.cli.arguments import explain
from mdev_user.cli.streams import flush, writing
from mdev_user.errors import MdevUserError

# Each command, and the module below this package with a function of the same name. Only the one that is called is
# imported: all of them together take as long to import as one of them to run.
_COMMANDS = {
    "serve": "serve",
    "stop": "stop",
    "types": "types",
    "list": "list_mdevs",
    "show": "show",
    "trace": "trace",
    "events": "events",
    "screenshot": "screenshot",
    "create": "create",
    "remove": "remove",
    "save": "save",
    "restore": "restore",
    "migrate": "migrate",
    "qemu-args": "qemu_args",
    "register": "register",
    "unregister": "unregister",
    "run": "run",
    "doctor": "doctor",
    "registers": "registers",
    "check": "check",
    "new": "new",
    "demo": "demo",
}

# What follows its command's name is that command's, options too.
_SETTINGS: dict[str, dict[str, bool]] = {"run": {"allow_interspersed_args": False}}


_LIKE = 0.65
"""How like what was typed a command is that is meant: `lst` and `list` are 0.86, `parents` and `events` 0.62."""

_Click = Any  # contexts and commands have the types of typer's private copy of click


class _Command(TyperCommand):
    """Says of a wrong argument what was expected and given."""

    @override
    def make_context(self, *args: Any, **settings: Any) -> _Click:  # Any: as click declares them
        with writing(), explain():
            return super().make_context(*args, **settings)


class _Commands(TyperGroup):
    """Imports commands when they are called, and turns our errors into a line on stderr and exit status 1."""

    @override
    def list_commands(self, ctx: _Click) -> list[str]:
        return list(_COMMANDS)

    @override
    def get_command(self, ctx: _Click, cmd_name: str) -> _Click:
        if cmd_name not in _COMMANDS:
            close = difflib.get_close_matches(cmd_name, _COMMANDS, n=1, cutoff=_LIKE)
            ctx.fail(f"no command {cmd_name!r}" + "".join(f"; did you mean {each!r}?" for each in close))
        module = _COMMANDS[cmd_name]
        single = typer.Typer(add_completion=False)
        single.command(cmd_name, cls=_Command, context_settings=_SETTINGS.get(cmd_name))(
            getattr(import_module(f"mdev_user.cli.{module}"), module)
        )
        return typer.main.get_command(single)

    @override
    def make_context(self, *args: Any, **settings: Any) -> _Click:  # Any: as click declares them
        with _telling(), writing():
            return super().make_context(*args, **settings)

    @override
    def invoke(self, ctx: _Click) -> _Click:
        with _telling():
            try:
                return super().invoke(ctx)
            finally:
                flush()


@contextmanager
def _telling() -> Iterator[None]:
    try:
        yield
    except MdevUserError as error:
        _print_error(str(error))
        raise typer.Exit(1) from None


app = typer.Typer(
    name="mdev-user",
    help="The Linux mediated-device (mdev) system in user space.",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """The entry point; ends the process with the exit status."""
    app()


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"mdev-user {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _print_error(text: str) -> None:
    from mdev_user.cli.output import print_error  # noqa: PLC0415 - rich is imported by who prints with it

    print_error(text)
