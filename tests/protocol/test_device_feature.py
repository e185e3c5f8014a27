"""DEVICE_FEATURE: which features there are, what may be done with each, and its argsz."""

import struct
from collections.abc import Iterator
from errno import EINVAL, ENOTTY

import pytest

from mdev_user.vfio.migration_states import MigrationFlags
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.connection import RemoteError
from mdev_user.vfio_user.framing import Command
from mdev_user.vfio_user.messages import Feature, FeatureOps
from protocol.migratable import ALL, Migratable, ServedMigratable
from protocol.served import Answer, Wire

GET, SET, PROBE = FeatureOps.GET, FeatureOps.SET, FeatureOps.PROBE
OPS = {
    Feature.MIGRATION: GET,
    Feature.MIG_DEVICE_STATE: GET | SET,
    Feature.MIG_DATA_SIZE: GET,
    Feature.DMA_LOGGING_START: SET,
    Feature.DMA_LOGGING_STOP: SET,
    Feature.DMA_LOGGING_REPORT: GET,
}
MIGRATION_ONLY = [Feature.MIGRATION, Feature.MIG_DEVICE_STATE, Feature.MIG_DATA_SIZE]


@pytest.fixture
def migratable() -> Iterator[Wire]:
    with ServedMigratable() as served:
        wire = Wire(served.socket)
        wire.hello()
        yield wire


def feature(number: int, ops: int, data: bytes = b"", argsz: int = 1000) -> bytes:
    return struct.pack("=II", argsz, number | ops) + data


def ask(wire: Wire, number: int, ops: int, data: bytes = b"", argsz: int = 1000) -> Answer:
    return wire.ask(Command.DEVICE_FEATURE, feature(number, ops, data, argsz))


@pytest.mark.parametrize("number", OPS)
@pytest.mark.parametrize("ops", [GET, SET, GET | SET])
def test_a_probe_tells_what_can_be_done_and_does_nothing(migratable: Wire, number: Feature, ops: FeatureOps) -> None:
    answer = ask(migratable, number, ops | PROBE)
    if ops & ~OPS[number]:
        assert answer.errno == EINVAL
    else:
        assert answer.payload == feature(number, ops | PROBE)
    assert not ask(migratable, number, PROBE).errno
    assert ask(migratable, Feature.DMA_LOGGING_REPORT, GET, struct.pack("=QQQ", 0, 4096, 4096)).errno == EINVAL


@pytest.mark.parametrize("number", OPS)
def test_an_operation_that_a_feature_does_not_have_is_einval(migratable: Wire, number: Feature) -> None:
    for ops in {GET, SET} - set(OPS[number]):
        assert ask(migratable, number, ops, bytes(64)).errno == EINVAL
    assert ask(migratable, number, 0).errno == EINVAL
    assert ask(migratable, number, GET | SET, bytes(64)).errno == EINVAL
    assert migratable.works()


@pytest.mark.parametrize("number", [0, 3, 4, 5, 10, 11, 0xFFFF])
@pytest.mark.parametrize("ops", [GET, SET, PROBE, PROBE | GET | SET, 0])
def test_a_feature_that_nobody_has_is_enotty(migratable: Wire, number: int, ops: int) -> None:
    assert ask(migratable, number, ops).errno == ENOTTY


@pytest.mark.parametrize("number", MIGRATION_ONLY)
def test_a_device_that_cannot_be_migrated_has_none_of_migrations(wire: Wire, number: Feature) -> None:
    for ops in (GET, SET, PROBE, 0):
        assert ask(wire, number, ops, bytes(8)).errno == ENOTTY
    for command in (Command.MIG_DATA_READ, Command.MIG_DATA_WRITE):
        assert (
            wire.ask(command, struct.pack("=II", 9, 1) + (b"x" if command == Command.MIG_DATA_WRITE else b"")).errno
            == ENOTTY
        )
    assert wire.works()


