"""Packages of another Debian release, fetched by a private apt and unpacked into a folder.

Nothing here needs root or touches the machine's own packages: apt gets its own state, cache and sources, and an empty
list of installed packages, so that it resolves every dependency. The mirror is the one the machine already uses, and
proxies and credentials stay those of its apt configuration. Signatures are checked against Debian's own keyring.
"""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mdev_user.errors import MdevUserError

KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)
_TOOLS = ("apt-get", "apt-cache", "dpkg-deb")
_COMMAND_SECONDS = 900  # a bound for one apt command, download included

# The machine's apt configuration is read first, so its hooks are cleared here: they belong to the machine's packages,
# and most fail without root. The sandbox user could not reach a cache below a home folder.
_CONFIGURATION = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
#clear APT::Default-Release;
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::State::extended_states "{folder}/extended_states";
Dir::Cache "{folder}/cache";
Dir::Cache::archives "archives";
Dir::Log "{folder}/log";
Dir::Etc::sourcelist "{folder}/archive.sources";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Architecture "amd64";
APT::Architectures "amd64";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
APT::Keep-Downloaded-Packages "true";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
"""


class RigError(MdevUserError):
    """The guest rig cannot be had on this machine; the text says in one line why."""


def debian_mirror() -> str:
    """The URI of the Debian mirror that this machine's apt uses."""
    system = platform.freedesktop_os_release()
    codename = system.get("VERSION_CODENAME", "") if system.get("ID") == "debian" else ""
    # Not `apt-get indextargets`: it is silent about what was never downloaded, as in a fresh container.
    mirror = choose_mirror(_run([_tool("apt-get"), "update", "--print-uris"]), codename)
    if mirror is None:
        message = f"apt on this machine ({system.get('PRETTY_NAME', 'unknown')}) has no source that is a Debian mirror"
        raise RigError(message)
    return mirror


def choose_mirror(uris: str, codename: str) -> str | None:
    """The mirror among what ``apt-get update --print-uris`` prints, preferably the one with ``codename``."""
    by_release: dict[str, str] = {}
    for mirror, release in re.findall(r"'(\S+)/dists/([^/'\s]+)/InRelease'", uris):
        by_release.setdefault(release, mirror)
    ranks = (codename, "stable", "oldstable", "testing", "unstable", "sid")
    return next((by_release[release] for release in ranks if release in by_release), None)


class Archive:
    """Suites of a Debian mirror, seen through a private apt whose whole state lies in ``folder``."""

    def __init__(self, folder: Path, mirror: str, suites: Sequence[str]) -> None:
        self._folder = folder
        for part in ("state/lists/partial", "cache/archives/partial", "log"):
            (folder / part).mkdir(parents=True)
        (folder / "status").touch()
        (folder / "archive.sources").write_text(
            f"Types: deb\nURIs: {mirror}\nSuites: {' '.join(suites)}\nComponents: main\nSigned-By: {_keyring()}\n"
        )
        self._configuration = folder / "apt.conf"
        self._configuration.write_text(_CONFIGURATION.format(folder=folder))

    def update(self) -> None:
        """Fetch the package lists and check their signatures."""
        self._apt("apt-get", "update")

    def fetch(self, packages: Sequence[str], release: str) -> list[Path]:
        """``packages`` and all they depend on, preferably of ``release``: the paths of their .deb files."""
        before = self._fetched()
        self._apt("apt-get", "install", "--yes", "--download-only", f"--target-release={release}", *packages)
        return sorted(self._fetched() - before)

    def fetch_alone(self, package: str) -> Path:
        """``package`` without its dependencies: the path of its .deb file."""
        target = self._folder / "alone"
        target.mkdir(exist_ok=True)
        self._apt("apt-get", "download", package, folder=target)
        return next(target.glob(f"{package}_*.deb"))

    def dependency(self, package: str, prefix: str) -> str:
        """The package beginning with ``prefix`` that the metapackage ``package`` stands for."""
        for line in self._apt("apt-cache", "depends", package).splitlines():
            kind, _, name = line.strip().partition(": ")
            if kind == "Depends" and name.startswith(prefix):
                return name
        message = f"the archive's {package} depends on no {prefix}* package"
        raise RigError(message)

    def _fetched(self) -> set[Path]:
        return set((self._folder / "cache/archives").glob("*.deb"))

    def _apt(self, program: str, *arguments: str, folder: Path | None = None) -> str:
        return _run([_tool(program), "-c", str(self._configuration), *arguments], folder)


def unpack(packages: Iterable[Path], target: Path) -> None:
    """Put the files of ``packages`` below ``target``; no script of theirs is run."""
    target.mkdir(exist_ok=True)
    for package in packages:
        _run([_tool("dpkg-deb"), "-x", str(package), str(target)])


def explain(output: str) -> str:
    """The one line of an apt command's ``output`` that says why it failed."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    rank: tuple[Callable[[str], bool], ...] = (
        lambda line: line.startswith("Err:"),
        lambda line: line.startswith("E:"),
        lambda line: line.startswith("W:"),
        bool,
    )
    for chosen in rank:
        for number, line in enumerate(lines):
            if chosen(line):
                # apt tells the reason for an "Err:" line on the line below it
                return re.sub(r"^Err:\d+ ", "", " ".join(lines[number : number + 2])) if chosen is rank[0] else line
    return "it said nothing"


def missing_tool() -> str | None:
    """The first of the programs needed here that this machine lacks."""
    return next((tool for tool in _TOOLS if shutil.which(tool) is None), None)


def _keyring() -> Path:
    for keyring in KEYRINGS:
        if os.access(keyring, os.R_OK):
            return keyring
    message = f"{KEYRINGS[0]} is missing, so the archive's signatures cannot be checked: install debian-archive-keyring"
    raise RigError(message)


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        message = f"{name} is missing: the rig is made of Debian packages, which only Debian's tools can fetch"
        raise RigError(message)
    return path


def _run(command: Sequence[str], folder: Path | None = None) -> str:
    # stdin is empty, so that nothing can stop at a question
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        message = f"{Path(command[0]).name} did not end within {_COMMAND_SECONDS} s"
        raise RigError(message) from None
    if done.returncode:
        message = f"{Path(command[0]).name} failed: {explain(done.stdout)}"
        raise RigError(message)
    return done.stdout
