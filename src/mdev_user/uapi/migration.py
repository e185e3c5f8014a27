"""Migration by the ioctl ABI: VFIO_DEVICE_FEATURE, and the file through which a device's state comes and goes.

The features are those of ``include/uapi/linux/vfio.h``, the order of the checks and their errno those of
``drivers/vfio/vfio_main.c`` (`vfio_ioctl_device_feature`); what they do is asked of the device's vfio-user server.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from errno import EBADF, ENODEV, ENOMSG, ESPIPE
from struct import Struct
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from typing_extensions import override

from mdev_user.errors import AddressOverflow, GuestError, MdevUserError, TooManyRanges, UnknownRequest
from mdev_user.uapi.files import File
from mdev_user.units import PAGE, KiB, is_power_of_two
from mdev_user.vfio.dirty import MOST_RANGES
from mdev_user.vfio.migration_states import (
    ERROR,
    PRE_COPY,
    PRE_COPY_P2P,
    RESUMING,
    RUNNING,
    STOP_COPY,
    MigrationFlags,
    MigrationState,
)
from mdev_user.vfio_user.connection import RemoteError
from mdev_user.vfio_user.framing import LARGEST_DATA
from mdev_user.vfio_user.messages import DmaReport, Feature, FeatureOps

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from mdev_user.uapi.call import Call, Given
    from mdev_user.vfio_user.client import Client

VFIO_MIG_GET_PRECOPY_INFO = 0x3B79
"""``_IO(';', 121)``, of a data file."""
PRECOPY_INFO_V2 = 12
"""VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2: the flags of VFIO_MIG_GET_PRECOPY_INFO mean something; we set none."""

_FEATURE = Struct("=II")
_STATE = Struct("=Ii")
_U64 = Struct("=Q")
_CONTROL = Struct("=QIIQ")
_RANGE = Struct("=QQ")
_REPORT = Struct("=QQQQ")
_PRECOPY_INFO = Struct("=IIQQ")
_NO_FD = -1
_NUMBER = 0xFFFF
_GET, _SET, _PROBE = FeatureOps.GET, FeatureOps.SET, FeatureOps.PROBE
_OPS = _GET | _SET | _PROBE
_ADDRESS_SPACE = 1 << 64
_BITMAP = 512 * KiB
"""Bytes of a bitmap that are asked for at once: well below what fits in a message."""

_PRE_COPYING = frozenset({PRE_COPY, PRE_COPY_P2P})
_SAVING = _PRE_COPYING | {STOP_COPY}


class MigratedDevice(Protocol):
    """What is needed of an open device."""

    @property
    def client(self) -> "Client": ...

    def using(self, call: "Call") -> "AbstractContextManager[None]":
        """The client is this call's meanwhile. The supervisor's tables are never locked within."""
        ...

    @property
    def migration(self) -> "DeviceMigration": ...


class DeviceMigration:
    """How far the user of one open device is: the state it is in, and the data file that is good in it."""

    __slots__ = ("data", "precopy_info_v2", "state")

    def __init__(self) -> None:
        self.state = RUNNING
        self.data: MigrationData | None = None
        self.precopy_info_v2 = False

    def moved(self, state: MigrationState) -> None:
        """The device is there now: a data file for the other direction, or for none, is good for nothing any more."""
        if _direction(state) != _direction(self.state):
            self.end()
        self.state = state

    def reset(self) -> None:
        """The device was reset: it runs."""
        self.moved(RUNNING)

    def end(self) -> None:
        """The stream is over, or the device is closed."""
        self.data = None


def feature(device: MigratedDevice, call: "Call", argument: int) -> int:
    """Answer VFIO_DEVICE_FEATURE.

    ENOTTY for a feature that the device does not have, EINVAL for what cannot be done with it or too little room,
    EFAULT where the program's memory is not there, else what the device says.
    """
    argsz, flags = _FEATURE.unpack(call.read(argument, _FEATURE.size))
    number, ops = flags & _NUMBER, FeatureOps(flags & _OPS)
    if argsz < _FEATURE.size or flags & ~(_NUMBER | int(_OPS)):
        raise GuestError(f"VFIO_DEVICE_FEATURE argsz {argsz}, flags {flags:#x}: expected 8, and GET, SET and PROBE")
    if _PROBE not in ops and ops == _GET | _SET:
        raise GuestError("VFIO_DEVICE_FEATURE: expected GET or SET; both only to PROBE")
    rule = _RULES.get(number)
    if rule is None:
        raise UnknownRequest(f"VFIO_DEVICE_FEATURE: there is no feature {number}")
    with device.using(call):
        _check_had(device, rule)
        if ops & ~_PROBE & ~rule.ops:
            raise GuestError(f"feature {number}: {ops!s} was asked for, it has {rule.ops!s}")
        if _PROBE in ops:
            return 0
        if not ops or argsz - _FEATURE.size < rule.size:
            raise GuestError(f"feature {number}: {ops!s}, argsz {argsz}: expected GET or SET, and {rule.size} bytes")
        file = rule.perform(device, call, ops, argument + _FEATURE.size)
    if file is not None:
        _give(call, file, argument + _FEATURE.size)
    return 0


class MigrationData(File):
    """The data_fd of VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE: a stream, out in PRE_COPY and STOP_COPY, in in RESUMING.

    ENODEV once the device has left those states.
    """

    def __init__(self, device: MigratedDevice, *, saving: bool) -> None:
        super().__init__("vfio_mig")
        self._device = device
        self._saving = saving
        self._lock = Lock()  # one read or write at a time, as f_pos makes it of the kernel's
        self._passes = 0
        self._drained = False

    @override
    def answers_alone(self, _command: int) -> bool:
        return True

    @override
    def ioctl(self, call: "Call", command: int, argument: int) -> "int | Given":
        """VFIO_MIG_GET_PRECOPY_INFO alone: EINVAL but in PRE_COPY and PRE_COPY_P2P."""
        if command != VFIO_MIG_GET_PRECOPY_INFO or not self._saving:
            return super().ioctl(call, command, argument)
        argsz, flags, _, _ = _PRECOPY_INFO.unpack(call.read(argument, _PRECOPY_INFO.size))
        if argsz < _PRECOPY_INFO.size:
            raise GuestError(f"VFIO_MIG_GET_PRECOPY_INFO argsz {argsz}: expected {_PRECOPY_INFO.size}")
        with self._device.using(call):
            if self._device.migration.state not in _PRE_COPYING:
                raise GuestError("VFIO_MIG_GET_PRECOPY_INFO: expected the device in PRE_COPY")
            self._check_good()
            initial, dirty = self._precopy()
        flags = 0 if self._device.migration.precopy_info_v2 else flags
        call.write(argument, _PRECOPY_INFO.pack(argsz, flags, initial, dirty))
        return 0

    @override
    def read(self, call: "Call", address: int, count: int, offset: int | None) -> int:
        """Up to 1 MiB of the state. 0 at its end; ENOMSG where there is no more of it while the device runs."""
        self._check(saving=True, offset=offset)
        call.may_wait()
        with self._lock, self._device.using(call):
            self._check_good()
            if not count:
                return 0
            data = self._device.client.read_migration_data(min(count, LARGEST_DATA))
            precopying = self._device.migration.state in _PRE_COPYING
            self._count(len(data))
        call.write(address, data)
        if not data and precopying:
            raise OSError(ENOMSG, "the device's state has been read for now")
        return len(data)

    @override
    def write(self, call: "Call", address: int, count: int, offset: int | None) -> int:
        self._check(saving=False, offset=offset)
        call.may_wait()
        with self._lock, self._device.using(call):
            self._check_good()
            data = call.read(address, min(count, LARGEST_DATA))
            self._device.client.write_migration_data(data)
        return len(data)

    def _check(self, *, saving: bool, offset: int | None) -> None:
        if offset is not None:
            raise OSError(ESPIPE, "a migration's data is a stream")
        if saving is not self._saving:
            raise OSError(EBADF, f"a migration's data is {'read' if self._saving else 'written'} here")

    def _check_good(self) -> None:
        if self._device.migration.data is not self:
            raise OSError(ENODEV, "the device has left the state that this data file was made for")

    def _count(self, size: int) -> None:
        self._passes += not size and not self._drained
        self._drained = not size

    def _precopy(self) -> tuple[int, int]:
        """Initial and dirty bytes, an estimate: vfio-user has no message for it.

        All that is left until the device is elsewhere, initial until nothing was there to read for the first time,
        dirty later; and nothing as long as nothing is there to read.
        """
        if self._drained:
            return 0, 0
        left = _size_or_0(self._device.client)
        return (0, left) if self._passes else (left, 0)


def _size_or_0(client: "Client") -> int:
    try:
        return client.migration_data_size()
    except RemoteError:  # a server of others' that knows nothing but the specification
        return 0


def _direction(state: MigrationState) -> int:
    if state in _SAVING:
        return 1
    return -1 if state is RESUMING else 0


# --- the features: each has checked what was asked for, and acts on the data after the head


def _check_had(device: MigratedDevice, rule: "_Rule") -> None:
    """ENOTTY where the device does not have the feature."""
    device.client.probe_feature(rule.probed, FeatureOps(0))
    if rule.check is not None:
        rule.check(device)


def _flags(device: MigratedDevice, call: "Call", _ops: FeatureOps, data: int) -> None:
    call.write(data, _U64.pack(device.client.feature_flags()))


def _data_size(device: MigratedDevice, call: "Call", _ops: FeatureOps, data: int) -> None:
    call.write(data, _U64.pack(device.client.migration_data_size()))


def _device_state(device: MigratedDevice, call: "Call", ops: FeatureOps, data: int) -> "MigrationData | None":
    """A data file that is to be given, when the device entered a state that has another stream than the one before."""
    target, _fd = _STATE.unpack(call.read(data, _STATE.size))
    if ops == _GET:
        call.write(data, _STATE.pack(device.client.migration_state(), _NO_FD))
        return None
    call.write(data, _STATE.pack(target, _NO_FD))
    call.may_wait()
    return _enter(device, target)


def _enter(device: MigratedDevice, target: int) -> "MigrationData | None":
    """Let the device go there, and know where it is also when it failed on the way; the new data file, if any."""
    if target not in list(MigrationState):
        raise GuestError(f"VFIO_DEVICE_FEATURE: there is no migration state {target}")
    try:
        device.client.set_migration_state(MigrationState(target))
    except RemoteError:
        device.migration.moved(_state_or_error(device.client))
        raise
    migration = device.migration
    migration.moved(MigrationState(target))
    if migration.data is not None or not _direction(migration.state):
        return None
    migration.data = MigrationData(device, saving=migration.state in _SAVING)
    return migration.data


def _give(call: "Call", file: "MigrationData", data: int) -> None:
    """Without the device's lock: whoever has the tables' may be waiting for it."""
    with call.tables:
        call.add(file)
        try:
            number = call.give(file, cloexec=True)
        except BaseException:
            call.serving.files.remove(file)
            raise
    state, _fd = _STATE.unpack(call.read(data, _STATE.size))
    call.write(data, _STATE.pack(state, number))


def _state_or_error(client: "Client") -> MigrationState:
    try:
        return client.migration_state()
    except (OSError, MdevUserError):
        return ERROR


def _start_logging(device: MigratedDevice, call: "Call", _ops: FeatureOps, data: int) -> None:
    page_size, count, reserved, where = _CONTROL.unpack(call.read(data, _CONTROL.size))
    if not count:  # which in vfio-user means all memory
        raise GuestError("DMA_LOGGING_START without ranges: expected one or more")
    if count > MOST_RANGES:
        raise TooManyRanges(f"DMA_LOGGING_START of {count} ranges: expected at most {MOST_RANGES}")
    ranges = list(_RANGE.iter_unpack(call.read(where, count * _RANGE.size)))
    _check_ranges(ranges)
    logged = device.client.start_dma_logging(page_size, ranges)
    call.write(data, _CONTROL.pack(logged, count, reserved, where))


def _check_ranges(ranges: Sequence[tuple[int, int]]) -> None:
    for iova, length in ranges:
        if iova + length >= _ADDRESS_SPACE:
            raise AddressOverflow(f"DMA_LOGGING_START: {length:#x} bytes at {iova:#x} reach beyond 64 bits")


def _stop_logging(device: MigratedDevice, _call: "Call", _ops: FeatureOps, _data: int) -> None:
    device.client.stop_dma_logging()


def _report_logging(device: MigratedDevice, call: "Call", _ops: FeatureOps, data: int) -> None:
    """Sets the bits of dirty pages in the program's bitmap; the others it leaves as they are, as Linux does."""
    iova, length, page_size, bitmap = _REPORT.unpack(call.read(data, _REPORT.size))
    if page_size < PAGE or not is_power_of_two(page_size):
        raise GuestError(f"DMA_LOGGING_REPORT by {page_size:#x} bytes: expected a power of two, {PAGE:#x} or more")
    if iova + length >= _ADDRESS_SPACE:
        raise AddressOverflow(f"DMA_LOGGING_REPORT: {length:#x} bytes at {iova:#x} reach beyond 64 bits")
    step = _BITMAP * 8 * page_size
    for start in range(0, length, step):
        part = DmaReport(iova + start, min(step, length - start), page_size)
        where = bitmap + start // step * _BITMAP
        before = call.read(where, part.bitmap_size)
        found = device.client.report_dma_logging(part.iova, part.length, page_size)
        if any(found):
            call.write(where, _united(before, found))