@pytest.mark.parametrize(
    ("number", "ops", "data", "needed"),
    [
        (Feature.MIGRATION, GET, b"", 16),
        (Feature.MIG_DEVICE_STATE, GET, b"", 16),
        (Feature.MIG_DEVICE_STATE, SET, struct.pack("=Ii", 2, -1), 16),
        (Feature.MIG_DATA_SIZE, GET, b"", 16),
        (Feature.DMA_LOGGING_START, SET, struct.pack("=QII", 4096, 0, 0), 24),
        (Feature.DMA_LOGGING_STOP, SET, b"", 8),
    ],
)
def test_argsz_must_hold_the_reply(migratable: Wire, number: int, ops: int, data: bytes, needed: int) -> None:
    assert ask(migratable, number, ops, data, argsz=needed - 1).errno == EINVAL
    answer = ask(migratable, number, ops, data, argsz=needed)
    assert not answer.errno
    assert struct.unpack_from("=I", answer.payload) == (needed,)
    assert len(answer.payload) == needed
    assert not ask(migratable, number, ops, data, argsz=(1 << 32) - 1).errno or number == Feature.DMA_LOGGING_START


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        bytes(7),
        struct.pack("=II", 0, Feature.MIGRATION | GET),
        struct.pack("=II", 7, Feature.MIGRATION | GET),
        struct.pack("=II", 8, Feature.MIGRATION | GET) + bytes(8),
        feature(Feature.MIGRATION, GET | 1 << 19),
        feature(Feature.MIGRATION, GET | 1 << 31),
        feature(Feature.MIG_DEVICE_STATE, SET),
        feature(Feature.MIG_DEVICE_STATE, SET, bytes(7)),
        feature(Feature.MIG_DEVICE_STATE, SET, struct.pack("=Ii", 8, -1)),
        feature(Feature.MIG_DEVICE_STATE, SET, struct.pack("=Ii", -1 & 0xFFFF_FFFF, -1)),
        feature(Feature.DMA_LOGGING_START, SET, bytes(15)),
        feature(Feature.DMA_LOGGING_REPORT, GET, bytes(23)),
    ],
)
def test_a_bad_request_is_einval(migratable: Wire, payload: bytes) -> None:
    assert migratable.ask(Command.DEVICE_FEATURE, payload).errno == EINVAL
    assert migratable.works()


def test_migration_is_told_in_flags(migratable: Wire) -> None:
    answer = ask(migratable, Feature.MIGRATION, GET)
    assert answer.payload == struct.pack("=IIQ", 16, Feature.MIGRATION | GET, ALL)


def test_a_state_is_told_without_a_data_fd(migratable: Wire) -> None:
    answer = ask(migratable, Feature.MIG_DEVICE_STATE, GET)
    assert answer.payload == struct.pack("=IIIi", 16, Feature.MIG_DEVICE_STATE | GET, 2, -1)
    assert not answer.fds


def test_our_client_reads_what_a_device_has() -> None:
    class StopCopyOnly(Migratable):
        flags = MigrationFlags.STOP_COPY

    with ServedMigratable(StopCopyOnly()) as served:
        client = Client.over(served.socket)
        assert client.feature_flags() == MigrationFlags.STOP_COPY
        client.probe_feature(Feature.MIG_DEVICE_STATE, GET | SET)
        with pytest.raises(RemoteError) as refused:
            client.probe_feature(Feature.MIGRATION, SET)
        assert refused.value.errno == EINVAL
        assert 4096 <= client.migration_data_size() <= 4096 + 16


def test_a_plane_is_asked_for_by_its_type(migratable: Wire) -> None:
    """The device here has no screen; those that have one are in tests/unit/drivers."""
    for ops in (GET, GET | PROBE):
        assert ask(migratable, Feature.GFX_PLANE, ops, struct.pack("=I", 1)).errno == ENOTTY
