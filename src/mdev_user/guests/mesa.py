"""The Mesa image: unmodified Debian Mesa with kmscube and eglinfo, as a disk that any number of guests share read-only.

A guest mounts it and enters it by chroot. Of the packages it has what these programs load, and the drivers that Mesa
itself chooses when it runs: virgl where the display has 3D, and llvmpipe.
"""

import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mdev_user.guests.archive import Archive, RigError, debian_mirror, unpack
from mdev_user.guests.cached import CachedFolder, Progress, cache_folder, cost, read_stamp, write_stamp
from mdev_user.guests.foreign import LIBRARIES, interpreter, libraries
from mdev_user.guests.rig import RELEASE, check_machine

_FOLDER = "mesa-1"
_IMAGE = "root.squashfs"
_PACKAGES = ("libgl1-mesa-dri", "libegl-mesa0", "libgles2", "mesa-utils-bin", "kmscube", "squashfs-tools")
_PROGRAMS = ("usr/bin/kmscube", "usr/bin/eglinfo.x86_64-linux-gnu")
_DRIVERS = tuple(
    f"{LIBRARIES}/{name}" for name in ("libEGL_mesa.so.0", "libGLESv2.so.2", "libGL.so.1", "libgcc_s.so.1")
)
"""What is loaded by name when a program runs; libgcc by the C library, when a thread is cancelled."""
_DATA = ("usr/share/glvnd", "usr/share/drirc.d", f"{LIBRARIES}/gbm", f"{LIBRARIES}/dri")
_EMPTY = ("dev", "proc", "run", "sys", "tmp")
_LINKS = {
    "bin": "usr/bin",
    "lib": "usr/lib",
    "lib64": LIBRARIES,
    "usr/bin/eglinfo": "eglinfo.x86_64-linux-gnu",
}
_PACK_SECONDS = 300
_PACKED = ("-comp", "lz4")
"""Half the size, and an emulated processor reads it as fast as what is not packed."""
_SAME_EACH_TIME = ("-all-root", "-no-xattrs", "-mkfs-time", "0", "-all-time", "0", "-processors", "1")


@dataclass(frozen=True, slots=True)
class MesaImage:
    """A squashfs with ``/usr/bin/kmscube`` and ``eglinfo``, and Mesa's version."""

    path: Path
    version: str

    def arguments(self) -> list[str]:
        """The QEMU arguments that make it the guest's first virtio disk, ``/dev/vda``."""
        drive = f"if=none,id=mesa,format=raw,readonly=on,file.locking=off,file={self.path}"
        return ["-drive", drive, "-device", "virtio-blk-pci,drive=mesa"]


class Stamp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a complete folder says of itself; written last."""

    version: str


def find_mesa_image(cache: Path | None = None) -> MesaImage | None:
    """The image if this machine has it already; the network is never asked."""
    folder = (cache or cache_folder()) / _FOLDER
    stamp = read_stamp(folder, Stamp)
    return None if stamp is None else MesaImage(folder / _IMAGE, stamp.version)


def build_mesa_image(progress: Progress, cache: Path | None = None) -> MesaImage:
    """The image, built now if it is not there (see ``CachedFolder.build``).

    Raises:
        RigError: it cannot be had here; the text says why.
    """
    return CachedFolder(_FOLDER, "the Mesa image", find_mesa_image, _fill).build(progress, cache)


def _fill(work: Path, progress: Progress) -> None:
    check_machine()
    started = time.monotonic()
    archive = Archive(work / "apt", debian_mirror(), (RELEASE,))
    progress(f"Mesa image: reading the package lists of {RELEASE}")
    archive.update()
    progress("Mesa image: fetching Mesa, kmscube, eglinfo and their libraries (about 62 MB)")
    packages = archive.fetch(_PACKAGES, RELEASE)
    progress(f"Mesa image: unpacking {len(packages)} packages")
    unpacked = work / "unpacked"
    unpack(packages, unpacked)
    root = work / "root"
    _install(unpacked, root)
    folder = work / "mesa"
    folder.mkdir()
    _pack(unpacked, root, folder / _IMAGE)
    stamp = Stamp(version=mesa_version(root))
    write_stamp(folder, stamp)
    progress(f"Mesa image ready: Mesa {stamp.version}, {cost(folder, started)}")


def mesa_version(root: Path) -> str:
    """``25.0.7-2+deb13u1``: what the name of its one library of drivers says."""
    (library,) = (root / LIBRARIES).glob("libgallium-*.so")
    return library.stem.removeprefix("libgallium-")


def _install(unpacked: Path, root: Path) -> None:
    """Copy the programs and exactly what they load."""
    for name in _EMPTY:
        (root / name).mkdir(parents=True)
    for name in _DATA:
        shutil.copytree(unpacked / name, root / name, symlinks=True)
    for name in (*_PROGRAMS, *_DRIVERS, *_libraries(unpacked)):
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(unpacked / name, target)
    for name, place in _LINKS.items():
        (root / name).symlink_to(place)


def _libraries(unpacked: Path) -> Iterator[str]:
    loaded_later = (f"{LIBRARIES}/gbm/dri_gbm.so", *_DRIVERS)
    wanted = (libraries([unpacked / LIBRARIES], unpacked / each) for each in (*_PROGRAMS, *loaded_later))
    for library in set().union(*wanted):
        yield str(library.relative_to(unpacked))


def _pack(unpacked: Path, root: Path, image: Path) -> None:
    command = [*interpreter(unpacked / LIBRARIES), str(unpacked / "usr/bin/mksquashfs")]
    done = subprocess.run(
        [*command, str(root), str(image), "-quiet", "-no-progress", *_PACKED, *_SAME_EACH_TIME],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_PACK_SECONDS,
        check=False,
    )
    if done.returncode:
        message = f"the Mesa image cannot be packed: {done.stdout.strip()}"
        raise RigError(message)
