"""Entering a namespace: what is said where that cannot be, and what is asked of the system where it can."""

import errno
import os
from pathlib import Path

import pytest

from mdev_user.errors import MountError
from mdev_user.sysfs import mountpoint, namespace
from mdev_user.sysfs.namespace import Surroundings, enter
from mdev_user.sysfs.syscalls import CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUSER

Calls = list[tuple[str, int | str]]


@pytest.fixture
def wanted(tmp_path: Path) -> Surroundings:
    return Surroundings(tmp_path / "sys", tmp_path / "mdevctl.d")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What was asked for, and nothing is done."""
    asked: Calls = []
    monkeypatch.setattr(namespace, "unshare", lambda flags: asked.append(("unshare", flags)))
    monkeypatch.setattr(namespace, "_write", lambda path, text: asked.append((path, text)))
    monkeypatch.setattr(namespace, "_bring_up", lambda name: asked.append(("up", name)))
    monkeypatch.setattr(namespace, "make_slave", lambda path: asked.append(("slave", path)))
    monkeypatch.setattr(namespace, "_compose", lambda tree: asked.append(("compose", str(tree))))
    monkeypatch.setattr(namespace, "place_device_nodes", lambda tree, listens: asked.append(("devices", str(tree))))
    return asked


def refuse(monkeypatch: pytest.MonkeyPatch, number: int, called: str, *, without: int = 0) -> None:
    def unshare(flags: int) -> None:
        if not without or not flags & without:
            raise OSError(number, f"{called}: {os.strerror(number)}")

    monkeypatch.setattr(namespace, "unshare", unshare)


def test_with_the_capability_there_is_no_user_namespace(calls: Calls, wanted: Surroundings) -> None:
    enter(wanted)
    tree = str(wanted.tree)
    assert calls == [("unshare", CLONE_NEWNS), ("slave", "/"), ("compose", tree), ("devices", tree)]


def test_a_network_of_its_own_has_lo(calls: Calls, wanted: Surroundings) -> None:
    enter(Surroundings(wanted.tree, wanted.definitions, own_network=True))
    assert calls[:2] == [("unshare", CLONE_NEWNS | CLONE_NEWNET), ("up", "lo")]


@pytest.mark.parametrize("own_network", [False, True])
def test_without_the_capability_the_user_stays_itself_unless_root_is_believed_alone(
    calls: Calls, wanted: Surroundings, monkeypatch: pytest.MonkeyPatch, *, own_network: bool
) -> None:
    refuse(monkeypatch, errno.EPERM, "unshare", without=CLONE_NEWUSER)
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    monkeypatch.setattr(os, "getegid", lambda: 8)
    enter(Surroundings(wanted.tree, wanted.definitions, own_network=own_network))
    uid, gid = ("0 7 1", "0 8 1") if own_network else ("7 7 1", "8 8 1")
    assert calls[:3] == [
        ("/proc/self/setgroups", "deny"),
        ("/proc/self/uid_map", uid),
        ("/proc/self/gid_map", gid),
    ]


REFUSALS = {
    (errno.EPERM, "unshare"): "expected root, or user namespaces for ordinary users, given unshare: Operation not",
    (errno.ENOSPC, "unshare"): "expected root, or user namespaces for ordinary users, given unshare: No space left",
    (errno.EACCES, "mount"): "expected root, or user namespaces for ordinary users, given mount: Permission denied",
    (errno.ENOSYS, "open_tree"): "expected Linux 5.19 or later, and its system calls allowed; ",
    (errno.EINVAL, "mount"): "expected / to be a mount point, which the root of a chroot is not",
    (errno.EIO, "mount"): r"\[Errno 5\] mount: Input/output error",
}


INSTEAD = "; without `run` .* QEMU 10.1 or later uses an mdev by its socket .*"


@pytest.mark.parametrize(("number", "called"), REFUSALS, ids=str)
def test_what_is_in_the_way_is_said(
    number: int, called: str, wanted: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, number, called)
    with pytest.raises(MountError, match=f"^/sys cannot be composed here: {REFUSALS[number, called]}.*{INSTEAD}$"):
        enter(wanted)


@pytest.mark.parametrize("value", ["0", "1"])
def test_the_setting_that_forbids_is_named(
    value: str, wanted: Surroundings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    setting = tmp_path / "unprivileged_userns_clone"
    setting.write_text(f"{value}\n")
    monkeypatch.setattr(namespace, "_FORBIDDING", (("/proc/absent", "0"), (str(setting), "0")))
    refuse(monkeypatch, errno.EPERM, "unshare")
    cure = f"as root, write something else than 0 to {setting}; " if value == "0" else "a container needs CAP_SYS_ADMIN"
    with pytest.raises(MountError, match=cure):
        enter(wanted)


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder for /sys that a tree is mounted on, by mountinfo."""
    monkeypatch.setattr(namespace, "_SYS", tmp_path)
    monkeypatch.setattr(mountpoint, "mounted", lambda _place: ["fuse.mdev-user", "sysfs"])
    return tmp_path


def test_what_shows_the_tree_already_is_left_as_it_is(composed: Path, calls: Calls) -> None:
    enter(Surroundings(composed, composed))
    assert calls == []


def test_what_shows_another_tree_is_refused(composed: Path, calls: Calls) -> None:
    with pytest.raises(MountError, match="the tree of another daemon"):
        enter(Surroundings(Path("/proc"), composed))
    assert calls == []


@pytest.mark.parametrize("there", [True, False])
def test_mdevctls_definitions_are_mounted_where_mdevctl_looks(
    calls: Calls, wanted: Surroundings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, there: bool
) -> None:
    of_mdevctl = tmp_path / "etc"
    if there:
        of_mdevctl.mkdir()
    wanted.definitions.mkdir()
    monkeypatch.setattr(namespace, "_DEFINITIONS", of_mdevctl)
    monkeypatch.setattr(namespace, "bind", lambda source, target: calls.append((source[1], target[1])))
    enter(wanted)
    assert calls[4:] == ([(str(wanted.definitions), str(of_mdevctl))] if there else [])


def test_definitions_that_are_mdevctls_own_need_no_mount(
    calls: Calls, wanted: Surroundings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "etc").mkdir()
    wanted.definitions.symlink_to(tmp_path / "etc")
    monkeypatch.setattr(namespace, "_DEFINITIONS", tmp_path / "etc")
    enter(wanted)
    assert len(calls) == 4


def test_a_closed_directory_of_the_machines_has_nothing_to_show(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(_path: Path) -> None:
        raise PermissionError(errno.EACCES, "as a hardened machine has /sys/kernel")

    monkeypatch.setattr(os, "scandir", refuse)
    assert namespace._listing(tmp_path)("kernel") == {}
