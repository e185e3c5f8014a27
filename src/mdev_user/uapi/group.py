"""/dev/vfio/N: an iommu group. It has one mdev, and may be open once.

Checks and errno are those of ``drivers/vfio/group.c``. A group is released when neither it nor a device of it is open.
"""

from collections.abc import Callable
from errno import EBADF, EBADFD, EBUSY, EINVAL, ENODEV, ENOTTY
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from typing_extensions import override

from mdev_user.uapi.abi import vfio as abi
from mdev_user.uapi.abi.vfio import Command
from mdev_user.uapi.call import Given
from mdev_user.uapi.claims import Claims
from mdev_user.uapi.container import Member
from mdev_user.uapi.device import Device, connect
from mdev_user.uapi.files import File, refused
from mdev_user.uapi.nodes import Node, Nodes

if TYPE_CHECKING:
    from uuid import UUID

    from mdev_user.uapi.call import Call

_LONGEST_NAME = 4096
_NAME_PIECE = 64


@runtime_checkable
class GroupContainer(Protocol):
    """What a group can be put in: a `Container`, or an iommufd, which answers for one."""

    @property
    def has_iommu(self) -> bool: ...

    def attach_group(self, group: Member) -> None: ...

    def detach_group(self, group: Member) -> None: ...

    def attach(self, device: Device) -> None: ...

    def detach(self, device: Device) -> None: ...


class Groups:
    """Opens groups, each once. Used under the supervisor's tables."""

    def __init__(self, nodes: Nodes, claims: Claims) -> None:
        self._nodes = nodes
        self._claims = claims

    def open(self, call: "Call", node: Node) -> "Group":
        """EBUSY while it, a device of it or its cdev is open; ENODEV where there is no such group."""
        uuid = next(iter(self._nodes.of_group(node.number)), None)
        if uuid is None:
            raise refused(ENODEV)
        self._claims.open_group(uuid)
        try:
            group = Group(node, uuid, self._nodes.socket(uuid), lambda: self._claims.close(uuid))
        except BaseException:
            self._claims.close(uuid)
            raise
        call.add(group)
        return group


class Group(File):
    """One open group."""

    def __init__(self, node: Node, uuid: "UUID", socket: Path, on_release: Callable[[], None]) -> None:
        super().__init__(f"vfio-group-{node.number}", node.rdev)
        self.devices: list[Device] = []
        self._name = str(uuid)
        self._socket = socket
        self._on_release = on_release
        self._container: GroupContainer | None = None
        self._closed = False

    @override
    def ioctl(self, call: "Call", command: int, argument: int) -> int | Given:
        perform = _IOCTLS.get(command)
        if perform is None:
            raise refused(ENOTTY)
        return perform(self, call, argument)

    @override
    def released(self) -> None:
        self._closed = True
        self._let_go()

    def _get_status(self, call: "Call", argument: int) -> int:
        argsz, _ = abi.GROUP_STATUS.unpack(call.read(argument, abi.GROUP_STATUS.size))
        if argsz < abi.GROUP_STATUS.size:
            raise refused(EINVAL)
        flags = abi.GROUP_VIABLE | (abi.GROUP_CONTAINER_SET if self._container is not None else 0)
        call.write(argument, abi.GROUP_STATUS.pack(argsz, flags))
        return 0

    def _set_container(self, call: "Call", argument: int) -> int:
        number = int.from_bytes(call.read(argument, 4), "little", signed=True)
        if number < 0 or self._container is not None:
            raise refused(EINVAL)
        container = call.file(number)
        if container is None and not call.program.has_fd(number):
            raise refused(EBADF)
        taking = _container(container)
        if taking is None:
            raise refused(EBADFD)
        taking.attach_group(self)
        self._container = taking
        return 0

    def _unset_container(self, _call: "Call", _argument: int) -> int:
        if self._container is None:
            raise refused(EINVAL)
        if self.devices:
            raise refused(EBUSY)
        self._leave()
        return 0

    def _get_device_fd(self, call: "Call", argument: int) -> Given:
        if _string(call, argument) != self._name:
            raise refused(ENODEV)
        if self._container is None or not self._container.has_iommu:
            raise refused(EINVAL)
        return Given(self.devices[0] if self.devices else self._connect(call, self._container))

    def _connect(self, call: "Call", container: GroupContainer) -> Device:
        device = connect(call, self._name, self._socket)
        call.add(device)
        self.devices.append(device)
        device.on_release.append(lambda: self._release(device, container))
        try:
            container.attach(device)
        except BaseException:
            call.serving.files.remove(device)
            raise
        return device

    def _release(self, device: Device, container: GroupContainer) -> None:
        container.detach(device)
        self.devices.remove(device)
        self._let_go()

    def _let_go(self) -> None:
        if not self._closed or self.devices:
            return
        if self._container is not None:
            self._leave()
        self._on_release()

    def _leave(self) -> None:
        container, self._container = self._container, None
        if container is not None:
            container.detach_group(self)


_IOCTLS: dict[int, Callable[[Group, "Call", int], int | Given]] = {
    Command.GROUP_GET_STATUS: Group._get_status,  # noqa: SLF001 - our own, as all of these
    Command.GROUP_SET_CONTAINER: Group._set_container,  # noqa: SLF001
    Command.GROUP_UNSET_CONTAINER: Group._unset_container,  # noqa: SLF001
    Command.GROUP_GET_DEVICE_FD: Group._get_device_fd,  # noqa: SLF001
}


def _container(file: File | None) -> GroupContainer | None:
    return file if isinstance(file, GroupContainer) else None


def _string(call: "Call", address: int) -> str:
    """EFAULT where no string is, EINVAL for one that is longer than a page (strndup_user)."""
    found = b""
    while len(found) < _LONGEST_NAME:
        piece = call.read(address + len(found), _NAME_PIECE - (address + len(found)) % _NAME_PIECE)
        text, end, _ = piece.partition(b"\0")
        found += text
        if end:
            return found.decode("utf-8", "replace")
    raise refused(EINVAL)
