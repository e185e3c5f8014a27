"""The filter, run by an interpreter of its own: which calls are ours, by number and arguments."""

import os
import struct
from collections.abc import Callable, Sequence
from operator import and_, eq, ge

import pytest

from mdev_user.uapi.filter import KVM_SET_DEVICE_ATTR, assemble, rules
from mdev_user.uapi.numbers import Sys
from mdev_user.uapi.seccomp import Instruction
from mdev_user.uapi.system_calls import HANDLERS

X86_64, I386 = 0xC000_003E, 0x4000_0003
ALLOW, NOTIFY = 0x7FFF_0000, 0x7FC0_0000
BASE = 4000
REGION = 1 << 62
PROGRAM = assemble(rules(BASE))


_LOAD, _AND, _JUMP, _RETURN = 0x20, 0x54, 0x05, 0x06
_COMPARE: dict[int, Callable[[int, int], object]] = {0x15: eq, 0x35: ge, 0x45: and_}


def interpret(program: Sequence[Instruction], data: bytes) -> int:
    """Classic BPF as seccomp(2) allows it (Documentation/networking/filter.rst): the value returned."""
    accumulator = at = 0
    while program[at].code != _RETURN:
        code, if_true, if_false, constant = program[at]
        at += 1
        if code == _LOAD:
            (accumulator,) = struct.unpack_from("<I", data, constant)
        elif code == _AND:
            accumulator &= constant
        elif code == _JUMP:
            at += constant
        else:
            at += if_true if _COMPARE[code](accumulator, constant) else if_false
    return program[at].constant


def is_ours(number: int, *args: int, architecture: int = X86_64) -> bool:
    registers = [each & (1 << 64) - 1 for each in (*args, *(6 - len(args)) * [0])]
    result = interpret(PROGRAM, struct.pack("<IIQ6Q", number, architecture, 0, *registers))
    assert result in {ALLOW, NOTIFY}
    return result == NOTIFY


OURS = [
    (Sys.IOCTL, 3, 0x3B64),
    (Sys.IOCTL, 3, 0x3B92),
    (Sys.IOCTL, 3, KVM_SET_DEVICE_ATTR),
    (Sys.OPEN, 1, os.O_RDWR),
    (Sys.OPENAT, -100, 1, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK),
    (Sys.OPENAT2, -100, 1, 2, 24),
    (Sys.PREAD64, BASE, 0, 4, 0),
    (Sys.PREAD64, 5, 0, 4, REGION),
    (Sys.PWRITE64, 5, 0, 4, (1 << 63) - 1),
    (Sys.PREADV, 5, 0, 1, REGION),
    (Sys.PWRITEV2, 5, 0, 1, REGION + 5),
    (Sys.READ, BASE, 0, 4),
    (Sys.WRITEV, (1 << 31) - 1, 0, 4),
    (Sys.LSEEK, BASE, 0, 0),
    (Sys.FSTAT, BASE, 0),
    (Sys.NEWFSTATAT, BASE, 0, 0, 0x1000),
    (Sys.STATX, BASE, 0, 0x1000),
    (Sys.CLOSE, BASE),
    (Sys.DUP, BASE),
    (Sys.DUP2, 5, BASE),
    (Sys.DUP3, BASE, 5),
    (Sys.CLOSE_RANGE, 3, 0xFFFF_FFFF),
    (Sys.FCNTL, BASE, 1),
    (Sys.FCNTL, 5, 0, BASE),
    (Sys.FCNTL, 5, 1030, BASE),
    (Sys.MMAP, 0, 4096, 3, 1, BASE),
    (Sys.FTRUNCATE, BASE),
    (Sys.FALLOCATE, BASE),
    (Sys.EXECVE, 1, 2, 3),
    (Sys.EXECVEAT, 1, 2, 3),
]
THE_KERNELS = [
    (Sys.IOCTL, 3, 0x5401),
    (Sys.IOCTL, 3, 0x3B),
    (Sys.OPEN, 1, os.O_RDONLY),
    (Sys.OPEN, 1, os.O_WRONLY | os.O_CREAT),
    (Sys.OPENAT, -100, 1, os.O_RDONLY | os.O_CLOEXEC),
    (Sys.OPENAT, -100, 1, os.O_PATH | os.O_RDWR),
    (Sys.OPENAT, os.O_RDWR, os.O_RDWR, 0),
    (Sys.PREAD64, BASE - 1, 0, 4, REGION - 1),
    (Sys.PREAD64, 5, 0, 4, 1 << 63),
    (Sys.PREAD64, 5, REGION, REGION, 0),
    (Sys.PREADV2, 5, 0, 1, -1),
    (Sys.READ, BASE - 1, 0, 4),
    (Sys.READ, -1, 0, 4),
    (Sys.READ, 5, BASE, BASE),
    (Sys.NEWFSTATAT, -100, 1, 2),
    (Sys.CLOSE, 3),
    (Sys.DUP2, 5, 6),
    (Sys.CLOSE_RANGE, 3, BASE - 1),
    (Sys.FCNTL, 5, 1, BASE),
    (Sys.FCNTL, 5, 0, 3),
    (Sys.MMAP, 0, BASE, 3, 0x22, -1),
    (39,),
    (60, 0),
]


@pytest.mark.parametrize("call", OURS, ids=str)
def test_it_is_ours(call: tuple[int, ...]) -> None:
    assert is_ours(*call)


@pytest.mark.parametrize("call", THE_KERNELS, ids=str)
def test_it_is_the_kernels(call: tuple[int, ...]) -> None:
    assert not is_ours(*call)


@pytest.mark.parametrize("call", OURS, ids=str)
def test_nothing_of_another_architecture_is_ours(call: tuple[int, ...]) -> None:
    assert not is_ours(*call, architecture=I386)
    assert not is_ours(call[0] | 1 << 30, *call[1:]), "x32"


def test_each_call_of_the_filter_has_its_answer_and_no_other() -> None:
    assert {number for rule in rules(BASE) for number in rule.numbers} == set(HANDLERS) == set(Sys)


def test_what_is_not_named_is_decided_by_its_number_alone() -> None:
    """So the kernel remembers it (its bitmap of constant actions) and runs no filter."""
    named = set(Sys)
    for number in set(range(512)) - named:
        assert interpret(PROGRAM, struct.pack("<II", number, X86_64)) == ALLOW, "reading arguments would be an error"


def test_it_fits_a_filter() -> None:
    assert len(PROGRAM) <= 4096  # BPF_MAXINSNS
    assert all(0 <= each.if_true < 256 and 0 <= each.if_false < 256 for each in PROGRAM)
