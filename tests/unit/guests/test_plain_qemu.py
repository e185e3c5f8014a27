"""Which QEMU without vfio-user is taken; nothing is fetched here."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from mdev_user.guests import plain_qemu
from mdev_user.guests.cached import write_stamp
from mdev_user.guests.plain_qemu import Stamp, find_plain_qemu, with_qemu
from mdev_user.guests.qemu import VFIO_PCI, VFIO_USER_PCI, Qemu
from mdev_user.guests.rig import Rig

RIG = Rig(("new",), "11.1.3", Path("kernel"), "6.12.0", Path("modules"), Path("busybox"), ("sh",))


def has(monkeypatch: pytest.MonkeyPatch, qemu: Qemu | None) -> None:
    def host_qemu(devices: Sequence[str]) -> Qemu | None:
        assert devices == (VFIO_PCI,)
        return qemu

    monkeypatch.setattr(plain_qemu, "host_qemu", host_qemu)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    (tmp_path / "plain-qemu-1").mkdir()
    write_stamp(tmp_path / "plain-qemu-1", Stamp(version="7.2.9"))
    return tmp_path


def test_nothing_is_found_where_nothing_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, None)
    assert find_plain_qemu(tmp_path) is None


def test_a_7_2_of_the_machine_is_taken(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Qemu(("/usr/bin/qemu-system-x86_64",), "7.2.22", VFIO_PCI)
    has(monkeypatch, own)
    assert find_plain_qemu(cache) == own


def test_another_qemu_of_the_machine_is_not(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, Qemu(("/usr/bin/qemu-system-x86_64",), "10.0.2", VFIO_PCI))
    found = find_plain_qemu(cache)
    assert found is not None
    assert found.version == "7.2.9"
    assert str(cache / "plain-qemu-1/qemu-system-x86_64") in found.command


def test_a_rig_is_the_same_but_for_its_qemu() -> None:
    other = with_qemu(RIG, Qemu(("old",), "7.2.9", VFIO_PCI))
    assert (other.qemu, other.qemu_version, other.device) == (("old",), "7.2.9", VFIO_PCI)
    assert (other.kernel, RIG.device) == (RIG.kernel, VFIO_USER_PCI)
