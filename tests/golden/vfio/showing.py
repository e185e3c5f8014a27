"""The steps of displays: the plane that is shown, dma-bufs, Bochs's dispi registers and the EDID region."""

import re

from golden.transcript import Answer
from golden.vfio import ioctls
from golden.vfio.session import Session, answer
from golden.vfio.table import step
from uapi.calls import Result

_EDID, _REGS = 9, 2
_DISPI = 0x500
_EDID_SIZE, _MAX_XRES, _LINK_STATE, _BLOB = 0x08, 0x0C, 0x14, 0x800
_DMABUF = 2


@step("gfx-(probe|region|dmabuf|none).*", with_command=True)
def query_plane(session: Session, match: re.Match[str]) -> Answer:
    told = re.search(r"flags=(0x\w+) drm_plane_type=(\d)", match.string)
    assert told is not None
    done = _query(session, int(told[1], 16), int(told[2]))
    _argsz, _flags, _kind, fmt, modifier, *more, leads_to = ioctls.GFX_PLANE.unpack(done.data)
    session.dmabuf = leads_to or session.dmabuf
    names = ("width", "height", "stride", "size", "x", "y", "xh", "yh", "region/dmabuf")
    values = " ".join(f"{name}={value}" for name, value in zip(names, (*more, leads_to), strict=True))
    return answer(done, f"drm_format={fmt:#010x} mod={modifier} {values}")


@step("gfx-argsz-16")
def query_short(session: Session, _: re.Match[str]) -> Answer:
    return answer(_query(session, _DMABUF, 1, argsz=16))


@step("gfx-cursor-plane")
def query_cursor(session: Session, _: re.Match[str]) -> Answer:
    done = _query(session, _DMABUF, 2)
    plane = ioctls.GFX_PLANE.unpack(done.data)
    return answer(done, f"w={plane[5]} id={plane[-1]}")


@step("gfx-get-dmabuf(|-badid)")
def get_dmabuf(session: Session, match: re.Match[str]) -> Answer:
    number = 4242 if match[1] else session.dmabuf
    done = session.ioctl(ioctls.DEVICE_GET_GFX_DMABUF, number.to_bytes(4, "little"))
    if done.errno is not None:
        return answer(done)
    session.program.close(done.rc)
    return answer(done, "fd", rc=0)


def _query(session: Session, flags: int, kind: int, argsz: int = ioctls.GFX_PLANE.size) -> Result:
    return session.ioctl(ioctls.DEVICE_QUERY_GFX_PLANE, ioctls.GFX_PLANE.pack(argsz, flags, kind, *[0] * 11))


@step("mbochs-dispi")
def set_mode(session: Session, _: re.Match[str]) -> Answer:
    for register, value in ((4, 0), (1, 640), (2, 480), (3, 32), (6, 640), (7, 480), (4, 0x41)):
        session.write(_REGS, _DISPI + 2 * register, value.to_bytes(2, "little"))
    values = [session.value(_REGS, _DISPI + 2 * register, 2) for register in range(11)]
    told = [f"{value:04x}" if register in {0, 4} else str(value) for register, value in enumerate(values)]
    return Answer(0, None, " ".join(told))


@step("edid-regs")
def read_edid_registers(session: Session, _: re.Match[str]) -> Answer:
    offset, most, *more = (session.value(_EDID, at, 4) for at in range(0, 24, 4))
    names = ("edid_size", "max_xres", "max_yres", "link_state")
    told = " ".join(f"{name}={value}" for name, value in zip(names, more, strict=True))
    return Answer(0, None, f"edid_offset={offset:#x} edid_max_size={most} {told}")


@step("edid-link-down")
def link_down(session: Session, _: re.Match[str]) -> Answer:
    return answer(_put(session, _LINK_STATE, 2))


@step("edid-write-ro")
def write_read_only(session: Session, _: re.Match[str]) -> Answer:
    done = _put(session, _MAX_XRES, 77)
    return answer(done, f"readback={session.value(_EDID, _MAX_XRES, 4)}")


@step("edid-in-mmio")
def show_edid(session: Session, _: re.Match[str]) -> Answer:
    session.write(_EDID, _BLOB, bytes.fromhex("00ffffffffffff00"))
    _put(session, _EDID_SIZE, 8)
    _put(session, _LINK_STATE, 1)
    done = session.read(_REGS, 0, 4)
    return answer(Result(0, done.errno), f"0x{done.data.hex()}")


def _put(session: Session, offset: int, value: int) -> Result:
    return session.write(_EDID, offset, value.to_bytes(4, "little"))
