"""What a build puts into the Mesa image, when the image is there, and how a guest gets it; nothing is fetched here."""

from pathlib import Path

import pytest

from mdev_user.guests import mesa
from mdev_user.guests.archive import RigError
from mdev_user.guests.cached import Progress, write_stamp
from mdev_user.guests.foreign import LIBRARIES
from mdev_user.guests.mesa import MesaImage, Stamp, build_mesa_image, find_mesa_image


def unpacked(work: Path) -> Path:
    """What Debian's packages would leave, with one file that nothing needs."""
    folder = work / "unpacked"
    data = [f"{name}/file" for name in mesa._DATA]
    libraries = [f"{LIBRARIES}/{name}" for name in ("libone.so.1", "libgallium-25.0.7-2.so")]
    for name in (*mesa._PROGRAMS, *mesa._DRIVERS, *data, *libraries, "usr/share/doc/README"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def two(folders: list[Path], _binary: Path) -> set[Path]:
        return {folders[0] / name for name in ("libone.so.1", "libgallium-25.0.7-2.so")}

    monkeypatch.setattr(mesa, "libraries", two)


def test_root_has_the_programs_and_what_they_load_and_nothing_else(tmp_path: Path) -> None:
    root = tmp_path / "root"
    mesa._install(unpacked(tmp_path), root)
    assert (root / "bin/kmscube").read_text() == "usr/bin/kmscube"
    assert (root / "bin/eglinfo").resolve().name == "eglinfo.x86_64-linux-gnu"
    assert (root / "lib64/libone.so.1").is_file()  # where a program looks for its interpreter
    assert (root / "usr/share/glvnd/file").is_file()
    assert {"dev", "proc", "run", "sys", "tmp"} <= {each.name for each in root.iterdir()}
    assert not (root / "usr/share/doc").exists()
    assert mesa.mesa_version(root) == "25.0.7-2"


def test_built_image_is_found_and_is_a_disk_that_guests_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(work: Path, _progress: Progress) -> None:
        (work / "mesa").mkdir()
        (work / "mesa" / mesa._IMAGE).touch()
        write_stamp(work / "mesa", Stamp(version="25.0.7-2"))

    monkeypatch.setattr(mesa, "_fill", fill)
    assert find_mesa_image(tmp_path) is None
    image = build_mesa_image(lambda _line: None, tmp_path)
    assert find_mesa_image(tmp_path) == image == MesaImage(tmp_path / mesa._FOLDER / mesa._IMAGE, "25.0.7-2")
    assert "readonly=on" in image.arguments()[1]
    assert f"file={image.path}" in image.arguments()[1]


def test_packer_that_fails_is_told_with_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesa, "interpreter", lambda _folder: ("sh", "-c", "echo no room; exit 1"))
    with pytest.raises(RigError, match="cannot be packed: no room"):
        mesa._pack(tmp_path, tmp_path / "root", tmp_path / "image")


@pytest.mark.parametrize("stamp", ["", "{", "[]", '{"version": 1}'])
def test_damaged_stamp_is_no_image(tmp_path: Path, stamp: str) -> None:
    (tmp_path / mesa._FOLDER).mkdir()
    (tmp_path / mesa._FOLDER / "stamp.json").write_text(stamp)
    assert find_mesa_image(tmp_path) is None
