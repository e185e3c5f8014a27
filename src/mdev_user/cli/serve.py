"""``mdev-user serve``: run the daemon."""

from pathlib import Path
from typing import Annotated

import typer

from mdev_user.cli.background import OPTION, serve_in_background
from mdev_user.cli.output import RunDirOption
from mdev_user.daemon.config import Given, LogLevel, Reload, load_config
from mdev_user.daemon.listening import take_sockets
from mdev_user.daemon.run_dir import RunDir

ParentArguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PARENT...",
        help="Parents to register, each DRIVER[,key=value...] or FILE.py:CLASS[,key=value...]; "
        "name= is the parent's name, host= the process it shares, busy_poll= for how many microseconds it looks for "
        "the next access before it sleeps, the rest are the driver's options.",
        show_default=False,
    ),
]


def serve(
    parents: ParentArguments = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="A TOML configuration.")] = None,
    run_dir: RunDirOption = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="Load a parent's FILE.py again when it changes, while guests run.")
    ] = False,
    fd: Annotated[
        list[str] | None,
        typer.Option(
            "--fd",
            metavar="NAME=N",
            help="A listening UNIX socket to serve, too: NAME is control, or an mdev's UUID; N is its file descriptor. "
            "Sockets of systemd's socket activation are taken by themselves.",
            show_default=False,
        ),
    ] = None,
    background: Annotated[
        bool,
        typer.Option(
            OPTION,
            help="Return when the daemon serves, and leave it running; it logs to the file log in its run directory. "
            "`mdev-user stop` ends it.",
        ),
    ] = False,
    log_level: Annotated[LogLevel | None, typer.Option(help="The least severe message logged (default: info).")] = None,
) -> None:
    """Run the daemon until `mdev-user stop`, SIGTERM or Ctrl-C. It logs to stderr."""
    loaded = load_config(
        config,
        Given(
            run_dir=run_dir,
            log_level=log_level,
            reload=Reload.CHANGED if reload else None,
            parents=tuple(parents or ()),
        ),
    )
    if background:
        serve_in_background(RunDir(loaded.run_dir))
    lent = take_sockets(fd or ())
    # `--help` imports this file; the web server would take it half a second.
    from mdev_user.daemon.front import serve as serve_front  # noqa: PLC0415
    from mdev_user.vfio_user.loops import chosen  # noqa: PLC0415 - as above

    chosen()  # what it raises would end every host
    raise typer.Exit(serve_front(loaded, lent))
