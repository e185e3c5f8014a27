"""DEVICE_FEATURE: what it does to the migration state and the dirty log of a device.

The order of the checks and their errno are Linux's (``vfio_check_feature`` and the features in
``drivers/vfio/vfio_main.c``): ENOTTY for a feature that the device does not have, EINVAL for an operation that the
feature does not have and for too little room, and then what the feature itself says.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mdev_user.errors import GuestError, UnknownRequest
from mdev_user.vfio.dirty import DirtyLog
from mdev_user.vfio.migration_states import MigrationFlags, MigrationState
from mdev_user.vfio.planes import Plane, PlaneType
from mdev_user.vfio_user import messages as m

_GET, _SET, _PROBE = m.FeatureOps.GET, m.FeatureOps.SET, m.FeatureOps.PROBE


class Migration(Protocol):
    """What is asked of a migration; `mdev_user.vfio.migration.Migration` tells the rest."""

    @property
    def flags(self) -> MigrationFlags: ...

    @property
    def state(self) -> MigrationState: ...

    def set_state(self, target: int) -> None: ...

    def data_size(self) -> int: ...


class Screen(Protocol):
    """What is asked of a device's screen; `mdev_user.vfio.ops.DeviceOps` tells the rest."""

    def has_screen(self) -> bool: ...

    def plane(self, kind: PlaneType) -> Plane | None: ...


@dataclass(frozen=True, slots=True)
class _Rule:
    """What may be done with a feature, how many bytes its data has at least, and what does it."""

    ops: m.FeatureOps
    size: int
    perform: Callable[[m.DeviceFeature], m.DeviceFeature]


class DeviceFeatures:
    """The features of one device, under its step lock."""

    def __init__(
        self,
        migration: Callable[[], Migration],
        log: Callable[[], DirtyLog] | None = None,
        screen: Callable[[], Screen] | None = None,
    ) -> None:
        """They are asked for at each request, since each user has others; one that is None is not there."""
        self._migration = migration
        self._rules: dict[int, _Rule] = {
            m.Feature.MIGRATION: _Rule(_GET, m.U64.SIZE, self._flags),
            m.Feature.MIG_DEVICE_STATE: _Rule(_GET | _SET, m.DeviceState.SIZE, self._device_state),
            m.Feature.MIG_DATA_SIZE: _Rule(_GET, m.U64.SIZE, self._data_size),
        }
        self._of_migration = frozenset(self._rules)
        if log is not None:
            self._rules |= _logging_rules(log)
        self._screen = screen
        if screen is not None:
            self._rules[m.Feature.GFX_PLANE] = _Rule(_GET, m.PlaneReply.SIZE, lambda request: _plane(screen(), request))

    def perform(self, request: m.DeviceFeature) -> m.DeviceFeature:
        """The reply; what raises is the request's errno."""
        rule = self._rule(request.feature)
        if request.ops & ~_PROBE & ~rule.ops:
            raise GuestError(f"feature {request.feature}: {request.ops!s} was asked for, it has {rule.ops!s}")
        if _PROBE in request.ops:
            return request
        if not request.ops:
            raise GuestError(f"feature {request.feature}: expected GET, SET or PROBE")
        if request.room < rule.size:
            raise GuestError(
                f"feature {request.feature}: argsz {request.argsz} leaves {request.room} bytes for its data"
            )
        return rule.perform(request)

    def _rule(self, feature: int) -> _Rule:
        rule = self._rules.get(feature)
        if rule is None or (feature in self._of_migration and not self._migration().flags) or self._is_blank(feature):
            raise UnknownRequest(f"the device does not have feature {feature}")
        return rule

    def _is_blank(self, feature: int) -> bool:
        return feature == m.Feature.GFX_PLANE and (self._screen is None or not self._screen().has_screen())

    def _flags(self, request: m.DeviceFeature) -> m.DeviceFeature:
        return request.with_data(m.U64(self._migration().flags).encode())

    def _data_size(self, request: m.DeviceFeature) -> m.DeviceFeature:
        return request.with_data(m.U64(self._migration().data_size()).encode())

    def _device_state(self, request: m.DeviceFeature) -> m.DeviceFeature:
        migration = self._migration()
        if request.ops == _GET:
            return request.with_data(m.DeviceState(migration.state).encode())
        migration.set_state(m.DeviceState.decode(request.data).state)
        return request


def _logging_rules(log: Callable[[], DirtyLog]) -> dict[int, _Rule]:
    return {
        m.Feature.DMA_LOGGING_START: _Rule(_SET, m.DmaLogging.SIZE, lambda request: _start(log(), request)),
        m.Feature.DMA_LOGGING_STOP: _Rule(_SET, 0, lambda request: _stop(log(), request)),
        m.Feature.DMA_LOGGING_REPORT: _Rule(_GET, m.DmaReport.SIZE, lambda request: _report(log(), request)),
    }


def _start(log: DirtyLog, request: m.DeviceFeature) -> m.DeviceFeature:
    logging = m.DmaLogging.decode(request.data)
    page_size = log.start(logging.page_size, logging.ranges)
    return request.with_data(m.DmaLogging(page_size, logging.ranges).encode())


def _stop(log: DirtyLog, request: m.DeviceFeature) -> m.DeviceFeature:
    log.stop()
    return request


def _report(log: DirtyLog, request: m.DeviceFeature) -> m.DeviceFeature:
    report = m.DmaReport.decode(request.data)
    log.check_report(report.iova, report.length, report.page_size)
    if request.room < m.DmaReport.SIZE + report.bitmap_size:  # before the log is cleared
        raise GuestError(f"argsz {request.argsz} is too little for a bitmap of {report.bitmap_size} bytes")
    return request.with_data(report.encode() + log.report(report.iova, report.length, report.page_size))


def _plane(screen: Screen, request: m.DeviceFeature) -> m.DeviceFeature:
    return request.with_data(m.PlaneReply(screen.plane(m.PlaneQuery.decode(request.data).type)).encode())