def _united(one: bytes, two: bytes) -> bytes:
    return (int.from_bytes(one, "little") | int.from_bytes(two, "little")).to_bytes(len(one), "little")


def _precopy_info_v2(device: MigratedDevice, _call: "Call", _ops: FeatureOps, _data: int) -> None:
    device.migration.precopy_info_v2 = True


def _check_precopy(device: MigratedDevice) -> None:
    if MigrationFlags.PRE_COPY not in device.client.feature_flags():
        raise GuestError("MIG_PRECOPY_INFOv2: the device has no PRE_COPY")


@dataclass(frozen=True, slots=True)
class _Rule:
    """What may be done with a feature, the least size of its data, and what a device that has it has in vfio-user."""

    ops: FeatureOps
    size: int
    probed: Feature
    perform: Callable[[MigratedDevice, "Call", FeatureOps, int], MigrationData | None]
    check: Callable[[MigratedDevice], None] | None = None


_RULES: dict[int, _Rule] = {
    Feature.MIGRATION: _Rule(_GET, _U64.size, Feature.MIGRATION, _flags),
    Feature.MIG_DEVICE_STATE: _Rule(_GET | _SET, _STATE.size, Feature.MIG_DEVICE_STATE, _device_state),
    Feature.DMA_LOGGING_START: _Rule(_SET, _CONTROL.size, Feature.DMA_LOGGING_START, _start_logging),
    Feature.DMA_LOGGING_STOP: _Rule(_SET, 0, Feature.DMA_LOGGING_STOP, _stop_logging),
    Feature.DMA_LOGGING_REPORT: _Rule(_GET, _REPORT.size, Feature.DMA_LOGGING_REPORT, _report_logging),
    Feature.MIG_DATA_SIZE: _Rule(_GET, _U64.size, Feature.MIG_DATA_SIZE, _data_size),
    PRECOPY_INFO_V2: _Rule(_SET, 0, Feature.MIGRATION, _precopy_info_v2, _check_precopy),
}
