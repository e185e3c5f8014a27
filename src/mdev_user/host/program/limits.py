"""What a process of an mdev's own may have and do.

Before its program is made it gets limits, and loses privileges. After that there is a filter of its system calls: no
file is opened any more, nothing executed, no network reached and no other process touched; and no memory is taken that
RLIMIT_DATA does not count, but for what is written and made read-only then, as LLVM does with code: a control group
counts that. The filter is a list of what is forbidden, for x86-64, and what is newer than the list does not exist; on
other machines there are only the limits.
"""

import ctypes
import logging
import os
import platform
import resource
import signal
import struct
from contextlib import suppress
from errno import EACCES, ENOSYS
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 1, 38, 24
_CAPABILITY_VERSION_3 = 0x20080522
_CAPSET, _SECCOMP = 126, 317
_SET_MODE_FILTER, _FLAG_TSYNC = 1, 1
_MOST_FILES = 1024
_MOST_QUEUED = 256
"""Signals and timers. They are counted for all processes of a user; this is how many of them there are when we stop."""

_LOAD, _EQUAL, _AT_LEAST, _RETURN, _AND = 0x20, 0x15, 0x35, 0x06, 0x54
_ALLOW, _ERRNO, _KILL = 0x7FFF_0000, 0x0005_0000, 0x8000_0000
_X86_64, _X32 = 0xC000_003E, 0x4000_0000
_NR, _ARCH, _ARG0, _ARG1, _ARG2, _ARG3 = 0, 4, 16, 24, 32, 40
_CLONE_THREAD = 0x10000

# <asm/unistd_64.h>
_FIRST_UNKNOWN = 470
"""Linux 6.18 has none from here on."""
_FILES = {
    "open": 2,
    "creat": 85,
    "openat": 257,
    "openat2": 437,
    "open_by_handle_at": 304,
    "open_tree": 428,
    "truncate": 76,
    "rename": 82,
    "mkdir": 83,
    "rmdir": 84,
    "link": 86,
    "unlink": 87,
    "symlink": 88,
    "chmod": 90,
    "chown": 92,
    "lchown": 94,
    "mknod": 133,
    "mkdirat": 258,
    "mknodat": 259,
    "fchownat": 260,
    "unlinkat": 263,
    "renameat": 264,
    "linkat": 265,
    "symlinkat": 266,
    "fchmodat": 268,
    "renameat2": 316,
    "fchmodat2": 452,
    "utime": 132,
    "utimes": 235,
    "utimensat": 280,
    "futimesat": 261,
    "setxattr": 188,
    "lsetxattr": 189,
    "removexattr": 197,
    "lremovexattr": 198,
    "chdir": 80,
    "fchdir": 81,
    "chroot": 161,
    "pivot_root": 155,
    "mount": 165,
    "umount2": 166,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "mount_setattr": 442,
    "swapon": 167,
    "swapoff": 168,
    "acct": 163,
    "quotactl": 179,
    "quotactl_fd": 443,
    "uselib": 134,
    "name_to_handle_at": 303,
    "open_tree_attr": 467,
    "file_setattr": 469,
    "getxattr": 191,
    "lgetxattr": 192,
    "listxattr": 194,
    "llistxattr": 195,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
    # of the files that it has, which are the guest's memory
    "fchmod": 91,
    "fchown": 93,
    "fsetxattr": 190,
    "fremovexattr": 199,
    "sync": 162,
    "syncfs": 306,
}
_MEMORY = {
    # What RLIMIT_DATA does not count. A file that is made longer is the guest's.
    "memfd_create": 319,
    "memfd_secret": 447,
    "ftruncate": 77,
    "fallocate": 285,
}
_OTHERS = {
    "execve": 59,
    "execveat": 322,
    "fork": 57,
    "vfork": 58,
    "setsid": 112,
    "setpgid": 109,
    "ptrace": 101,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "kcmp": 312,
    "process_madvise": 440,
    "pidfd_open": 434,
    "pidfd_getfd": 438,
    "pidfd_send_signal": 424,
    "kill": 62,
    "tkill": 200,
    "rt_sigqueueinfo": 129,
    "rt_tgsigqueueinfo": 297,
    "socket": 41,
    "socketpair": 53,
    "connect": 42,
    "bind": 49,
    "unshare": 272,
    "setns": 308,
    "bpf": 321,
    "perf_event_open": 298,
    "userfaultfd": 323,
    "keyctl": 250,
    "add_key": 248,
    "request_key": 249,
    "io_uring_setup": 425,
    "io_uring_register": 427,
    "io_uring_enter": 426,
    "io_setup": 206,
    "io_destroy": 207,
    "io_getevents": 208,
    "io_submit": 209,
    "io_cancel": 210,
    "io_pgetevents": 333,
    # System V's and POSIX' objects are found by whoever has the same user: by number, if not by name.
    "shmget": 29,
    "shmat": 30,
    "shmctl": 31,
    "semget": 64,
    "semop": 65,
    "semctl": 66,
    "semtimedop": 220,
    "msgget": 68,
    "msgsnd": 69,
    "msgrcv": 70,
    "msgctl": 71,
    "mq_open": 240,
    "mq_unlink": 241,
    # Open files in a message are counted for all of a user's processes, and stop those of others.
    "sendmsg": 46,
    "sendmmsg": 307,
    "sched_setaffinity": 203,
    "setpriority": 141,
    "sched_setscheduler": 144,
    "sched_setparam": 142,
    "sched_setattr": 314,
    "ioprio_set": 251,
    "fanotify_init": 300,
    "fanotify_mark": 301,
    "inotify_init": 253,
    "inotify_init1": 294,
    "inotify_add_watch": 254,
    "migrate_pages": 256,
    "move_pages": 279,
    "get_robust_list": 274,
    "process_mrelease": 448,
    "membarrier": 324,
    "syslog": 103,
    "personality": 135,
    "modify_ldt": 154,
    "vhangup": 153,
    "reboot": 169,
    "iopl": 172,
    "ioperm": 173,
    "init_module": 175,
    "delete_module": 176,
    "finit_module": 313,
    "kexec_load": 246,
    "kexec_file_load": 320,
    "sethostname": 170,
    "setdomainname": 171,
    "settimeofday": 164,
    "clock_settime": 227,
    "splice": 275,
    "tee": 276,
    "vmsplice": 278,
}
_CLONE, _CLONE3, _TGKILL, _PRLIMIT64 = 56, 435, 234, 302

