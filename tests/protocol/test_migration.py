"""Migration over the socket: MIG_DEVICE_STATE, MIG_DATA_READ, MIG_DATA_WRITE, and what a stopped device does."""

import struct
from collections.abc import Iterator
from errno import EINVAL, EIO
from itertools import product

import pytest

from mdev_user.errors import DmaFault, GuestError
from mdev_user.vfio.migration_states import (
    ERROR,
    PRE_COPY,
    RESUMING,
    RUNNING,
    STOP,
    STOP_COPY,
    MigrationFlags,
    MigrationState,
    next_state,
)
from mdev_user.vfio.requests import Irq, Region
from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.connection import RemoteError
from mdev_user.vfio_user.exchange import Exchange
from mdev_user.vfio_user.framing import LARGEST_DATA, Command, command_message
from mdev_user.vfio_user.messages import DeviceFeature, DeviceState, Feature, MigDataRead
from mdev_user.vfio_user.version import Capabilities
from protocol.device import SCRATCH_SIZE
from protocol.irqs import count
from protocol.messages import hello
from protocol.migratable import ALL, FRAME, MAGIC, PIECE, Migratable, ServedMigratable
from protocol.served import CountingLock, Wire

BAR0 = Region.BAR0
WHOLE = FRAME.size + SCRATCH_SIZE
REACHABLE = [state for state in MigrationState if state is not ERROR]


@pytest.fixture
def source() -> Iterator[ServedMigratable]:
    with ServedMigratable() as served:
        yield served


@pytest.fixture
def target() -> Iterator[ServedMigratable]:
    with ServedMigratable() as served:
        yield served


@pytest.fixture
def client(source: ServedMigratable) -> Client:
    return Client.over(source.socket)


@pytest.fixture
def other(target: ServedMigratable) -> Client:
    return Client.over(target.socket)


@pytest.fixture
def wire(source: ServedMigratable) -> Wire:
    wire = Wire(source.socket)
    wire.hello()
    return wire


def errno_of(client: Client, state: MigrationState) -> int:
    try:
        client.set_migration_state(state)
    except RemoteError as error:
        return error.errno or 0
    return 0


def drain(client: Client, most: int = 1 << 16) -> bytes:
    """Everything there is at the moment: a read that gives less says that it was the last."""
    data = b""
    while len(piece := client.read_migration_data(most)) == most:
        data += piece
    return data + piece


# --- states ---------------------------------------------------------------------------------------------------


def expected_end(start: MigrationState, target: int, flags: MigrationFlags) -> MigrationState | None:
    state = start
    try:
        while (following := next_state(state, target, flags)) is not state:
            state = following
    except GuestError:
        return None
    return state


@pytest.mark.parametrize("flags", [ALL, MigrationFlags.STOP_COPY, MigrationFlags.STOP_COPY | MigrationFlags.PRE_COPY])
def test_every_state_is_reached_from_every_other_as_linux_says(flags: MigrationFlags) -> None:
    device = Migratable()
    device.flags = flags
    with ServedMigratable(device) as served:
        client = Client.over(served.socket)
        for start, target in product(REACHABLE, MigrationState):
            client.reset()
            if errno_of(client, start):
                continue
            if start is RESUMING:
                client.write_migration_data(FRAME.pack(MAGIC, SCRATCH_SIZE) + bytes(SCRATCH_SIZE))
            end = expected_end(start, target, flags)
            assert errno_of(client, target) == (0 if end is not None else EINVAL), (start, target)
            assert client.migration_state() is (start if end is None else end)


def test_a_stopped_device_answers_for_its_config_space_only(
    client: Client, eventfds: list[int], source: ServedMigratable
) -> None:
    client.region_write(BAR0, 0, b"abcd")
    for state in (STOP, STOP_COPY, RESUMING):
        client.set_migration_state(state)
        assert client.region_read(Region.CONFIG, 0x10, 1) == b"\x10"
        client.arm(Irq.MSI, eventfds[:1])
        client.trigger(Irq.MSI)
        assert count(eventfds[0]) == 1
        for attempt in (lambda: client.region_read(BAR0, 0, 4), lambda: client.region_write(BAR0, 0, b"x")):
            with pytest.raises(RemoteError) as refused:
                attempt()
            assert refused.value.errno == EINVAL
        errors = source.device.counters.guest_errors
        client.region_write(BAR0, 0, b"x", posted=True)
        assert client.region_read(Region.CONFIG, 0x10, 1) == b"\x10"
        assert source.device.counters.guest_errors == errors + 1
    client.reset()
    assert client.migration_state() is RUNNING


# --- data -----------------------------------------------------------------------------------------------------


def move(client: Client, other: Client) -> None:
    client.set_migration_state(STOP_COPY)
    data = drain(client)
    other.set_migration_state(RESUMING)
    other.write_migration_data(data)
    other.set_migration_state(RUNNING)


