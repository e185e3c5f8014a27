"""VFIO_DEVICE_FEATURE and data files, answered for a program that is a bytearray, by real devices in this process."""

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import E2BIG, EBADF, EFAULT, EINVAL, EMFILE, ENODEV, ENOMSG, ENOTTY, EOVERFLOW, ESPIPE
from threading import RLock
from typing import cast

import pytest

from mdev_user.drivers.edu import Card
from mdev_user.drivers.mtty import Mtty
from mdev_user.errors import DmaFault, MdevUserError, errno_of
from mdev_user.testing.local import LocalHost
from mdev_user.uapi.call import Call
from mdev_user.uapi.files import File
from mdev_user.uapi.migration import (
    VFIO_MIG_GET_PRECOPY_INFO,
    DeviceMigration,
    MigrationData,
    feature,
)
from mdev_user.units import KiB
from mdev_user.vfio.migration_states import MigrationState
from mdev_user.vfio.requests import Region
from mdev_user.vfio_user.client import Client

GET, SET, PROBE = 1 << 16, 1 << 17, 1 << 18
MIGRATION, STATE, START, STOP, REPORT, SIZE, PRECOPY_V2 = 1, 2, 6, 7, 8, 9, 12
AT = 0x100
"""Where the program has its struct."""
NUMBER = 4000
"""Of the first descriptor that the program is given."""
MEMORY = 64 * KiB
S = MigrationState


class Program:
    """The memory of a program, the descriptors that it was given, and a call of its that is never ended."""

    def __init__(self) -> None:
        self.memory = bytearray(MEMORY)
        self.given: list[MigrationData] = []
        self.added: list[File] = []
        self.tables = RLock()
        self.serving = self.files = self
        self.has_room = True

    def remove(self, file: File) -> None:
        self.added.remove(file)

    def read(self, address: int, count: int) -> bytes:
        self._check(address, count)
        return bytes(self.memory[address : address + count])

    def write(self, address: int, data: bytes) -> None:
        self._check(address, len(data))
        self.memory[address : address + len(data)] = data

    def add(self, file: File) -> File:
        self.added.append(file)
        return file

    def give(self, file: File, *, cloexec: bool) -> int:
        assert cloexec
        assert file in self.added
        if not self.has_room:
            raise OSError(EMFILE, "no number is left")
        self.given.append(cast("MigrationData", file))
        return NUMBER + len(self.given) - 1

    def may_wait(self) -> None:
        pass

    def _check(self, address: int, count: int) -> None:
        if address + count > len(self.memory):
            raise OSError(EFAULT, "the program has no such memory")


class User:
    """An open device, and the system calls of its user. What fails returns minus its errno."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.migration = DeviceMigration()
        self.program = Program()
        self.call = cast("Call", self.program)

    @contextmanager
    def using(self, _call: Call) -> Iterator[None]:
        yield

    def feature(self, flags: int, data: bytes = b"", argsz: int | None = None, at: int = AT) -> int:
        self.program.memory[AT:] = bytes(MEMORY - AT)
        size = 8 + len(data) if argsz is None else argsz
        self.program.memory[AT : AT + 8 + len(data)] = struct.pack("=II", size, flags) + data
        return _result(lambda: feature(self, self.call, at))

    def data(self, size: int) -> bytes:
        return bytes(self.program.memory[AT + 8 : AT + 8 + size])

    def state(self) -> MigrationState:
        assert self.feature(GET | STATE, bytes(8)) == 0
        state, fd = struct.unpack("=Ii", self.data(8))
        assert fd == -1
        return MigrationState(state)

    def enter(self, state: int) -> MigrationData | None:
        """The new data file, if there is one."""
        given = len(self.program.given)
        assert self.feature(SET | STATE, struct.pack("=Ii", state, 77)) == 0
        fd: int = struct.unpack("=Ii", self.data(8))[1]
        assert self.state() == state
        if fd == -1:
            assert len(self.program.given) == given
            return None
        return self.program.given[fd - NUMBER]

    def started(self, state: MigrationState) -> MigrationData:
        file = self.enter(state)
        assert file is not None
        return file

    def read(self, file: MigrationData, count: int = 4096, offset: int | None = None) -> int:
        return _result(lambda: file.read(self.call, AT, count, offset))

    def write(self, file: MigrationData, data: bytes, offset: int | None = None) -> int:
        self.program.memory[AT : AT + len(data)] = data
        return _result(lambda: file.write(self.call, AT, len(data), offset))

    def precopy_info(self, file: MigrationData, argsz: int = 24) -> tuple[int, int, int]:
        """The result, and initial and dirty bytes."""
        self.program.memory[AT : AT + 24] = struct.pack("=IIQQ", argsz, 0, 9, 9)
        result = _result(lambda: cast("int", file.ioctl(self.call, VFIO_MIG_GET_PRECOPY_INFO, AT)))
        return result, *struct.unpack_from("=QQ", self.program.memory, AT + 8)

    def everything(self, file: MigrationData) -> bytes:
        """All that there is to read now."""
        found = b""
        while (size := self.read(file)) > 0:
            found += bytes(self.program.memory[AT : AT + size])
        return found


def _result(work: Callable[[], int]) -> int:
    try:
        return work()
    except (OSError, MdevUserError) as error:
        return -errno_of(error)


class Ram:
    """What the device's DMA messages read and write."""

    def __init__(self) -> None:
        self.bytes = bytearray(MEMORY)

    def read(self, address: int, count: int) -> bytes:
        if address + count > MEMORY:
            raise DmaFault("beyond the memory")
        return bytes(self.bytes[address : address + count])

    def write(self, address: int, data: bytes) -> None:
        self.bytes[address : address + len(data)] = data


