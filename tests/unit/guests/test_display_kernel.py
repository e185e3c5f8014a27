"""The display kernel: what a build keeps of the package, and when it is there; nothing is fetched here."""

import lzma
import struct
from pathlib import Path

import pytest

from mdev_user.guests import display_kernel
from mdev_user.guests.cached import Progress, write_stamp
from mdev_user.guests.display_kernel import DISK, build_display_kernel, find_display_kernel
from mdev_user.guests.rig import Rig

RELEASE = "6.12.1-amd64"


def bzimage(payload: bytes) -> bytes:
    """A boot image whose payload is packed by a packer that nobody here has."""
    image = bytearray(2048)
    image[0x1F1] = 1
    image[0x202:0x208] = b"HdrS" + struct.pack("<H", 0x020F)
    struct.pack_into("<II", image, 0x248, 0, len(payload) + 4)
    return bytes(image) + payload


def package(folder: Path) -> Path:
    """The full kernel as it is unpacked."""
    modules = folder / "usr/lib/modules" / RELEASE / "kernel"
    kept = ("drivers/gpu/drm/drm", "drivers/video/aperture", "drivers/virtio/virtio_dma_buf", *DISK)
    for name in (*kept, "drivers/virtio/virtio_mem", "drivers/net/dummy"):
        (modules / name).parent.mkdir(parents=True, exist_ok=True)
        (modules / f"{name}.ko.xz").write_bytes(lzma.compress(name.encode()))
    (folder / "boot").mkdir()
    (folder / f"boot/vmlinuz-{RELEASE}").write_bytes(bzimage(b"kernel"))
    return folder


def test_no_kernel_is_found_in_an_empty_cache(tmp_path: Path) -> None:
    assert find_display_kernel(tmp_path) is None


def test_build_keeps_what_displays_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(work: Path, _progress: Progress) -> None:
        folder = work / "display"
        stamp = display_kernel._install(package(work / "unpacked"), folder)
        write_stamp(folder, stamp)

    monkeypatch.setattr(display_kernel, "_fill", fill)
    built = build_display_kernel(lambda _line: None, tmp_path)
    assert built == find_display_kernel(tmp_path)
    assert (built.release, built.image.name) == (RELEASE, "vmlinuz")
    kept = sorted(path.name for path in built.modules.rglob("*.xz"))
    assert kept == [f"{name}.ko.xz" for name in ("aperture", "drm", "squashfs", "virtio_blk", "virtio_dma_buf")]
    assert built.module("drivers/gpu/drm/drm") == b"drivers/gpu/drm/drm"
    rig = Rig(("qemu",), "1", tmp_path / "vmlinux", "cloud", tmp_path / "modules", tmp_path / "busybox", ("sh",))
    changed = built.of(rig)
    assert (changed.kernel, changed.kernel_release, changed.modules) == (built.image, RELEASE, built.modules)
    assert changed.busybox == rig.busybox


@pytest.mark.parametrize("stamp", ["", "{", "[]", '{"release": 1}'])
def test_damaged_stamp_is_no_kernel(tmp_path: Path, stamp: str) -> None:
    (tmp_path / "display-2").mkdir()
    (tmp_path / "display-2/stamp.json").write_text(stamp)
    assert find_display_kernel(tmp_path) is None
