"""The options that many commands have. Nothing is imported here that takes long: `run` is started often."""

from pathlib import Path
from typing import Annotated

import typer


def _folder(text: str) -> Path:
    if not text:  # a Path of it is the working directory
        raise typer.BadParameter("expected a folder, given ''")
    return Path(text)


RunDirOption = Annotated[
    Path | None,
    typer.Option(
        parser=_folder,  # which looks at nothing there: others may only pass through root's
        metavar="<path>",
        help="The daemon's run directory (default: $MDEV_USER_RUN_DIR, which `run` sets, then /run/mdev-user for root, "
        "else $XDG_RUNTIME_DIR/mdev-user).",
    ),
]
