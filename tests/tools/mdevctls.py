"""The mdevctls that we have, each with definitions and scripts of its own: none touches the machine's."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mdev_user.guests.management import ManagementRoot
from mdev_user.testing.daemon import RunningDaemon
from tools.inside import SECONDS, Done, Inside

_ENVIRONMENT = {"RUST_BACKTRACE": "0", "RUST_LIB_BACKTRACE": "0"}  # else errors come with addresses in mdevctl

_SCRIPTS = Path("/usr/lib/mdevctl")  # from 1.3 on; before, they are beside the definitions


@dataclass(frozen=True)
class Mdevctl:
    """One mdevctl: which it is, how it is run, and where its definitions and its callout scripts lie."""

    name: str
    call: Callable[..., Done]
    definitions: Path
    callouts: Path

    def __call__(self, *arguments: object, stdin: str = "") -> Done:
        return self.call(*arguments, stdin=stdin)


def of_the_machine(inside: Inside, folder: Path) -> Mdevctl:
    """Debian 12's 1.2.0 (or whatever the machine has), through ``mdev-user run``."""
    definitions = _definitions(folder)
    inside.bind(definitions, Path("/etc/mdevctl.d"))
    callouts = _scripts(definitions / "scripts.d")
    if _SCRIPTS.is_dir():
        callouts = _scripts(folder / "mdevctl/scripts.d")
        inside.bind(folder / "mdevctl", _SCRIPTS)
    return Mdevctl("the machine's", _caller(inside, "mdevctl"), definitions, callouts)


def of_the_root(inside: Inside, root: ManagementRoot, folder: Path) -> Mdevctl:
    """Debian 13's 1.4.0 in its own root folder, through ``mdev-user run``."""
    definitions, scripts = _definitions(folder), folder / "mdevctl"
    callouts = _scripts(scripts / "scripts.d")
    for what, where in {definitions: "etc/mdevctl.d", scripts: "usr/lib/mdevctl"}.items():
        inside.bind(what, root.path / where)
    for name in ("sys", "dev", "proc"):
        inside.bind(Path("/") / name, root.path / name, recursive=True)
    return Mdevctl("Debian 13's", _caller(inside, "chroot", root.path, "/usr/bin/mdevctl"), definitions, callouts)


def with_env_root(daemon: RunningDaemon, root: ManagementRoot, folder: Path) -> Mdevctl:
    """Debian 13's 1.4.0 with MDEVCTL_ENV_ROOT=RUN/root: without ``run``, namespaces and privileges."""
    definitions, scripts = _definitions(folder), folder / "mdevctl"
    callouts = _scripts(scripts / "scripts.d")
    for what, where in {definitions: "etc/mdevctl.d", scripts: "usr/lib/mdevctl"}.items():
        link = daemon.root / where
        link.unlink()
        link.symlink_to(what)

    def call(*given: object, stdin: str) -> Done:
        done = subprocess.run(
            [*root.command("mdevctl"), *map(str, given)],
            input=stdin,
            capture_output=True,
            text=True,
            env={"MDEVCTL_ENV_ROOT": str(daemon.root), "PATH": "/usr/bin:/bin", **_ENVIRONMENT},
            timeout=SECONDS,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return Mdevctl("Debian 13's, MDEVCTL_ENV_ROOT", call, definitions, callouts)


def _caller(inside: Inside, *command: object) -> Callable[..., Done]:
    return lambda *given, stdin: inside.run(*command, *given, stdin=stdin, env=_ENVIRONMENT)


def _definitions(folder: Path) -> Path:
    definitions = folder / "definitions"
    definitions.mkdir(parents=True)
    return definitions


def _scripts(folder: Path) -> Path:
    for kind in ("callouts", "notifiers"):
        (folder / kind).mkdir(parents=True)
    return folder / "callouts"