@pytest.fixture
def host() -> Iterator[LocalHost]:
    with LocalHost() as local:
        local.bus.register_parent("mtty", Mtty())
        local.bus.register_parent("edu", Card())
        yield local


@pytest.fixture
def opened(host: LocalHost) -> Iterator[Callable[[str], User]]:
    """Opens a new mdev of a type."""
    users: list[User] = []

    def open_one(type_id: str) -> User:
        mdev = host.create(next(each for each in host.bus.parents() if type_id.startswith(each.name)), type_id)
        users.append(User(Client(host.socket(mdev), Ram(), timeout=10)))
        return users[-1]

    yield open_one
    for user in users:
        user.client.close()


@pytest.fixture
def user(opened: Callable[[str], User]) -> User:
    return opened("mtty-1")


# --- which features there are, and what can be done with them


@pytest.mark.parametrize(
    ("number", "ops"),
    [(MIGRATION, GET), (STATE, GET | SET), (START, SET), (STOP, SET), (REPORT, GET), (SIZE, GET), (PRECOPY_V2, SET)],
)
def test_a_probe_tells_what_can_be_done_with_a_feature(user: User, number: int, ops: int) -> None:
    for asked in (0, GET, SET, GET | SET):
        assert user.feature(PROBE | asked | number) == (-EINVAL if asked & ~ops else 0), hex(asked)


@pytest.mark.parametrize("number", [0, 3, 4, 5, 10, 11, 13, 0xFFFF])
def test_other_features_are_not_there(user: User, number: int) -> None:
    for ops in (PROBE, PROBE | GET, GET, SET):
        assert user.feature(ops | number, bytes(64)) == -ENOTTY


@pytest.mark.parametrize(
    ("flags", "argsz", "errno"),
    [
        (GET | MIGRATION, 8, EINVAL),
        (SET | MIGRATION, 16, EINVAL),
        (GET | SET | MIGRATION, 16, EINVAL),
        (MIGRATION, 16, EINVAL),
        (1 << 19 | GET | MIGRATION, 16, EINVAL),
        (GET | MIGRATION, 7, EINVAL),
        (GET | SET | 3, 16, EINVAL),
    ],
)
def test_what_cannot_be_asked_is_refused(user: User, flags: int, argsz: int, errno: int) -> None:
    assert user.feature(flags, bytes(8), argsz) == -errno


def test_a_struct_that_is_not_there_is_a_fault(user: User) -> None:
    assert user.feature(GET | MIGRATION, at=MEMORY - 4) == -EFAULT
    user.program.memory[MEMORY - 8 :] = struct.pack("=II", 16, SET | STATE)
    assert _result(lambda: feature(user, user.call, MEMORY - 8)) == -EFAULT
    assert user.state() is S.RUNNING


def test_flags_and_size_are_the_devices(user: User) -> None:
    assert user.feature(GET | MIGRATION, bytes(8)) == 0
    assert user.data(8) == struct.pack("=Q", 7)
    assert user.feature(GET | SIZE, bytes(8)) == 0
    assert struct.unpack("=Q", user.data(8))[0] > 60


# --- states and data files


NEW = {S.STOP_COPY, S.RESUMING, S.PRE_COPY, S.PRE_COPY_P2P}
SAVING = {S.STOP_COPY, S.PRE_COPY, S.PRE_COPY_P2P}


