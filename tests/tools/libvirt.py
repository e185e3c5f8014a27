"""libvirtd in its own root folder within ``mdev-user run``, and virsh that talks to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

from mdev_user.guests.management import ManagementRoot
from tools.inside import SECONDS, Done, Inside

_ENVIRONMENT = {"LC_ALL": "C"}  # its root folder has no other language
_UDEV = Path("/run/udev")
"""By what is in it libudev sees that there is a udevd, without which it is deaf in a /dev that is no devtmpfs."""


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
    if _UDEV.is_dir():
        (folders["run"] / "udev").mkdir()
        inside.bind(_UDEV, root.path / "run/udev")
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
        # With which status is its own affair. libvirt 11.3 now and then never ends: a thread of its node devices waits
        # for a lock that another had when it ended.
        inside.stop(pid, seconds=3)
