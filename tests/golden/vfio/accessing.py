"""The steps that read, write and map regions."""

import os
import re

from golden.transcript import Answer
from golden.vfio.session import CONFIG, Session, answer
from golden.vfio.table import step
from uapi import numbers
from uapi.calls import BAD_POINTER, Result

_COMMAND = 0x04


@step(r"config-read-(\d+)")
def read_config(session: Session, match: re.Match[str]) -> Answer:
    done = session.read(CONFIG, 0, int(match[1]))
    return answer(done, done.data.hex())


@step(r"config-read-(0x\w+)-(\d)")
def read_config_at(session: Session, match: re.Match[str]) -> Answer:
    offset, count = int(match[1], 16), int(match[2])
    if offset < 0x1000:
        done = session.read(CONFIG, offset, count)
    else:  # beyond all of it: what else the recorded layout had there
        at = session.translated(session.recorded[CONFIG].offset + offset)
        done = session.program.pread(session.device, count, at, fill=0xEE)
    return answer(done, done.data.hex())


@step(r"bar-size-(0x\w+)")
def size_bar(session: Session, match: re.Match[str]) -> Answer:
    offset = int(match[1], 16)
    first = session.read(CONFIG, offset, 4)
    session.write(CONFIG, offset, b"\xff" * 4)
    second = session.read(CONFIG, offset, 4)
    last = session.write(CONFIG, offset, first.data)
    restored = session.value(CONFIG, offset, 4)
    told = f"r0={first.rc} orig={_dword(first)} r2={second.rc} sized={_dword(second)} restored={restored:#010x}"
    return answer(last, told)


@step(r"bar0-write-(0x\w+)")
def write_bar0(session: Session, match: re.Match[str]) -> Answer:
    before = session.read(CONFIG, 0x10, 4).data
    session.write(CONFIG, 0x10, int(match[1], 16).to_bytes(4, "little"))
    done = session.read(CONFIG, 0x10, 4)
    session.write(CONFIG, 0x10, before)
    return answer(done, f"readback={_dword(done)}")


@step(r"config-write-(0x\w+)-(\d)")
def write_config(session: Session, match: re.Match[str]) -> Answer:
    """What the command register is told has an effect here, which is not what the steps after it are about."""
    offset, count = int(match[1], 16), int(match[2])
    aligned = offset & ~3
    before = session.read(CONFIG, aligned, 4)
    done = session.write(CONFIG, offset, b"\xa5" * count)
    after = session.read(CONFIG, aligned, 4)
    if aligned == _COMMAND:
        session.write(CONFIG, _COMMAND, before.data[:2])
    return answer(done, f"dword before={_dword(before)} after={_dword(after)}")


@step("oob-(read|write)-.*", with_command=True)
def access_outside(session: Session, match: re.Match[str]) -> Answer:
    given = re.search(r",(0x\w+)\)", match.string)
    assert given is not None
    offset = session.translated(int(given[1], 16))
    if match[1] == "write":
        return answer(session.program.pwrite(session.device, bytes(4), offset))
    done = session.program.pread(session.device, 4, offset, fill=0xEE)
    return answer(done, _dword(done))


@step("read-zero")
def read_nothing(session: Session, _: re.Match[str]) -> Answer:
    return answer(session.read(CONFIG, 0, 0))


@step("read-nopos")
def read_without_offset(session: Session, _: re.Match[str]) -> Answer:
    done = session.program.read(session.device, 1, fill=0xEE)
    return answer(done, f"{done.data[0]:#04x}")


@step("lseek")
def seek(session: Session, _: re.Match[str]) -> Answer:
    return answer(session.program.lseek(session.device, 4, os.SEEK_SET))


@step("read-badptr")
def read_badly(session: Session, _: re.Match[str]) -> Answer:
    return answer(session.program.call(numbers.PREAD64, session.device, BAD_POINTER, 4, session.region(CONFIG)))


@step(r"mmap-region-(\d)")
def map_region(session: Session, match: re.Match[str]) -> Answer:
    index = int(match[1])
    done = _mapped(session, 4096, session.region(index) if index in session.regions else 0)
    if done.errno is None:
        session.program.munmap(done.rc, 4096)
    return answer(done, "ok" if done.errno is None else "", rc=0)


@step("mmap-bar0-full")
def map_bar0(session: Session, _: re.Match[str]) -> Answer:
    done = _mapped(session, session.regions[0].size, session.region(0))
    session.bar0 = done.ok
    return answer(done, f"first={session.program.load(4, session.bar0):#010x}", rc=0)


@step("mmap-vs-pread")
def store_and_read(session: Session, _: re.Match[str]) -> Answer:
    session.program.store(4, session.bar0 + 0x1000, 0xCAFEBABE)
    read, mapped = session.value(0, 0x1000, 4), session.program.load(4, session.bar0 + 0x1000)
    return Answer(0, None, f"pread={read:#010x} mmap={mapped:#010x}")


@step("pwrite-vs-mmap")
def write_and_load(session: Session, _: re.Match[str]) -> Answer:
    session.write(0, 0x2000, (0x11223344).to_bytes(4, "little"))
    there, first = (session.program.load(4, session.bar0 + offset) for offset in (0x2000, 0))
    return Answer(0, None, f"mmap@0x2000={there:#010x} mmap@0={first:#010x}")


@step("mmap-bar0-(too-long|private|off4096)")
def map_bar0_badly(session: Session, match: re.Match[str]) -> Answer:
    length = 2 * session.regions[0].size if match[1] == "too-long" else 4096
    flags = numbers.MAP_PRIVATE if match[1] == "private" else numbers.MAP_SHARED
    offset = session.region(0, 4096 if match[1] == "off4096" else 0)
    done = _mapped(session, length, offset, flags)
    if done.errno is None:
        session.program.munmap(done.rc, length)
    return answer(done, rc=0)


def _mapped(session: Session, length: int, offset: int, flags: int = numbers.MAP_SHARED) -> Result:
    return session.program.mmap(length, numbers.PROT_READ_WRITE, flags, session.device, offset)


def _dword(result: Result) -> str:
    return f"{int.from_bytes(result.data, 'little'):#010x}"
