"""The steps in which a device tells of itself: GET_INFO, GET_REGION_INFO, GET_IRQ_INFO, RESET, and what it has not."""

import re
import struct

from golden.transcript import Answer
from golden.vfio import ioctls
from golden.vfio.session import Region, Session, answer, fields
from golden.vfio.table import step
from uapi.calls import BAD_POINTER

_CAPABILITIES = 48
"""Bytes from the first one on that the recorder wrote down."""


@step("bad-ioctl")
def unknown_ioctl(session: Session, _: re.Match[str]) -> Answer:
    return answer(session.ioctl(0x3B00 + 199))


@step(r"get-info-argsz-(\d+)")
def get_info(session: Session, match: re.Match[str]) -> Answer:
    argsz = int(match[1])
    done = session.ioctl(ioctls.DEVICE_GET_INFO, struct.pack("<II", argsz, 0).ljust(64, b"\xee"))
    argsz, flags, regions, irqs, capabilities = ioctls.DEVICE_INFO.unpack_from(done.data)
    values = argsz, flags, regions, irqs, capabilities
    return answer(
        done, fields("argsz flags num_regions num_irqs cap_offset", values, decimal="argsz num_regions num_irqs")
    )


@step("get-info-badptr")
def get_info_badly(session: Session, _: re.Match[str]) -> Answer:
    return answer(session.ioctl(ioctls.DEVICE_GET_INFO, BAD_POINTER))


@step(r"region-info-(-?\d+)")
def region_info(session: Session, match: re.Match[str]) -> Answer:
    index = int(match[1]) & 0xFFFFFFFF
    done = session.ioctl(
        ioctls.DEVICE_GET_REGION_INFO, ioctls.REGION_INFO.pack(256, 0, index, 0, 0, 0).ljust(256, b"\0")
    )
    argsz, flags, index, at, size, offset = ioctls.REGION_INFO.unpack_from(done.data)
    if done.errno is None:
        session.regions[index] = Region(offset, size)
    told = fields("argsz flags index size offset cap_offset", (argsz, flags, index, size, offset, at), decimal=_DECIMAL)
    return answer(done, f"{told} caps={done.data[at : at + _CAPABILITIES].hex() if at else ''}")


@step(r"region-info-(\d+)-argsz-(\d+)")
def region_info_of_size(session: Session, match: re.Match[str]) -> Answer:
    given = ioctls.REGION_INFO.pack(int(match[2]), 0, int(match[1]), 0, 0, 0).ljust(64, b"\0")
    done = session.ioctl(ioctls.DEVICE_GET_REGION_INFO, given)
    argsz, flags, _index, at, size, offset = ioctls.REGION_INFO.unpack_from(done.data)
    return answer(
        done, fields("argsz flags size offset cap_offset", (argsz, flags, size, offset, at), decimal=_DECIMAL)
    )


_DECIMAL = "argsz index"


@step("irq-info-before-get-info")
def irq_info_early(session: Session, _: re.Match[str]) -> Answer:
    done = session.ioctl(ioctls.DEVICE_GET_IRQ_INFO, ioctls.IRQ_INFO.pack(16, 0, 0, 0))
    return answer(done, fields("flags count", _of_irq(done.data)[1::2], decimal="count"))


@step(r"irq-info-(\d)")
def irq_info(session: Session, match: re.Match[str]) -> Answer:
    done = session.ioctl(ioctls.DEVICE_GET_IRQ_INFO, ioctls.IRQ_INFO.pack(16, 0, int(match[1]), 0))
    argsz, flags, _index, count = _of_irq(done.data)
    return answer(done, fields("argsz flags count", (argsz, flags, count), decimal="argsz count"))


@step("irq-info-argsz-8")
def irq_info_short(session: Session, _: re.Match[str]) -> Answer:
    return answer(session.ioctl(ioctls.DEVICE_GET_IRQ_INFO, ioctls.IRQ_INFO.pack(8, 0, 0, 0)))


def _of_irq(data: bytes) -> tuple[int, int, int, int]:
    argsz, flags, index, count = ioctls.IRQ_INFO.unpack(data)
    return argsz, flags, index, count


@step("reset")
def reset(session: Session, _: re.Match[str]) -> Answer:
    return answer(session.ioctl(ioctls.DEVICE_RESET))


@step("hot-reset-info")
def hot_reset_info(session: Session, _: re.Match[str]) -> Answer:
    return answer(session.ioctl(ioctls.DEVICE_GET_PCI_HOT_RESET_INFO, struct.pack("<III", 256, 0, 0).ljust(256, b"\0")))


@step("ioeventfd")
def ioeventfd(session: Session, _: re.Match[str]) -> Answer:
    return answer(session.ioctl(ioctls.DEVICE_IOEVENTFD, struct.pack("<IIQQiI", 32, 1, 0, 0, -1, 0)))
