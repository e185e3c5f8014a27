import platform
from pathlib import Path

import pytest

from mdev_user.guests import archive
from mdev_user.guests.archive import Archive, RigError, choose_mirror, explain

URIS = """\
'https://security.example/debian-security/dists/bookworm-security/InRelease' security_InRelease 0
'http://mirror.example/debian/dists/bookworm-updates/InRelease' updates_InRelease 0
'http://mirror.example/debian/dists/bookworm/InRelease' bookworm_InRelease 0
'http://mirror.example/debian/dists/bookworm/main/binary-amd64/Packages.xz' bookworm_Packages 0
'https://deb.vendor.example/node/dists/nodistro/InRelease' vendor_InRelease 0
"""


def test_the_mirror_is_the_one_with_the_machines_own_release() -> None:
    assert choose_mirror(URIS, "bookworm") == "http://mirror.example/debian"


def test_a_mirror_is_also_known_by_a_suite_that_only_debian_has() -> None:
    uris = "'http://mirror.example/debian/dists/unstable/InRelease' x 0\n"
    assert choose_mirror(uris, "") == "http://mirror.example/debian"


def test_another_distributions_mirror_is_not_taken() -> None:
    assert choose_mirror(URIS.replace("bookworm", "noble"), "") is None


def test_a_machine_that_is_not_debian_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_tool", lambda name: name)
    monkeypatch.setattr(archive, "_run", lambda command: URIS)
    system = {"ID": "ubuntu", "VERSION_CODENAME": "bookworm", "PRETTY_NAME": "Ubuntu 24.04"}
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: system)
    with pytest.raises(RigError, match=r"Ubuntu 24\.04.*no source that is a Debian mirror"):
        archive.debian_mirror()


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("Ign:1 http://m trixie\nErr:2 http://m trixie InRelease\n  Could not resolve 'm'\nE: Some failed", "http://m trixie InRelease Could not resolve 'm'"),  # noqa: E501
        ("Reading...\nE: Unable to locate package x\nE: other", "E: Unable to locate package x"),
        ("W: only a warning", "W: only a warning"),
        ("dpkg-deb: error: no space", "dpkg-deb: error: no space"),
        ("\n", "it said nothing"),
    ],
)  # fmt: skip
def test_a_failed_command_is_explained_in_one_line(output: str, reason: str) -> None:
    assert explain(output) == reason


def test_the_private_apt_touches_nothing_outside_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keyring = tmp_path / "keyring.gpg"
    keyring.touch()
    monkeypatch.setattr(archive, "KEYRINGS", (keyring,))
    folder = tmp_path / "apt"
    Archive(folder, "http://mirror.example/debian", ("one", "two"))
    for line in (folder / "apt.conf").read_text().splitlines():
        if line.startswith("Dir::"):
            assert f'"{folder}/' in line or '"/dev/null"' in line or line == 'Dir::Cache::archives "archives";'
    sources = (folder / "archive.sources").read_text()
    assert f"Signed-By: {keyring}\n" in sources
    assert "Suites: one two\n" in sources


def test_without_a_keyring_nothing_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "KEYRINGS", (tmp_path / "absent.gpg",))
    with pytest.raises(RigError, match=r"signatures cannot be checked: install debian-archive-keyring"):
        Archive(tmp_path / "apt", "http://mirror.example/debian", ("one",))


def test_a_command_that_cannot_be_found_is_a_rig_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert archive.missing_tool() == "apt-get"
    with pytest.raises(RigError, match="apt-get is missing"):
        archive.debian_mirror()
