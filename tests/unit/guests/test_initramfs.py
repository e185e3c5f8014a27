"""The archive is read back by a parser written from the kernel's description of the format, not from our writer."""

import stat
from dataclasses import dataclass

from mdev_user.guests import cpio
from mdev_user.guests.initramfs import build_initramfs, init_script


@dataclass(frozen=True)
class Member:
    inode: int
    mode: int
    links: int
    data: bytes


def read_back(archive: bytes) -> dict[str, Member]:
    members: dict[str, Member] = {}
    position = 0
    while True:
        assert position % 4 == 0
        assert archive[position : position + 6] == b"070701"
        fields = [int(archive[position + 6 + 8 * n : position + 14 + 8 * n], 16) for n in range(13)]
        inode, mode, _uid, _gid, links, _mtime, size, *_devices, name_size, check = fields
        assert check == 0
        name_at = position + 110
        name = archive[name_at : name_at + name_size]
        assert name.endswith(b"\0")
        data_at = (name_at + name_size + 3) & ~3
        if name == b"TRAILER!!!\0":
            assert archive[data_at:] == b""
            return members
        path = name[:-1].decode()
        assert path not in members
        members[path] = Member(inode, mode, links, archive[data_at : data_at + size])
        position = (data_at + size + 3) & ~3


def test_every_member_reads_back_with_its_type_and_bytes() -> None:
    entries = [
        cpio.folder("bin"),
        cpio.program("bin/tool", b"12345"),
        cpio.link("bin/sh", "tool"),
        cpio.plain_file("x", bytes(range(256))),
    ]
    members = read_back(cpio.archive(entries))
    assert {name: (stat.filemode(member.mode), member.data) for name, member in members.items()} == {
        "bin": ("drwxr-xr-x", b""),
        "bin/tool": ("-rwxr-xr-x", b"12345"),
        "bin/sh": ("lrwxrwxrwx", b"tool"),
        "x": ("-rw-r--r--", bytes(range(256))),
    }


def test_members_have_inodes_of_their_own() -> None:
    """The kernel makes hard links of non-folders that share an inode number and have more than one link."""
    members = read_back(build_initramfs(b"elf", ["sh", "ls"]))
    inodes = [member.inode for member in members.values()]
    assert len(set(inodes)) == len(inodes)
    assert all(member.links == 1 for member in members.values() if not stat.S_ISDIR(member.mode))


def test_initramfs_has_busybox_its_applets_and_an_executable_init() -> None:
    members = read_back(build_initramfs(b"\x7fELF", ["busybox", "sh", "cat"]))
    assert members["bin/busybox"].data == b"\x7fELF"
    assert members["bin/sh"].data == members["bin/cat"].data == b"busybox"
    assert stat.S_ISLNK(members["bin/sh"].mode)
    assert members["init"].data == init_script()
    assert members["init"].mode & 0o111 == 0o111


def test_init_needs_only_what_the_initramfs_has() -> None:
    assert init_script().startswith(b"#!/bin/sh\n")
    members = read_back(build_initramfs(b"", ["sh"]))
    for mount_point in ("proc", "sys", "dev", "run"):
        assert stat.S_ISDIR(members[mount_point].mode)


def test_files_come_after_their_folders() -> None:
    """The kernel drops a file whose folder is not there yet."""
    members = read_back(build_initramfs(b"", [], {"/lib/modules/x/y.ko": b"module", "etc/name": b"guest"}))
    names = list(members)
    assert members["lib/modules/x/y.ko"].data == b"module"
    assert names.index("lib") < names.index("lib/modules") < names.index("lib/modules/x")
    assert names.index("lib/modules/x") < names.index("lib/modules/x/y.ko")
    assert names.index("etc") < names.index("etc/name")
