"""/dev/vfio/devices/vfioN: an mdev's own node. It does nothing until it is bound to an iommufd.

Checks and errno are those of ``drivers/vfio/device_cdev.c``. At BIND the descriptor becomes the device's file, in
place; until then it is a placeholder, and copies of it that were made before pass on what they are asked.
"""

from collections.abc import Callable
from errno import EBADF, EBADFD, EINVAL, EOPNOTSUPP
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING
from uuid import UUID

from typing_extensions import override

from mdev_user.uapi.abi import iommufd as abi
from mdev_user.uapi.abi.vfio import Command
from mdev_user.uapi.claims import Claims
from mdev_user.uapi.device import Device, connect
from mdev_user.uapi.files import File, refused
from mdev_user.uapi.ioas import Bound
from mdev_user.uapi.iommufd import IommuFile
from mdev_user.uapi.nodes import Node, Nodes

if TYPE_CHECKING:
    from mdev_user.uapi.call import Call


class Cdev(File):
    """One open of the node, before it is bound. It may be open many times; one of them may be bound."""

    def __init__(self, node: Node, uuid: UUID, socket: Path, claims: Claims) -> None:
        super().__init__(f"vfio-cdev-{node.number}", node.rdev)
        self._uuid = uuid
        self._socket = socket
        self._claims = claims
        self._device: Device | None = None

    @override
    def ioctl(self, call: "Call", command: int, argument: int) -> int:
        """EINVAL for everything but BIND."""
        if self._device is not None:
            return self._device.ioctl(call, command, argument)
        if command != Command.DEVICE_BIND_IOMMUFD:
            raise refused(EINVAL)
        return self._bind(call, argument)

    @override
    def read(self, call: "Call", address: int, count: int, offset: int | None) -> int:
        return self._bound().read(call, address, count, offset)

    @override
    def write(self, call: "Call", address: int, count: int, offset: int | None) -> int:
        return self._bound().write(call, address, count, offset)

    @override
    def mmap(self, call: "Call", length: int, protection: int, flags: int, offset: int) -> None:
        """Never: what the kernel would map is not the device."""
        raise refused(EINVAL)

    def _bound(self) -> Device:
        if self._device is None:
            raise refused(EINVAL)
        return self._device

    def _bind(self, call: "Call", argument: int) -> int:
        number = checked_bind(call, argument)
        self._claims.check(self._uuid)
        iommu = _iommu_file(call, number)
        device = connect(call, str(self._uuid), self._socket, self.rdev)
        call.add(device)
        try:
            self._become(call, device, iommu.objects.bind(device), argument)
        except BaseException:
            call.serving.files.remove(device)
            raise
        return 0

    def _become(self, call: "Call", device: Device, bound: Bound, argument: int) -> None:
        self._claims.bind(self._uuid)
        self._device = device
        device.on_release.append(lambda: self._release(bound))
        device.also = Attachment(bound).ioctls
        call.write(argument + abi.OUT_DEVID, bound.id.to_bytes(4, "little"))
        call.replace(call.args[0] & 0x7FFF_FFFF, device)

    def _release(self, bound: Bound) -> None:
        self._device = None
        bound.unbind()
        self._claims.close(self._uuid)


class Attachment:
    """The ioctls that a device has because it was opened by its own node."""

    def __init__(self, bound: Bound) -> None:
        self._bound = bound
        self.ioctls: dict[int, Callable[[Call, int], int]] = {
            Command.DEVICE_BIND_IOMMUFD: self._bind_again,
            Command.DEVICE_ATTACH_IOMMUFD_PT: self._attach,
            Command.DEVICE_DETACH_IOMMUFD_PT: self._detach,
        }

    def _bind_again(self, call: "Call", argument: int) -> int:
        checked_bind(call, argument)
        raise refused(EINVAL)

    def _attach(self, call: "Call", argument: int) -> int:
        *_, pt_id = _checked(call, argument, abi.ATTACH_PT)
        call.may_wait()
        self._bound.attach(pt_id)
        try:
            call.write(argument + abi.PT_ID, pt_id.to_bytes(4, "little"))
        except BaseException:
            self._bound.detach()
            raise
        return 0

    def _detach(self, call: "Call", argument: int) -> int:
        _checked(call, argument, abi.DETACH_PT)
        call.may_wait()
        self._bound.detach()
        return 0


class Cdevs:
    """Opens the nodes. Used under the supervisor's tables."""

    def __init__(self, nodes: Nodes, claims: Claims) -> None:
        self._nodes = nodes
        self._claims = claims

    def open(self, call: "Call", node: Node) -> Cdev:
        """As often as is asked for. ENODEV where there is no such device."""
        uuid = self._nodes.of_cdev(node.number)
        cdev = Cdev(node, uuid, self._nodes.socket(uuid), self._claims)
        call.add(cdev)
        return cdev


def checked_bind(call: "Call", argument: int) -> int:
    """The iommufd that a BIND names. EINVAL for a short structure, a flag, or no descriptor."""
    argsz, flags, number, _ = abi.BIND.unpack(call.read(argument, abi.BIND.size))
    if argsz < abi.BIND.size or flags or number < 0:
        raise refused(EINVAL)
    found: int = number
    return found


def _iommu_file(call: "Call", number: int) -> IommuFile:
    file = call.file(number)
    if isinstance(file, IommuFile):
        return file
    raise refused(EBADFD if file is not None or call.program.has_fd(number) else EBADF)


def _checked(call: "Call", argument: int, layout: Struct) -> tuple[int, ...]:
    """EINVAL for a short structure or an unknown flag, EOPNOTSUPP for a PASID: no device of ours has any."""
    fields = layout.unpack(call.read(argument, layout.size))
    argsz, flags, *_ = fields
    if argsz < layout.size or flags & ~abi.PASID:
        raise refused(EINVAL)
    if flags:
        raise refused(EOPNOTSUPP)
    return fields
