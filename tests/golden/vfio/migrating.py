"""The steps of VFIO_DEVICE_FEATURE: what there is, migration by all its states, and the logging of DMA."""

import re
import struct

from golden.transcript import Answer
from golden.vfio import ioctls
from golden.vfio.ioctls import FEATURE_GET, FEATURE_SET, MIG_DEVICE_STATE, MIGRATION, STATES
from golden.vfio.session import Session, answer, feature
from golden.vfio.table import step
from uapi.calls import Result

_CHUNK = 64
_PAGES, _PAGE = 16, 4096


@step(r"feature-(\d+)-probe.*", with_command=True)
def probe(session: Session, match: re.Match[str]) -> Answer:
    flags = re.search(r"flags=(0x\w+)", match.string)
    assert flags is not None
    return answer(feature(session, int(flags[1], 16)))


_ODD = {
    "feature-migration-get-short": (FEATURE_GET | MIGRATION, 8),
    "feature-migration-set": (FEATURE_SET | MIGRATION, 16),
    "feature-migration-getset": (FEATURE_GET | FEATURE_SET | MIGRATION, 16),
    "feature-migration-noop": (MIGRATION, 16),
    "feature-badflag": (1 << 19 | FEATURE_GET | MIGRATION, 16),
}


@step("|".join(_ODD))
def odd_feature(session: Session, match: re.Match[str]) -> Answer:
    flags, argsz = _ODD[match[0]]
    return answer(feature(session, flags, bytes(8), argsz))


@step("feature-migration-get")
def get_migration(session: Session, _: re.Match[str]) -> Answer:
    done = feature(session, FEATURE_GET | MIGRATION, bytes(8))
    return answer(done, f"flags={int.from_bytes(done.data, 'little'):#x}")


@step("feature-datasize-get")
def get_data_size(session: Session, _: re.Match[str]) -> Answer:
    done = feature(session, FEATURE_GET | ioctls.MIG_DATA_SIZE, bytes(8))
    return answer(done, f"stop_copy_length={int.from_bytes(done.data, 'little')}")


# --- states ---------------------------------------------------------------------------------------------------------


@step("mig-state-initial")
def initial_state(session: Session, _: re.Match[str]) -> Answer:
    done = feature(session, FEATURE_GET | MIG_DEVICE_STATE, bytes(8))
    return answer(done, STATES[_of_state(done)[0]] if done.errno is None else "")


@step("mig-(.*)-to-(.*)")
def change(session: Session, match: re.Match[str]) -> Answer:
    """From RUNNING to the first state, then to the second, and back to RUNNING."""
    first, second = (STATES.index(name) if name in STATES else int(name) for name in match.groups())
    entered, entered_fd = _set(session, first)
    done, fd = _set(session, second)
    now = STATES[_state(session)]
    for each in (entered_fd, fd):
        if each >= 0:
            session.program.close(each)
    session.failed_return = _set(session, STATES.index("RUNNING"))[0].errno
    return answer(
        done,
        f"enter_rc={entered.rc} enter_errno={entered.errno or ''} enter_fd={_said(entered_fd)} "
        f"data_fd={_said(fd)} now={now}",
    )


@step("mig-recover")
def recover(session: Session, _: re.Match[str]) -> Answer:
    done = session.ioctl(ioctls.DEVICE_RESET)
    failed, session.failed_return = session.failed_return, None
    how = "worked" if failed is None else f"failed {failed}"
    return answer(done, f"set RUNNING {how}; state now {_state(session)}")


def _set(session: Session, state: int) -> tuple[Result, int]:
    """The data_fd comes with it, -1 for none."""
    done = feature(session, FEATURE_SET | MIG_DEVICE_STATE, ioctls.MIG_STATE.pack(state, -1))
    return done, _of_state(done)[1] if done.errno is None else -1


def _enter(session: Session, name: str) -> Answer:
    done, session.data_fd = _set(session, STATES.index(name))
    return answer(done, f"fd={_said(session.data_fd)}")


def _state(session: Session) -> int:
    return _of_state(feature(session, FEATURE_GET | MIG_DEVICE_STATE, bytes(8)))[0]


def _of_state(done: Result) -> tuple[int, int]:
    state, fd = ioctls.MIG_STATE.unpack(done.data)
    return state, fd


def _said(fd: int) -> str:
    return "yes" if fd >= 0 else "no"


# --- saving and restoring -------------------------------------------------------------------------------------------


@step("(stopcopy|resume|precopy)-enter")
def enter(session: Session, match: re.Match[str]) -> Answer:
    return _enter(session, {"stopcopy": "STOP_COPY", "resume": "RESUMING", "precopy": "PRE_COPY"}[match[1]])


@step("stopcopy-stream")
def read_stream(session: Session, _: re.Match[str]) -> Answer:
    reads = 0
    while (got := session.program.read(session.data_fd, _CHUNK)).ok > 0:
        session.stream += got.data[: got.rc]
        reads += 1
    return Answer(len(session.stream), None, f"reads={reads} hex={session.stream.hex()}")