def test_a_device_goes_on_elsewhere_as_it_was(client: Client, other: Client) -> None:
    client.region_write(BAR0, 0, b"abcd")
    move(client, other)
    assert other.region_read(BAR0, 0, 4) == b"abcd"
    client.set_migration_state(RUNNING)
    assert client.region_read(BAR0, 0, 4) == b"abcd", "the source is as it was"


def test_without_the_transfer_it_would_not(client: Client, other: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the same steps, but what arrives is not used."""
    monkeypatch.setattr("protocol.migratable.In.finish", lambda _self: None)
    client.region_write(BAR0, 0, b"abcd")
    move(client, other)
    assert other.region_read(BAR0, 0, 4) != b"abcd"


def test_what_changes_during_the_copy_arrives_too(client: Client, other: Client) -> None:
    client.set_migration_state(PRE_COPY)
    first = drain(client)
    assert len(first) == WHOLE
    assert drain(client) == b"", "nothing at the moment"
    client.region_write(BAR0, 0, b"late")
    client.set_migration_state(STOP_COPY)
    rest = drain(client)
    assert len(rest) == WHOLE
    assert drain(client) == b"", "the end"
    other.set_migration_state(RESUMING)
    other.write_migration_data(first + rest)
    other.set_migration_state(RUNNING)
    assert other.region_read(BAR0, 0, 4) == b"late"


def test_without_the_rest_the_last_change_would_be_lost(client: Client, other: Client) -> None:
    """Negative control: only what was copied while the device ran arrives."""
    client.set_migration_state(PRE_COPY)
    first = drain(client)
    client.region_write(BAR0, 0, b"late")
    other.set_migration_state(RESUMING)
    other.write_migration_data(first)
    other.set_migration_state(RUNNING)
    assert other.region_read(BAR0, 0, 4) != b"late"


@pytest.mark.parametrize("size", [1, PIECE - 1, PIECE, PIECE + 1, WHOLE - 1])
def test_a_read_is_as_long_as_was_asked_for_until_the_end(client: Client, size: int) -> None:
    """However small the pieces are in which the device gives it: less would mean that there is no more."""
    client.set_migration_state(STOP_COPY)
    lengths = [len(client.read_migration_data(size)) for _ in range(WHOLE // size)]
    assert lengths == [size] * (WHOLE // size)
    assert len(client.read_migration_data(size)) == WHOLE % size
    assert client.read_migration_data(size) == b""


def test_each_piece_of_a_read_is_a_step_of_its_own() -> None:
    """Between two of them the guest's other devices, jobs and interrupts have their turn."""
    with ServedMigratable() as served:
        lock = CountingLock(served.step_lock)
        exchange = Exchange(served.device, served.watcher, step_lock=lock)
        exchange.process(hello())
        stop = DeviceFeature.set(Feature.MIG_DEVICE_STATE, DeviceState(STOP_COPY).encode())
        exchange.process(command_message(1, Command.DEVICE_FEATURE, stop.encode()))
        before = lock.taken
        ((reply, _),) = exchange.process(command_message(2, Command.MIG_DATA_READ, MigDataRead(1 << 16).encode()))
        assert len(reply) == 16 + 8 + WHOLE
        assert lock.taken >= before + WHOLE // PIECE
        exchange.close()


def test_as_much_as_the_client_takes_and_no_more(source: ServedMigratable) -> None:
    wire = Wire(source.socket)
    wire.hello(Capabilities(max_data_xfer_size=4096))
    stop = DeviceFeature.set(Feature.MIG_DEVICE_STATE, DeviceState(STOP_COPY).encode())
    assert not wire.ask(Command.DEVICE_FEATURE, stop.encode()).errno
    assert wire.ask(Command.MIG_DATA_READ, MigDataRead(4097).encode()).errno == EINVAL
    assert len(wire.ask(Command.MIG_DATA_READ, MigDataRead(4096).encode()).payload) == 8 + 4096


def data_message(size: int, argsz: int | None = None, tail: bytes = b"") -> bytes:
    return struct.pack("=II", 8 + size if argsz is None else argsz, size) + tail


@pytest.mark.parametrize(
    ("command", "state", "payload"),
    [
        *((Command.MIG_DATA_READ, state, data_message(16)) for state in (RUNNING, STOP, RESUMING)),
        *(
            (Command.MIG_DATA_WRITE, state, data_message(1, tail=b"T"))
            for state in (RUNNING, STOP, STOP_COPY, PRE_COPY)
        ),
        (Command.MIG_DATA_READ, STOP_COPY, b""),
        (Command.MIG_DATA_READ, STOP_COPY, data_message(0)),
        (Command.MIG_DATA_READ, STOP_COPY, data_message(16)[:7]),
        (Command.MIG_DATA_READ, STOP_COPY, data_message(16, argsz=23)),
        (Command.MIG_DATA_READ, STOP_COPY, data_message(16, argsz=7)),
        (Command.MIG_DATA_READ, STOP_COPY, data_message(1, tail=b"xy")),
        (Command.MIG_DATA_READ, STOP_COPY, data_message(LARGEST_DATA + 1)),
        (Command.MIG_DATA_READ, STOP_COPY, data_message((1 << 32) - 1, argsz=(1 << 32) - 1)),
        (Command.MIG_DATA_WRITE, RESUMING, b""),
        (Command.MIG_DATA_WRITE, RESUMING, data_message(2, tail=b"T")),
        (Command.MIG_DATA_WRITE, RESUMING, data_message(1, tail=b"TE")),
        (Command.MIG_DATA_WRITE, RESUMING, data_message((1 << 32) - 1, argsz=9, tail=b"T")),
        (Command.MIG_DATA_WRITE, RESUMING, data_message(8, tail=b"not mine")),
    ],
)
def test_bad_data_messages_are_einval_and_change_nothing(
    wire: Wire, command: int, state: MigrationState, payload: bytes
) -> None:
    enter = DeviceFeature.set(Feature.MIG_DEVICE_STATE, DeviceState(state).encode()).encode()
    assert not wire.ask(Command.DEVICE_FEATURE, enter).errno
    assert wire.ask(command, payload).errno == EINVAL
    told = wire.ask(Command.DEVICE_FEATURE, DeviceFeature.get(Feature.MIG_DEVICE_STATE, room=8).encode())
    assert struct.unpack_from("=I", told.payload, 8) == (state,)
    assert wire.works()


@pytest.mark.parametrize("argsz", [0, 8, 12, (1 << 32) - 1])
def test_the_argsz_of_a_data_write_is_nobodys(wire: Wire, argsz: int) -> None:
    enter = DeviceFeature.set(Feature.MIG_DEVICE_STATE, DeviceState(RESUMING).encode()).encode()
    wire.ask(Command.DEVICE_FEATURE, enter)
    assert not wire.ask(Command.MIG_DATA_WRITE, data_message(4, argsz, MAGIC)).errno


# --- what goes wrong ------------------------------------------------------------------------------------------

GOOD = FRAME.pack(MAGIC, SCRATCH_SIZE) + b"\x77" * SCRATCH_SIZE


@pytest.mark.parametrize("data", [b"", GOOD[:-1], GOOD + b"T", GOOD[: FRAME.size]])
def test_a_state_that_is_not_whole_leaves_the_device_as_it_was(client: Client, data: bytes) -> None:
    client.region_write(BAR0, 0, b"abcd")
    client.set_migration_state(RESUMING)
    client.write_migration_data(data)
    assert errno_of(client, RUNNING) == EINVAL
    assert client.migration_state() is RESUMING
    client.write_migration_data(GOOD)  # what came before is forgotten
    client.set_migration_state(RUNNING)
    assert client.region_read(BAR0, 0, 4) == b"\x77" * 4


def test_a_refused_state_and_a_reset_are_the_device_anew(client: Client) -> None:
    client.set_migration_state(RESUMING)
    assert errno_of(client, STOP) == EINVAL
    client.reset()
    assert client.migration_state() is RUNNING
    assert client.region_read(BAR0, 0, 4) == bytes(4)


def test_only_a_reset_leaves_the_error_state(client: Client, source: ServedMigratable) -> None:
    def fails() -> None:
        raise DmaFault("not the stream's fault")

    source.migratable.on_finish = fails
    client.set_migration_state(RESUMING)
    client.write_migration_data(GOOD)
    assert errno_of(client, STOP)
    assert client.migration_state() is ERROR
    assert [errno_of(client, state) for state in MigrationState] == [EINVAL] * len(MigrationState)
    with pytest.raises(RemoteError):
        client.region_read(BAR0, 0, 4)
    client.reset()
    assert client.migration_state() is RUNNING
    assert client.region_read(BAR0, 0, 4) == bytes(4)


def test_a_file_that_cannot_be_read_is_its_errno(client: Client, source: ServedMigratable) -> None:
    def fails() -> None:
        raise OSError(EIO, "no luck")

    client.set_migration_state(STOP_COPY)
    source.migratable.on_read = fails
    with pytest.raises(RemoteError) as refused:
        client.read_migration_data(16)
    assert refused.value.errno == EIO


def test_a_bug_in_the_stream_ends_the_session_with_its_reason(client: Client, source: ServedMigratable) -> None:
    def fails() -> None:
        raise ZeroDivisionError("author's mistake")

    client.set_migration_state(STOP_COPY)
    source.migratable.on_read = fails
    with pytest.raises(ConnectionError):
        client.read_migration_data(16)
    assert source.ended() == "the driver failed: ZeroDivisionError: author's mistake"


def test_a_client_that_goes_in_the_middle_leaves_nothing(client: Client, source: ServedMigratable) -> None:
    client.set_migration_state(PRE_COPY)
    client.read_migration_data(16)
    client.close()
    assert source.ended() == "the client went away"
    assert not source.device.opened