_log = logging.getLogger(__name__)
_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def end_with(parent: int) -> None:
    """Die when the thread of ``parent`` that started us ends, also if it has already."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def limit(memory: int | None, nice: int) -> None:
    """Before any code of the driver's is run."""
    for kind in (signal.SIGINT, signal.SIGHUP):
        signal.signal(kind, signal.SIG_IGN)
    os.nice(nice)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # when memory runs out, we go first
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for which, most in ((resource.RLIMIT_NOFILE, _MOST_FILES), (resource.RLIMIT_SIGPENDING, _MOST_QUEUED)):
        hard = resource.getrlimit(which)[1]
        lower = min(most, hard) if hard != resource.RLIM_INFINITY else most
        resource.setrlimit(which, (lower, lower))
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
        resource.setrlimit(resource.RLIMIT_FSIZE, (memory, memory))  # of memfds, too


def give_up_privileges() -> None:
    """No capabilities, now or by executing anything."""
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for each in range(64):
        _libc.prctl(_PR_CAPBSET_DROP, each, 0, 0, 0)
    header = ctypes.create_string_buffer(struct.pack("<Ii", _CAPABILITY_VERSION_3, 0))
    _libc.syscall(_CAPSET, header, ctypes.create_string_buffer(24))


def forbid() -> bool:
    """Filter the system calls of all threads of this process, for good. False where that is not possible."""
    if platform.machine() != "x86_64":
        return False
    code = b"".join(struct.pack("<HBBI", *each) for each in _filter(os.getpid()))
    program = _Program(len(code) // 8, code)
    return not _libc.syscall(_SECCOMP, _SET_MODE_FILTER, _FLAG_TSYNC, ctypes.byref(program))


_MAP_SHARED, _MAP_ANONYMOUS, _MAP_GROWSDOWN, _MAP_HUGETLB = 0x01, 0x20, 0x100, 0x40000
_BY_ARGUMENT = (
    # fcntl: F_SETOWN, F_SETSIG, F_SETOWN_EX: the kernel would signal anybody in our name; F_SETLEASE, F_NOTIFY: others
    # wait for us; F_SETPIPE_SZ: counted for all of a user's processes
    (72, _ARG1, (8, 10, 15, 1024, 1026, 1031)),
    (16, _ARG1, (0x8901, 0x8902)),  # ioctl: FIOSETOWN, SIOCSPGRP: as F_SETOWN
    # prctl: PR_SET_PDEATHSIG: we would outlive our host; PR_SCHED_CORE: with whom others run; PR_SET_MEMORY_MERGE and
    # madvise: MADV_MERGEABLE: how long a write takes tells what other guests' pages have
    (157, _ARG0, (1, 62, 67)),
    (28, _ARG2, (12,)),
)
"""System calls that are forbidden with these values of an argument."""
_BY_FLAGS = (
    (9, _ARG3, _MAP_SHARED | _MAP_ANONYMOUS),  # mmap: RLIMIT_DATA does not count it
    (9, _ARG3, _MAP_GROWSDOWN),  # nor this, which is a stack for it
    (9, _ARG3, _MAP_HUGETLB),  # the machine's huge pages are guests' memory
)
"""System calls that are forbidden with all of these bits of an argument set."""

_Row = tuple[int, int, int, int]
"""Of classic BPF (<linux/bpf_common.h>): code, how many to jump over if true and if false, constant."""


def _by_argument(number: int, place: int, values: tuple[int, ...]) -> list[_Row]:
    """A call that is forbidden with some arguments only."""
    rows = [(_LOAD, 0, 0, place)]
    for each in values:
        rows += [(_EQUAL, 0, 1, each), (_RETURN, 0, 0, _ERRNO | EACCES)]
    return [(_EQUAL, 0, len(rows) + 1, number), *rows, (_LOAD, 0, 0, _NR)]


def _by_flags(number: int, place: int, bits: int) -> list[_Row]:
    """A call that is forbidden with some bits of an argument only."""
    rows = [(_LOAD, 0, 0, place), (_AND, 0, 0, bits), (_EQUAL, 0, 1, bits), (_RETURN, 0, 0, _ERRNO | EACCES)]
    return [(_EQUAL, 0, len(rows) + 1, number), *rows, (_LOAD, 0, 0, _NR)]


def _filter(pid: int) -> list[_Row]:
    program = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, _X86_64),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NR),
        (_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _KILL),
        *((_AT_LEAST, 0, 1, _FIRST_UNKNOWN), (_RETURN, 0, 0, _ERRNO | ENOSYS)),
        # Without it the C library takes clone, whose flags a filter can see.
        *((_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _ERRNO | ENOSYS)),
        *((_EQUAL, 0, 4, _CLONE), (_LOAD, 0, 0, _ARG0), (_AND, 0, 0, _CLONE_THREAD), (_EQUAL, 0, 1, 0)),
        *((_RETURN, 0, 0, _ERRNO | EACCES), (_LOAD, 0, 0, _NR)),
        *((_EQUAL, 0, 4, _TGKILL), (_LOAD, 0, 0, _ARG0), (_EQUAL, 1, 0, pid), (_RETURN, 0, 0, _ERRNO | EACCES)),
        (_LOAD, 0, 0, _NR),
        *((_EQUAL, 0, 5, _PRLIMIT64), (_LOAD, 0, 0, _ARG0), (_EQUAL, 2, 0, 0), (_EQUAL, 1, 0, pid)),
        *((_RETURN, 0, 0, _ERRNO | EACCES), (_LOAD, 0, 0, _NR)),
        *(row for each in _BY_ARGUMENT for row in _by_argument(*each)),
        *(row for each in _BY_FLAGS for row in _by_flags(*each)),
    ]
    for number in sorted({*_FILES.values(), *_MEMORY.values(), *_OTHERS.values()}):
        program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | EACCES)]
    return [*program, (_RETURN, 0, 0, _ALLOW)]
