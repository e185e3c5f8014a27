"""libvirtd in its own root folder within ``mdev-user run``, and virsh that talks to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

from mdev_user.guests.management import ManagementRoot
from tools.inside import SECONDS, Done, Inside

_ENVIRONMENT = {"LC_ALL": "C"}  # its root folder has no other language


@dataclass(frozen=True)
class Libvirt:
    """A running libvirtd. Calling it is a command of virsh."""

    inside: Inside
    root: ManagementRoot
    log: Path

    def __call__(self, *arguments: object, stdin: str = "") -> Done:
        virsh = ("chroot", self.root.path, "/usr/bin/virsh", "-q", "-c", "nodedev:///system")
        return self.inside.run(*virsh, *arguments, stdin=stdin, env=_ENVIRONMENT)

    def text(self, *arguments: object, stdin: str = "") -> str:
        """What virsh prints, which must be without an error."""
        done = self(*arguments, stdin=stdin)
        assert (done.status, done.err) == (0, ""), f"{done}\n{self.log.read_text()}"
        return done.out.strip()

    def devices(self, *arguments: object) -> list[str]:
        """The names of the node devices."""
        return self.text("nodedev-list", *arguments).split()


@contextmanager
def libvirtd(inside: Inside, root: ManagementRoot, folder: Path) -> Iterator[Libvirt]:
    """libvirtd with folders of its own for what it writes; it has ended when this is left."""
    folders = {name: folder / name.replace("/", "-") for name in ("run", "var", "tmp", "etc/mdevctl.d")}
    for name, own in folders.items():
        own.mkdir(parents=True)
        inside.bind(own, root.path / name)
    (folders["var"] / "run").symlink_to("/run")
    for name in ("sys", "dev", "proc"):
        inside.bind(Path("/") / name, root.path / name, recursive=True)
    libvirt = Libvirt(inside, root, folder / "log")
    pid = inside.start("chroot", root.path, "/usr/sbin/libvirtd", log=libvirt.log, env=_ENVIRONMENT)
    try:
        deadline = monotonic() + SECONDS
        while libvirt("uri").status != 0:
            assert monotonic() < deadline, libvirt.log.read_text()
            sleep(0.05)
        yield libvirt
    finally:
        inside.stop(pid)  # with which status is its own affair: one that was still busy beginning has another