@pytest.mark.parametrize("before", [S.STOP, S.RUNNING, S.STOP_COPY, S.RUNNING_P2P, S.PRE_COPY, S.PRE_COPY_P2P])
def test_a_data_file_comes_with_each_new_stream(user: User, before: MigrationState) -> None:
    for target in set(S) - {S.ERROR}:
        user.client.reset()
        user.migration.reset()
        user.enter(before)
        if before is S.STOP_COPY and target in {S.PRE_COPY, S.PRE_COPY_P2P}:
            assert user.feature(SET | STATE, struct.pack("=Ii", target, 0)) == -EINVAL
            assert struct.unpack("=Ii", user.data(8))[1] == -1
        else:
            new = target in NEW and not (before in SAVING and target in SAVING)
            assert (user.enter(target) is not None) is new, (before, target)


@pytest.mark.parametrize("state", [S.ERROR, 8, 0xFFFFFFFF])
def test_no_device_is_sent_to_a_state_that_is_none(user: User, state: int) -> None:
    assert user.feature(SET | STATE, struct.pack("=Ii", state, 0)) == -EINVAL
    assert user.state() is S.RUNNING


def test_a_device_without_data_stays_in_resuming(user: User) -> None:
    file = user.started(S.RESUMING)
    for target in set(S) - {S.RESUMING}:
        assert user.feature(SET | STATE, struct.pack("=Ii", target, 0)) == -EINVAL
    assert user.state() is S.RESUMING
    user.client.reset()
    user.migration.reset()
    assert user.state() is S.RUNNING
    assert user.write(file, b"late") == -ENODEV


def test_a_data_file_is_a_stream_in_one_direction(user: User) -> None:
    out = user.started(S.STOP_COPY)
    assert user.read(out, offset=0) == user.write(out, b"x", offset=0) == -ESPIPE
    assert _result(lambda: out.seek(user.call)) == -ESPIPE
    assert user.write(out, b"x") == -EBADF
    assert user.precopy_info(out)[0] == -EINVAL
    into = user.started(S.RESUMING)
    assert user.read(into) == -EBADF
    assert user.precopy_info(into)[0] == -ENOTTY
    assert user.read(out) == -ENODEV


def test_a_state_goes_from_one_device_to_another(user: User, opened: Callable[[str], User]) -> None:
    other = opened("mtty-1")
    for register, value in ((3, 0x83), (0, 0x39), (1, 0x30), (3, 0x03), (7, 0xA5), (2, 0x01), (0, 0x21), (0, 0x22)):
        user.client.region_write(Region.BAR0, register, bytes((value,)))
    out = user.started(S.PRE_COPY)
    first = user.everything(out)
    assert user.read(out) == -ENOMSG
    assert user.enter(S.STOP_COPY) is None
    rest = user.everything(out)
    assert first
    assert rest
    assert user.read(out) == 0
    into = other.started(S.RESUMING)
    assert other.write(into, first) == len(first)
    assert other.write(into, rest) == len(rest)
    assert other.enter(S.RUNNING) is None
    assert other.write(into, b"more") == -ENODEV
    read = other.client.region_read
    assert (read(Region.BAR0, 7, 1), read(Region.BAR0, 0, 1), read(Region.BAR0, 0, 1)) == (b"\xa5", b"\x21", b"\x22")
    other.client.region_write(Region.BAR0, 3, b"\x83")
    assert (read(Region.BAR0, 0, 1), read(Region.BAR0, 1, 1)) == (b"\x39", b"\x30")


def test_a_stream_that_is_cut_short_is_refused_and_read_in_pieces_it_is_the_same(
    user: User, opened: Callable[[str], User]
) -> None:
    other = opened("mtty-1")
    out = user.started(S.STOP_COPY)
    stream = b""
    while (size := user.read(out, 7)) > 0:
        assert size <= 7
        stream += bytes(user.program.memory[AT : AT + size])
    into = other.started(S.RESUMING)
    other.write(into, stream[:-1])
    assert other.feature(SET | STATE, struct.pack("=Ii", S.RUNNING, 0)) == -EINVAL
    assert other.state() is S.RESUMING
    assert other.write(into, stream) == len(stream), "the same file goes on"
    other.enter(S.RUNNING)


def test_a_data_file_of_before_is_not_that_of_now(user: User) -> None:
    old = user.started(S.STOP_COPY)
    user.enter(S.RUNNING)
    new = user.started(S.STOP_COPY)
    assert user.read(old) == -ENODEV
    assert user.read(new) > 0
    user.migration.end()
    assert user.read(new) == -ENODEV


