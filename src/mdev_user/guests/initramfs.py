"""The guest's whole user space: busybox, a link for each of its applets, the files of a test, and our /init."""

from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import PurePosixPath

from mdev_user.guests import cpio

_FOLDERS = ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp")


def build_initramfs(busybox: bytes, applets: Iterable[str], files: Mapping[str, bytes] | None = None) -> bytes:
    """An uncompressed initramfs; ``files`` maps paths in the guest to their bytes (kernel modules, test data).

    Uncompressed, since the emulated CPU would take longer to inflate it than QEMU takes to copy it. The applets' links
    are made here because ``busybox --install`` takes half a second of an emulated guest's boot.
    """
    extra = {path.strip("/"): data for path, data in (files or {}).items()}
    entries = [
        *map(cpio.folder, _folders(extra)),
        cpio.program("bin/busybox", busybox),
        *(cpio.link(f"bin/{applet}", "busybox") for applet in applets if applet != "busybox"),
        cpio.program("init", init_script()),
        *(cpio.plain_file(path, data) for path, data in extra.items()),
    ]
    return cpio.archive(entries)


def init_script() -> bytes:
    """The guest's /init (init.sh beside this file)."""
    return resources.files(__package__).joinpath("init.sh").read_bytes()


def _folders(files: Iterable[str]) -> list[str]:
    parents = {str(parent) for path in files for parent in PurePosixPath(path).parents}
    return sorted({*_FOLDERS, *parents} - {"."})
