"""System calls by name: the numbers of <asm/unistd_64.h> that the filter and its handlers speak of."""

from enum import IntEnum


class Sys(IntEnum):
    """x86-64."""

    READ = 0
    WRITE = 1
    OPEN = 2
    CLOSE = 3
    FSTAT = 5
    LSEEK = 8
    MMAP = 9
    IOCTL = 16
    PREAD64 = 17
    PWRITE64 = 18
    READV = 19
    WRITEV = 20
    DUP = 32
    DUP2 = 33
    EXECVE = 59
    FCNTL = 72
    FTRUNCATE = 77
    OPENAT = 257
    NEWFSTATAT = 262
    FALLOCATE = 285
    DUP3 = 292
    PREADV = 295
    PWRITEV = 296
    EXECVEAT = 322
    PREADV2 = 327
    PWRITEV2 = 328
    STATX = 332
    CLOSE_RANGE = 436
    OPENAT2 = 437
