"""The steps of containers and groups: from opening /dev/vfio/vfio to the device's descriptor, and back."""

import os
import re

from golden.transcript import Answer
from golden.vfio import ioctls
from golden.vfio.session import Session, answer, fields
from golden.vfio.table import step
from uapi.calls import Result, file_status

_IOVA, _SIZE = 0x100000, 0x10000


@step("container-open")
def open_container(session: Session, _: re.Match[str]) -> Answer:
    done = session.program.open("/dev/vfio/vfio")
    session.container = done.rc
    return answer(done, rc=0)


@step("api-version")
def api_version(session: Session, _: re.Match[str]) -> Answer:
    return answer(session.program.ioctl(session.container, ioctls.GET_API_VERSION))


@step(r"check-ext-(\d+)")
def check_extension(session: Session, match: re.Match[str]) -> Answer:
    return answer(session.program.ioctl(session.container, ioctls.CHECK_EXTENSION, int(match[1])))


@step("group-node")
def stat_group(session: Session, _: re.Match[str]) -> Answer:
    done = session.program.stat(session.group_path)
    mode, uid, gid, rdev = file_status(done.data)
    return answer(done, f"mode=0{mode:o} uid={uid} gid={gid} major={int(os.major(rdev) > 0)}")


@step("group-open")
def open_group(session: Session, _: re.Match[str]) -> Answer:
    done = session.program.open(session.group_path)
    session.group = done.rc
    return answer(done, rc=0)


@step("group-open-second")
def open_group_again(session: Session, _: re.Match[str]) -> Answer:
    return answer(session.program.open(session.group_path), rc=0)


@step(r"group-status-\d")
def group_status(session: Session, _: re.Match[str]) -> Answer:
    done = session.program.ioctl(session.group, ioctls.GROUP_GET_STATUS, (8).to_bytes(8, "little"))
    return answer(done, f"flags={int.from_bytes(done.data[4:], 'little'):#x}")


@step("set-container(|-badfd|-twice)")
def set_container(session: Session, match: re.Match[str]) -> Answer:
    fd = 0 if match[1] == "-badfd" else session.container
    return answer(session.program.ioctl(session.group, ioctls.GROUP_SET_CONTAINER, fd.to_bytes(4, "little")))


_IOMMUS = {"-no-group": 1, "-bad": 77, "": ioctls.TYPE1V2, "-twice": ioctls.TYPE1V2}


@step("set-iommu(|-no-group|-bad|-twice)")
def set_iommu(session: Session, match: re.Match[str]) -> Answer:
    return answer(session.program.ioctl(session.container, ioctls.SET_IOMMU, _IOMMUS[match[1]]))


@step("iommu-info")
def iommu_info(session: Session, _: re.Match[str]) -> Answer:
    size = 4096
    done = session.program.ioctl(
        session.container, ioctls.IOMMU_GET_INFO, ioctls.TYPE1_INFO.pack(size, 0, 0, 0).ljust(size, b"\0")
    )
    values = ioctls.TYPE1_INFO.unpack_from(done.data)[:3]
    return answer(done, fields("argsz flags iova_pgsizes", values, decimal="argsz"))


@step("dma-map(|-dup|-unaligned)")
def map_dma(session: Session, match: re.Match[str]) -> Answer:
    if not session.dma:
        address = session.program.anonymous(_SIZE)
        session.dma = ioctls.DMA_MAP.pack(ioctls.DMA_MAP.size, ioctls.MAP_READ_WRITE, address, _IOVA, _SIZE)
    argsz, flags, address, iova, size = ioctls.DMA_MAP.unpack(session.dma)
    iova = 1 if match[1] == "-unaligned" else iova
    return answer(
        session.program.ioctl(
            session.container, ioctls.IOMMU_MAP_DMA, ioctls.DMA_MAP.pack(argsz, flags, address, iova, size)
        )
    )


@step("dma-unmap")
def unmap_dma(session: Session, _: re.Match[str]) -> Answer:
    given = ioctls.DMA_UNMAP.pack(ioctls.DMA_UNMAP.size, 0, _IOVA, _SIZE)
    done = session.program.ioctl(session.container, ioctls.IOMMU_UNMAP_DMA, given)
    return answer(done, f"size={ioctls.DMA_UNMAP.unpack(done.data)[3]:#x}")


@step("get-device-fd-bad-(.)", with_command=True)
def get_no_device(session: Session, match: re.Match[str]) -> Answer:
    return answer(_get_device(session, match.string.partition(" ")[2]), rc=0)


@step("get-device-fd(|-no-container|-no-iommu)")
def get_device(session: Session, match: re.Match[str]) -> Answer:
    done = _get_device(session, session.uuid)
    if match[1] == "":
        session.device = done.ok
    return answer(done, rc=0)


@step("get-device-fd-second")
def get_device_again(session: Session, _: re.Match[str]) -> Answer:
    done = _get_device(session, session.uuid)
    _closed = session.program.close(done.ok).ok
    return answer(done, rc=0)


@step("unset-container(|-busy)")
def unset_container(session: Session, match: re.Match[str]) -> Answer:
    if match[1] == "":
        session.let_go()
    return answer(session.program.ioctl(session.group, ioctls.GROUP_UNSET_CONTAINER))


def _get_device(session: Session, name: str) -> Result:
    return session.program.ioctl(session.group, ioctls.GROUP_GET_DEVICE_FD, name.encode().ljust(64, b"\0"))
