"""The display kernel: Debian's full flavour, which has the DRM drivers that the rig's cloud flavour is built without.

Beside these it keeps what a guest needs for a disk with the Mesa image.

It is three times the rig's in download, so that it comes for itself: who needs no display never waits for it.
"""

import lzma
import time
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from mdev_user.guests.archive import Archive, debian_mirror, unpack
from mdev_user.guests.boot_image import install_kernel
from mdev_user.guests.cached import CachedFolder, Progress, cache_folder, cost, read_stamp, write_stamp
from mdev_user.guests.rig import RELEASE, Rig, check_machine

METAPACKAGE = "linux-image-amd64"

_FOLDER = "display-2"
_MODULES = (
    *("drivers/gpu", "drivers/video", "drivers/virtio/virtio_dma_buf.ko.xz"),
    *("drivers/block/virtio_blk.ko.xz", "fs/squashfs"),
)
"""Of the full kernel's 100 MB."""
VIRTIO_GPU = (
    *("drivers/gpu/drm/drm", "drivers/gpu/drm/drm_kms_helper", "drivers/gpu/drm/drm_shmem_helper"),
    *("drivers/virtio/virtio_dma_buf", "drivers/gpu/drm/virtio/virtio-gpu"),
)
"""The modules of virtio's GPU, in the order in which one needs the other."""
DISK = ("drivers/block/virtio_blk", "fs/squashfs/squashfs")
"""The modules of a disk like the Mesa image."""


@dataclass(frozen=True, slots=True)
class DisplayKernel:
    """A kernel to boot, and the folder of its modules for displays (``kernel/drivers/gpu/...``, each .ko.xz)."""

    image: Path
    release: str
    modules: Path

    def of(self, rig: Rig) -> Rig:
        """The rig with this kernel in place of its own."""
        return replace(rig, kernel=self.image, kernel_release=self.release, modules=self.modules)

    def module(self, name: str) -> bytes:
        """What a guest inserts: one of the modules by its path without ``.ko.xz`` (``drivers/gpu/drm/drm``)."""
        return lzma.decompress((self.modules / f"kernel/{name}.ko.xz").read_bytes())


class Stamp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a complete folder says of itself; written last."""

    kernel: str
    release: str


def find_display_kernel(cache: Path | None = None) -> DisplayKernel | None:
    """The kernel if this machine has it already; the network is never asked."""
    folder = (cache or cache_folder()) / _FOLDER
    stamp = read_stamp(folder, Stamp)
    if stamp is None:
        return None
    return DisplayKernel(folder / stamp.kernel, stamp.release, folder / "modules")


def build_display_kernel(progress: Progress, cache: Path | None = None) -> DisplayKernel:
    """The kernel, fetched now if it is not there (see ``CachedFolder.build``).

    Raises:
        RigError: it cannot be had here; the text says why.
    """
    return CachedFolder(_FOLDER, "the display kernel", find_display_kernel, _fill).build(progress, cache)


def _fill(work: Path, progress: Progress) -> None:
    check_machine()
    started = time.monotonic()
    archive = Archive(work / "apt", debian_mirror(), (RELEASE,))
    progress(f"display kernel: reading the package lists of {RELEASE}")
    archive.update()
    progress("display kernel: fetching the full kernel (about 110 MB)")
    kernel = archive.fetch_alone(archive.dependency(METAPACKAGE, "linux-image-"))
    unpack([kernel, *archive.fetch(("zstd",), RELEASE)], work / "unpacked")
    folder = work / "display"
    stamp = _install(work / "unpacked", folder)
    write_stamp(folder, stamp)
    progress(f"display kernel ready: Linux {stamp.release}, {cost(folder, started)}")


def _install(unpacked: Path, folder: Path) -> Stamp:
    """Keep what displays need."""
    (all_modules,) = (unpacked / "usr/lib/modules").iterdir()
    for each in _MODULES:
        (folder / "modules/kernel" / each).parent.mkdir(parents=True, exist_ok=True)
        (all_modules / "kernel" / each).rename(folder / "modules/kernel" / each)
    return Stamp(kernel=install_kernel(unpacked, folder), release=all_modules.name)