@step("stopcopy-(pread|lseek|write|precopyinfo)")
def misuse(session: Session, match: re.Match[str]) -> Answer:
    program, fd = session.program, session.data_fd
    if match[1] == "pread":
        return answer(program.pread(fd, 8, 0))
    if match[1] == "lseek":
        return answer(program.lseek(fd, 0))
    if match[1] == "write":
        return answer(program.write(fd, bytes(8)))
    return answer(_precopy_info(session))


@step("stopcopy-leave")
def leave(session: Session, _: re.Match[str]) -> Answer:
    return answer(_set(session, STATES.index("STOP"))[0])


@step("(stopcopy-stale-read|resume-stale-write)")
def use_stale(session: Session, match: re.Match[str]) -> Answer:
    fd = session.data_fd
    done = session.program.read(fd, 8) if "read" in match[0] else session.program.write(fd, bytes(8))
    session.program.close(fd)
    return answer(done)


@step("resume-write(|-beyond)")
def write_stream(session: Session, match: re.Match[str]) -> Answer:
    return answer(session.program.write(session.data_fd, bytes(8) if match[1] else session.stream))


@step("resume-(corrupt|short)-write")
def write_badly(session: Session, match: re.Match[str]) -> Answer:
    session.data_fd = _set(session, STATES.index("RESUMING"))[1]
    corrupt = bytes((session.stream[0] ^ 0xFF,)) + session.stream[1:]
    return answer(session.program.write(session.data_fd, corrupt if match[1] == "corrupt" else session.stream[:20]))


@step("(resume-running|resume-corrupt-running|resume-short-running|precopy-back-running)")
def run_again(session: Session, match: re.Match[str]) -> Answer:
    """A device that does not run again as the kernel's did is reset, since the steps after it are not about that."""
    done, _fd = _set(session, STATES.index("RUNNING"))
    state = _state(session)
    if done.errno is not None and match[1] != "resume-short-running":
        session.ioctl(ioctls.DEVICE_RESET)
    return answer(done, f"state={state}")


@step("resume-(corrupt|short)-reset")
def reset(session: Session, _: re.Match[str]) -> Answer:
    done = session.ioctl(ioctls.DEVICE_RESET)
    session.program.close(session.data_fd)
    return answer(done, f"state={_state(session)}")


@step(r"precopy-info-(\d|short|flags1)")
def precopy_info(session: Session, match: re.Match[str]) -> Answer:
    argsz, flags = 8 if match[1] == "short" else ioctls.PRECOPY_INFO.size, int(match[1] == "flags1")
    done = _precopy_info(session, argsz, flags)
    _argsz, _flags, initial, dirty = ioctls.PRECOPY_INFO.unpack(done.data)
    return answer(done, f"initial={initial} dirty={dirty}" if match[1].isdigit() else "")


def _precopy_info(session: Session, argsz: int = ioctls.PRECOPY_INFO.size, flags: int = 0) -> Result:
    given = ioctls.PRECOPY_INFO.pack(argsz, flags, 0, 0)
    return session.program.ioctl(session.data_fd, ioctls.MIG_GET_PRECOPY_INFO, given)


@step("precopy-(read|read-eof|stopcopy-read)")
def read_precopy(session: Session, _: re.Match[str]) -> Answer:
    return answer(session.program.read(session.data_fd, 4096))


@step("precopy-to-stopcopy")
def stop_copying(session: Session, _: re.Match[str]) -> Answer:
    done, fd = _set(session, STATES.index("STOP_COPY"))
    return answer(done, f"new_fd={_said(fd)}")


# --- DMA logging ----------------------------------------------------------------------------------------------------


@step("dmalog-start(|-0ranges|-unaligned)")
def start_logging(session: Session, match: re.Match[str]) -> Answer:
    iova, count = int(match[1] == "-unaligned"), int(match[1] != "-0ranges")
    ranges = session.program.place(struct.pack("<QQ", iova, _PAGES * _PAGE))
    done = feature(session, FEATURE_SET | ioctls.DMA_LOGGING_START, struct.pack("<QIIQ", _PAGE, count, 0, ranges))
    return answer(done, "" if match[1] else f"page_size={int.from_bytes(done.data[:8], 'little')}")


@step("dmalog-report")
def report_logged(session: Session, _: re.Match[str]) -> Answer:
    bitmap = session.program.place(bytes(8))
    given = struct.pack("<QQQQ", 0, _PAGES * _PAGE, _PAGE, bitmap)
    done = feature(session, FEATURE_GET | ioctls.DMA_LOGGING_REPORT, given)
    return answer(done, f"bitmap={session.program.load(8, bitmap):#x}")


@step("dmalog-stop")
def stop_logging(session: Session, _: re.Match[str]) -> Answer:
    return answer(feature(session, FEATURE_SET | ioctls.DMA_LOGGING_STOP))
