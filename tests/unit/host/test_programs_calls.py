"""System calls that a process of an mdev's own may not make: each is refused, and would not be without the filter."""

import json
import platform
import subprocess
import sys
from collections.abc import Mapping

import pytest

from mdev_user.host.program import limits

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter is for x86_64")

_TRY = """
import ctypes, errno, json, os, sys
from mdev_user.host.program import limits
calls, how = json.loads(sys.argv[1]), sys.argv[2]
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
name = ctypes.create_string_buffer(b"/dev/null")
places = {"null": ctypes.addressof(name), "fd": os.open("/dev/null", os.O_RDWR)}
places["file"] = os.open(sys.executable, os.O_RDONLY)
memory = libc.mmap
memory.restype = ctypes.c_void_p
memory.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
places["page"] = memory(None, 4096, 3, 0x22, -1, 0)
limits.limit(1 << 30, 0), limits.give_up_privileges()
if how == "filtered" and not limits.forbid():
    raise SystemExit("no filter")
told = {}
for what, given in calls.items():
    ctypes.set_errno(0)
    outcome = libc.syscall(*[ctypes.c_long(places.get(each, each)) for each in given])
    told[what] = errno.errorcode.get(ctypes.get_errno(), "done") if outcome == -1 else "done"
print(json.dumps(told))
"""
HUGE, SHARED, PRIVATE, GROWS = 0x40000, 0x21, 0x22, 0x122
HARMLESS: Mapping[str, tuple[int | str, ...]] = {
    # the number and some arguments, with which the call does no harm where it is allowed
    "shmat": (30, 1 << 30, 0, 0),
    "shmctl": (31, 1 << 30, 2, 0),
    "semop": (65, 1 << 30, 0, 0),
    "semctl": (66, 1 << 30, 0, 0),
    "semtimedop": (220, 1 << 30, 0, 0, 0),
    "msgsnd": (69, 1 << 30, "null", 0, 0),
    "msgrcv": (70, 1 << 30, "null", 0, 0, 0),
    "msgctl": (71, 1 << 30, 2, 0),
    "mq_unlink": (241, 0),
    "setxattrat": (463, -100, 0, 0, 0, 0, 0),
    "removexattrat": (466, -100, 0, 0, 0),
    "open_tree_attr": (467, -100, 0, -1, 0, 0),
    "file_setattr": (469, -100, 0, 0, 0, 0),
    "getxattr": (191, "null", "null", 0, 0),
    "listxattr": (194, "null", 0, 0),
    "name_to_handle_at": (303, -100, "null", 0, 0, 0),
    "uselib": (134, 0),
    "fchmod": (91, -1, 0o600),
    "fchown": (93, -1, -1, -1),
    "fsetxattr": (190, -1, 0, 0, 0, 0),
    "syncfs": (306, -1),
    "memfd_create": (319, "null", 0),
    "ftruncate": (77, -1, 0),
    "fallocate": (285, -1, 0, 0, 1),
    "sendmsg": (46, -1, 0, 0),
    "sendmmsg": (307, -1, 0, 0, 0),
    "io_setup": (206, 0, 0),
    "get_robust_list": (274, 0, 0, 0),
    "process_mrelease": (448, -1, 0),
    "membarrier": (324, 0, 0, 0),
    "syslog": (103, 99, 0, 0),
    "personality": (135, 0xFFFFFFFF),
    "modify_ldt": (154, 99, 0, 0),
    "inotify_add_watch": (254, -1, 0, 0),
    "splice": (275, -1, 0, -1, 0, 0, 0),
    "vmsplice": (278, -1, 0, 0, 0),
    "fcntl F_SETPIPE_SZ": (72, -1, 1031, 0),
    "fcntl F_SETLEASE": (72, -1, 1024, 0),
    "prctl PR_SCHED_CORE": (157, 62, 99, 0, 0, 0),
    "prctl PR_SET_MEMORY_MERGE": (157, 67, 0, 0, 0, 0),
    "madvise MADV_MERGEABLE": (28, "page", 4096, 12),
    "mmap shared": (9, 0, 4096, 3, SHARED, -1, 0),
    "mmap growing down": (9, 0, 4096, 3, GROWS, -1, 0),
    "mmap of huge pages": (9, 0, 0, 3, PRIVATE | HUGE, -1, 0),
}
ALLOWED: Mapping[str, tuple[int | str, ...]] = {
    "mmap": (9, 0, 4096, 3, PRIVATE, -1, 0),
    "mmap of a file": (9, 0, 4096, 1, 0x01, "file", 0),
    "madvise": (28, "page", 4096, 4),
    "fcntl": (72, "fd", 3, 0),
    "prctl": (157, 3, 0, 0, 0, 0),
    "write": (1, "fd", "null", 1),
    "getpid": (39,),
}


def tried(calls: Mapping[str, tuple[int | str, ...]], how: str) -> dict[str, str]:
    command = [sys.executable, "-c", _TRY, json.dumps(calls), how]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return dict(json.loads(told))


def test_what_reaches_others_is_refused() -> None:
    filtered = tried({**HARMLESS, **ALLOWED, "one that is newer": (470, 0)}, "filtered")
    assert {each: filtered[each] for each in HARMLESS} == dict.fromkeys(HARMLESS, "EACCES")
    assert {each: filtered[each] for each in ALLOWED} == dict.fromkeys(ALLOWED, "done")
    assert filtered["one that is newer"] == "ENOSYS"


def test_without_the_filter_none_of_them_is_refused_for_that() -> None:
    """The negative control of the test above."""
    assert "EACCES" not in tried(HARMLESS, "free").values()


def test_signals_that_wait_are_few() -> None:
    """They are counted for all of a user's processes: a timer each, until no other process could have one."""
    script = (
        "import resource\nfrom mdev_user.host.program import limits\n"
        "limits.limit(None, 0)\nprint(*resource.getrlimit(resource.RLIMIT_SIGPENDING))"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True).stdout
    assert [int(each) for each in told.split()] == [256, 256]


def test_no_number_is_named_twice() -> None:
    tables = [limits._FILES, limits._MEMORY, limits._OTHERS]
    numbers = [each for table in tables for each in table.values()]
    assert len(numbers) == len(set(numbers))
