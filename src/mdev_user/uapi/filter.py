"""Which system calls of the program are answered by us: a table, and the classic BPF program that it becomes.

All that the table does not name is decided by its number alone, so the kernel remembers that it is allowed and does not
run the filter (its bitmap of constant actions, Linux 5.11): it costs nothing. What is named is looked at by its
arguments, as far as registers tell; what a pointer leads to a filter cannot see.
"""

import os
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple

from mdev_user.uapi.numbers import Sys
from mdev_user.uapi.seccomp import Instruction

# <linux/bpf_common.h>
_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JUMP = 0x05  # BPF_JMP | BPF_JA
_IF_EQUAL = 0x15
_IF_AT_LEAST = 0x35
_IF_ANY_BIT = 0x45
_RETURN = 0x06

_ALLOW = 0x7FFF_0000  # <linux/seccomp.h>
_USER_NOTIF = 0x7FC0_0000
_AUDIT_ARCH_X86_64 = 0xC000_003E

# struct seccomp_data
_NR, _ARCH, _ARGS = 0, 4, 16

VFIO_TYPE = 0x3B
"""The ';' of <linux/vfio.h> and <linux/iommufd.h>: bits 8-15 of their ioctl numbers."""
KVM_SET_DEVICE_ATTR = 0x4018_AEE1
"""<linux/kvm.h>: with it a program tells KVM of a VFIO file."""

F_DUPFD, F_DUPFD_CLOEXEC = 0, 1030
"""<linux/fcntl.h>: the third argument is the least number that is wanted."""


class Jump(Enum):
    """What a test compares, as the code of its instruction."""

    EQUAL = _IF_EQUAL
    AT_LEAST = _IF_AT_LEAST
    ANY_BIT = _IF_ANY_BIT


class Test(NamedTuple):
    """A condition on one 32-bit word of the arguments, of whose bits only those of ``mask`` count."""

    offset: int
    jump: Jump
    constant: int
    wanted: bool = True
    mask: int = 0xFFFF_FFFF


class Rule(NamedTuple):
    """These calls are ours when all the tests of one of the alternatives hold."""

    numbers: tuple[Sys, ...]
    alternatives: tuple[tuple[Test, ...], ...]


def _low(argument: int) -> int:
    return _ARGS + 8 * argument


def _high(argument: int) -> int:
    return _low(argument) + 4


_ALWAYS: tuple[tuple[Test, ...], ...] = ((),)


def _ours(argument: int, base: int) -> tuple[Test, ...]:
    """An int that may be a number of our descriptors: [base, 2^31)."""
    word = _low(argument)
    return Test(word, Jump.AT_LEAST, base), Test(word, Jump.ANY_BIT, 1 << 31, wanted=False)


def _region_offset(argument: int) -> tuple[Test, ...]:
    """A file offset in [2^62, 2^63), where the regions of our devices are and no file of the kernel's."""
    word = _high(argument)
    return Test(word, Jump.ANY_BIT, 1 << 30), Test(word, Jump.ANY_BIT, 1 << 31, wanted=False)


def _opens_for_both(argument: int) -> tuple[Test, ...]:
    """O_RDWR and not O_PATH: only so does anybody open a node of VFIO, and few open anything else."""
    word = _low(argument)
    return (
        Test(word, Jump.EQUAL, os.O_RDWR, mask=os.O_ACCMODE),
        Test(word, Jump.ANY_BIT, os.O_PATH | os.O_DIRECTORY, wanted=False),
    )


def rules(base: int) -> tuple[Rule, ...]:
    """What is answered for a program whose descriptors of ours have numbers from ``base`` on."""
    fd, second, fifth = _ours(0, base), _ours(1, base), _ours(4, base)
    return (
        Rule((Sys.PREAD64, Sys.PWRITE64, Sys.PREADV, Sys.PWRITEV, Sys.PREADV2, Sys.PWRITEV2), (fd, _region_offset(3))),
        Rule(
            (Sys.IOCTL,),
            (
                (Test(_low(1), Jump.EQUAL, VFIO_TYPE << 8, mask=0xFF00),),
                (Test(_low(1), Jump.EQUAL, KVM_SET_DEVICE_ATTR),),
            ),
        ),
        Rule(
            (
                *(Sys.READ, Sys.WRITE, Sys.READV, Sys.WRITEV, Sys.LSEEK, Sys.FSTAT, Sys.NEWFSTATAT, Sys.STATX),
                *(Sys.CLOSE, Sys.DUP, Sys.FTRUNCATE, Sys.FALLOCATE),
            ),
            (fd,),
        ),
        Rule((Sys.MMAP,), (fifth,)),
        Rule((Sys.DUP2, Sys.DUP3), (fd, second)),
        Rule((Sys.CLOSE_RANGE,), ((Test(_low(1), Jump.AT_LEAST, base),),)),
        # Of F_DUPFD, the third argument is the least number wanted.
        Rule(
            (Sys.FCNTL,),
            (fd, *((Test(_low(1), Jump.EQUAL, each), *_ours(2, base)) for each in (F_DUPFD, F_DUPFD_CLOEXEC))),
        ),
        Rule((Sys.OPEN,), (_opens_for_both(1),)),
        Rule((Sys.OPENAT,), (_opens_for_both(2),)),
        Rule((Sys.OPENAT2, Sys.EXECVE, Sys.EXECVEAT), _ALWAYS),
    )


def assemble(wanted: Iterable[Rule]) -> list[Instruction]:
    """The program. Calls of another architecture (32-bit programs) are allowed: they find no VFIO here."""
    program = [
        Instruction(_LOAD_WORD, 0, 0, _ARCH),
        Instruction(_IF_EQUAL, 1, 0, _AUDIT_ARCH_X86_64),
        Instruction(_RETURN, 0, 0, _ALLOW),
        Instruction(_LOAD_WORD, 0, 0, _NR),
    ]
    for rule in wanted:
        program += _numbers(rule.numbers)
        block = _block(rule.alternatives)
        program.append(Instruction(_JUMP, 0, 0, len(block)))
        program += block
    return [*program, Instruction(_RETURN, 0, 0, _ALLOW)]


def _numbers(numbers: Sequence[Sys]) -> list[Instruction]:
    """Jump over the one instruction that follows these, when the call is one of them."""
    last = len(numbers)
    return [Instruction(_IF_EQUAL, last - at, 0, number) for at, number in enumerate(numbers)]


def _block(alternatives: Sequence[Sequence[Test]]) -> list[Instruction]:
    """Each alternative ends with the answer "ours"; a test that does not hold leads to the next one."""
    block: list[Instruction] = []
    for tests in alternatives:
        block += _alternative(tests)
    return [*block, Instruction(_RETURN, 0, 0, _ALLOW)]


def _alternative(tests: Sequence[Test]) -> list[Instruction]:
    ours = [Instruction(_RETURN, 0, 0, _USER_NOTIF)]
    for test in reversed(tests):
        left = len(ours)
        jumps = (0, left) if test.wanted else (left, 0)
        ours.insert(0, Instruction(test.jump.value, *jumps, test.constant))
        if test.mask != 0xFFFF_FFFF:
            ours.insert(0, Instruction(_AND, 0, 0, test.mask))
        ours.insert(0, Instruction(_LOAD_WORD, 0, 0, test.offset))
    return ours
