"""The tree mounted in a temporary directory, and taken away again whatever the test did."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mdev_user.sysfs import mountpoint
from mdev_user.sysfs.mount import Mount
from unit.sysfs.scene import Scene


class Mounted:
    """A scene and where it is mounted."""

    def __init__(self, scene: Scene, root: Path, mount: Mount) -> None:
        self.scene = scene
        self.root = root
        self.mount = mount

    def __truediv__(self, path: str) -> Path:
        return self.root / path

    def names(self, path: str) -> list[str]:
        return sorted(each.name for each in (self.root / path).iterdir())


@contextmanager
def temporary_mountpoint() -> Iterator[Path]:
    """Short, and none of pytest's folders: it removes them recursively, and a mount may be in the way."""
    root = Path(tempfile.mkdtemp(prefix="mdev-user-", dir="/tmp"))
    try:
        yield root
    finally:
        mountpoint.detach(root)
        root.rmdir()


@contextmanager
def mounted_scene(**options: int) -> Iterator[Mounted]:
    with temporary_mountpoint() as root:
        scene = Scene()
        mount = Mount(scene.tree, root, **options)
        try:
            mount.mount()
            yield Mounted(scene, root, mount)
        finally:
            scene.driver.release_all()
            mount.unmount()
