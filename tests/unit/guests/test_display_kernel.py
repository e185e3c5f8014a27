"""The display kernel: what a build keeps of the package, and when it is there; nothing is fetched here."""

from pathlib import Path

import pytest

from mdev_user.guests import display_kernel
from mdev_user.guests.cached import Progress
from mdev_user.guests.display_kernel import build_display_kernel, find_display_kernel
from mdev_user.guests.rig import Rig

RELEASE = "6.12.1-amd64"


def package(folder: Path) -> Path:
    """The full kernel as it is unpacked."""
    modules = folder / "usr/lib/modules" / RELEASE / "kernel"
    for name in ("drivers/gpu/drm/drm.ko.xz", "drivers/video/aperture.ko.xz", "drivers/net/dummy.ko.xz"):
        (modules / name).parent.mkdir(parents=True, exist_ok=True)
        (modules / name).write_text(name)
    (folder / "boot").mkdir()
    (folder / f"boot/vmlinuz-{RELEASE}").write_text("kernel")
    return folder


def test_no_kernel_is_found_in_an_empty_cache(tmp_path: Path) -> None:
    assert find_display_kernel(tmp_path) is None


def test_build_keeps_what_displays_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(work: Path, _progress: Progress) -> None:
        folder = work / "display"
        stamp = display_kernel._install(package(work / "unpacked"), folder)
        (folder / "stamp.json").write_text(f'{{"release": "{stamp}"}}')

    monkeypatch.setattr(display_kernel, "_fill", fill)
    built = build_display_kernel(lambda _line: None, tmp_path)
    assert built == find_display_kernel(tmp_path)
    assert (built.release, built.image.read_text()) == (RELEASE, "kernel")
    kept = sorted(path.name for path in built.modules.rglob("*.xz"))
    assert kept == ["aperture.ko.xz", "drm.ko.xz"]
    rig = Rig(("qemu",), "1", tmp_path / "vmlinux", "cloud", tmp_path / "modules", tmp_path / "busybox", ("sh",))
    changed = built.of(rig)
    assert (changed.kernel, changed.kernel_release, changed.modules) == (built.image, RELEASE, built.modules)
    assert changed.busybox == rig.busybox


@pytest.mark.parametrize("stamp", ["", "{", "[]", '{"release": 1}'])
def test_damaged_stamp_is_no_kernel(tmp_path: Path, stamp: str) -> None:
    (tmp_path / "display-1").mkdir()
    (tmp_path / "display-1/stamp.json").write_text(stamp)
    assert find_display_kernel(tmp_path) is None
