"""The options that many commands have. Nothing is imported here that takes long: `run` is started often."""

from pathlib import Path
from typing import Annotated

import typer

RunDirOption = Annotated[
    Path | None,
    typer.Option(
        readable=False,  # by who may only pass through it, as everybody may through root's
        help="The daemon's run directory (default: $MDEV_USER_RUN_DIR, which `run` sets, then /run/mdev-user for root, "
        "else $XDG_RUNTIME_DIR/mdev-user).",
    ),
]