# --- what is left to be copied


def test_precopy_tells_what_is_left(user: User) -> None:
    out = user.started(S.PRE_COPY)
    result, initial, dirty = user.precopy_info(out)
    assert (result, initial > 0, dirty) == (0, True, 0)
    assert user.precopy_info(out, argsz=8)[0] == -EINVAL
    user.everything(out)
    assert user.precopy_info(out) == (0, 0, 0)
    user.enter(S.STOP_COPY)
    assert user.precopy_info(out)[0] == -EINVAL


@pytest.mark.parametrize(("opted_in", "flags"), [(False, 1), (True, 0)])
def test_precopy_flags_are_told_to_who_asks_for_them(user: User, opted_in: bool, flags: int) -> None:
    if opted_in:
        assert user.feature(SET | PRECOPY_V2) == 0
    out = user.started(S.PRE_COPY)
    user.program.memory[AT : AT + 24] = struct.pack("=IIQQ", 24, 1, 0, 0)
    assert out.ioctl(user.call, VFIO_MIG_GET_PRECOPY_INFO, AT) == 0
    assert struct.unpack_from("=II", user.program.memory, AT)[1] == flags


# --- the log of DMA


RANGES = 0x800
BITMAP = 0x1000


def start(user: User, *ranges: tuple[int, int], count: int | None = None) -> int:
    control = struct.pack("=QIIQ", 4096, len(ranges) if count is None else count, 0, RANGES)
    packed = b"".join(struct.pack("=QQ", *each) for each in ranges)
    return user.feature(SET | START, control + bytes(RANGES - AT - 8 - len(control)) + packed, argsz=32)


def report(user: User, iova: int, length: int, page_size: int = 4096, bitmap: int = BITMAP, before: int = 0) -> int:
    data = struct.pack("=QQQQ", iova, length, page_size, bitmap)
    filled = data + bytes(BITMAP - AT - 8 - len(data)) + before.to_bytes(8, "little")
    return user.feature(GET | REPORT, filled, argsz=40)


def test_pages_that_the_device_wrote_are_told_once(opened: Callable[[str], User]) -> None:
    user = opened("edu-1")
    client = user.client
    client.dma_map(0, MEMORY)
    client.region_write(Region.CONFIG, 4, b"\x06\0")
    assert start(user, (0, MEMORY)) == 0
    for register, value in ((0x80, 0x40000), (0x88, 0x3FF0), (0x90, 32), (0x98, 3)):
        client.region_write(Region.BAR0, register, value.to_bytes(8, "little"))
    while client.region_read(Region.BAR0, 0x98, 8)[0] & 1:
        pass  # each reply lets the client serve the device's message
    bits = slice(BITMAP, BITMAP + 8)
    assert report(user, 0, MEMORY, before=1 << 60) == 0
    assert int.from_bytes(user.program.memory[bits], "little") == 1 << 60 | 1 << 3 | 1 << 4
    assert report(user, 0, MEMORY) == 0
    assert int.from_bytes(user.program.memory[bits], "little") == 0
    assert user.feature(SET | STOP) == 0
    assert report(user, 0, MEMORY) == -EINVAL


def test_a_log_is_of_ranges_that_there_can_be(user: User) -> None:
    assert start(user) == -EINVAL
    assert start(user, (0x800, 0x1000)) == -EINVAL
    assert start(user, (0, 0x1000), (0, 0x1000)) == -EINVAL
    assert start(user, count=1000) == -E2BIG
    assert start(user, ((1 << 64) - 0x1000, 0x2000)) == -EOVERFLOW
    assert start(user, (0, 0x1000)) == 0
    assert report(user, 0, 0x1000, page_size=0x800) == -EINVAL
    assert report(user, 0, 0x1000, page_size=0x3000) == -EINVAL
    assert report(user, 0, 0x1000, bitmap=MEMORY) == -EFAULT
    assert report(user, (1 << 64) - 0x1000, 0x2000) == -EOVERFLOW
    assert report(user, 0, 0x1000) == 0


def test_a_data_file_that_cannot_be_given_is_not_kept(user: User) -> None:
    user.program.has_room = False
    assert user.feature(SET | STATE, struct.pack("=Ii", S.STOP, 77)) == 0
    assert user.feature(SET | STATE, struct.pack("=Ii", S.STOP_COPY, 77)) == -EMFILE
    assert not user.program.added
