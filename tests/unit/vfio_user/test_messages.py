"""Messages as values: what is encoded is decoded, and hostile capability chains end."""

import struct
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdev_user.errors import GuestError, TooManyRanges
from mdev_user.vfio.dirty import LARGEST_BITMAP, MOST_RANGES
from mdev_user.vfio.requests import GFX_EDID, Area, IrqAction, RegionType
from mdev_user.vfio_user import messages as m
from mdev_user.vfio_user.commands import KINDS, NUMBERS, Reply, Request, decode_reply, unknown
from mdev_user.vfio_user.framing import Command, Header, command_message, error_message, reply_message
from mdev_user.vfio_user.version import LARGEST_REPLY, OURS, Capabilities, Version

u32 = st.integers(0, (1 << 32) - 1)
u64 = st.integers(0, (1 << 64) - 1)
data = st.binary(min_size=1, max_size=64)
areas = st.lists(st.builds(Area, u64, u64), min_size=1, max_size=4).map(tuple)
kinds = st.none() | st.builds(RegionType, u32, u32)
near = st.integers(0, 1 << 63)
ops = st.sampled_from([m.FeatureOps.GET, m.FeatureOps.SET, m.FeatureOps(7 << 16), m.FeatureOps(0)])

REQUESTS = st.one_of(
    st.builds(m.DmaMap, st.integers(1, 3), u64, u64, u64),
    st.builds(m.DmaUnmap, u64, u64),
    st.builds(m.DmaUnmap, u64, u64, st.just(1), u64, st.integers(0, LARGEST_BITMAP)),
    st.just(m.DmaUnmap(0, 0, m.UnmapFlags.ALL)),
    st.just(m.DeviceGetInfo()),
    st.builds(m.DeviceGetRegionInfo, u32, st.integers(32, (1 << 32) - 1)),
    st.builds(m.DeviceGetRegionIoFds, u32, st.integers(16, (1 << 32) - 1)),
    st.builds(m.DeviceGetIrqInfo, u32),
    st.builds(
        m.DeviceSetIrqs, u32, st.integers(0, 1000), st.integers(0, 1000), st.sampled_from(IrqAction),
        st.sampled_from([m.IrqData.NONE, m.IrqData.EVENTFD]),
    ),
    st.lists(st.booleans(), max_size=8).map(
        lambda bools: m.DeviceSetIrqs(2, 1, len(bools), IrqAction.TRIGGER, m.IrqData.BOOL, tuple(bools))
    ),
    st.builds(m.RegionRead, near, u32, st.integers(1, 1 << 20)),
    st.builds(m.RegionWrite, near, u32, data),
    st.builds(m.DmaRead, near, st.integers(1, 1 << 20)),
    st.builds(m.DmaWrite, near, data),
    st.just(m.DeviceReset()),
    st.lists(st.builds(m.RegionWrite, near, u32, st.binary(min_size=1, max_size=8)), max_size=5).map(
        lambda writes: m.RegionWriteMulti(tuple(writes))
    ),
    st.builds(m.DeviceFeature, st.integers(0, 0xFFFF), ops, st.integers(72, (1 << 32) - 1), data),
    st.builds(m.MigDataRead, st.integers(0, 1 << 20)),
    st.builds(m.MigDataWrite, st.binary(max_size=64)),
    st.just(m.SetTraps()),
    st.builds(m.TrappedRead, near, u32, st.integers(1, 8), u64, u64),
    st.builds(m.TrappedWrite, near, u32, st.binary(min_size=1, max_size=8), u64),
    st.builds(Version, st.builds(Capabilities, st.integers(0, 1024)), st.just(0), st.integers(0, 65535)),
)  # fmt: skip

REPLIES: dict[str, tuple[st.SearchStrategy[Reply], Callable[[bytes], Reply]]] = {
    "device info": (st.builds(m.DeviceInfoReply, u32, u32, u32), m.DeviceInfoReply.decode),
    "irq info": (st.builds(m.IrqInfoReply, u32, u32, u32), m.IrqInfoReply.decode),
    "read": (st.builds(m.RegionReadReply, u64, u32, data), m.RegionReadReply.decode),
    "write": (st.builds(m.RegionWriteReply, u64, u32, u32), m.RegionWriteReply.decode),
    "dma read": (st.builds(m.DmaReadReply, u64, data), m.DmaReadReply.decode),
    "dma write": (st.builds(m.DmaWriteReply, u64, u64), m.DmaWriteReply.decode),
    "dma write, nothing": (st.just(m.DmaWriteReply(None, None)), m.DmaWriteReply.decode),
    "unmap": (st.builds(m.DmaUnmapReply, u64, u64), m.DmaUnmapReply.decode),
    "unmap, dirty": (st.builds(m.DmaUnmapReply, u64, u64, st.just(1), u64, data), m.DmaUnmapReply.decode),
    "io fds": (st.builds(m.RegionIoFdsReply, u32, u32), m.RegionIoFdsReply.decode),
    "write multi": (st.builds(m.RegionWriteMultiReply, u64), m.RegionWriteMultiReply.decode),
    "migration data": (st.builds(m.MigDataReadReply, st.binary(max_size=64)), m.MigDataReadReply.decode),
    "done": (st.just(m.Done()), m.Done.decode),
}


@given(request=REQUESTS)
def test_a_request_survives_its_encoding(request: Request) -> None:
    kind = KINDS[NUMBERS[type(request)]]
    assert kind.decode(request.encode()) == request


@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_survives_its_encoding(name: str) -> None:
    values, decode = REPLIES[name]

    @given(reply=values)
    def survives(reply: Reply) -> None:
        assert decode(reply.encode()) == reply

    survives()


@given(index=u32, flags=st.integers(0, 7), size=u64, offset=u64, areas=areas, kind=kinds)
def test_region_information_with_capabilities_survives_its_encoding(
    index: int, flags: int, size: int, offset: int, areas: tuple[Area, ...], kind: RegionType | None
) -> None:
    reply = m.RegionInfoReply(index, flags, size, offset, areas, type=kind)
    found = m.RegionInfoReply.decode(reply.encode())
    assert (found.index, found.flags, found.size, found.offset) == (index, flags | 8, size, offset)
    assert (found.areas, found.type) == (areas, kind)
    assert found.argsz == len(reply.encode()) == 48 + 16 * len(areas) + (16 if kind else 0)
    assert len(reply.encode_within(found.argsz - 1)) == 32


def test_type_of_a_region_is_encoded_as_linux_does() -> None:
    """The chain that the kernel's mbochs gives (region-info-9)."""
    reply = m.RegionInfoReply(9, 3, 0x1000, 0, type=GFX_EDID).encode()
    assert struct.unpack_from("=IIII", reply) == (48, 0xB, 9, 32)
    assert reply[32:].hex() == "0200010000000000" + "0100000001000000"


@given(payload=st.binary(max_size=100), command=st.sampled_from(sorted(KINDS)))
def test_any_bytes_are_a_value_or_refused(payload: bytes, command: int) -> None:
    for decode in (KINDS[command].decode, KINDS[command].decode_reply):
        with suppress(GuestError):
            decode(payload)


def region_info(cap_offset: int, capabilities: bytes) -> bytes:
    return struct.pack("=IIIIQQ", 64, 15, 2, cap_offset, 0, 0) + capabilities


def sparse(count: int, areas: bytes = b"", following: int = 0) -> bytes:
    return struct.pack("=HHIII", 1, 1, following, count, 0) + areas


@pytest.mark.parametrize(
    "payload",
    [
        bytes(31),
        region_info(8, sparse(0)),
        region_info(1000, sparse(0)),
        region_info((1 << 32) - 1, sparse(0)),
        region_info(32, b"\1\0\1\0"),
        region_info(32, sparse(0)[:12]),
        region_info(32, sparse(2, bytes(16))),
        region_info(32, sparse((1 << 32) - 1)),
        region_info(32, struct.pack("=HHII", 2, 1, 0, 1)),
        region_info(32, struct.pack("=HHI", 9, 1, 32)),
        region_info(40, struct.pack("=HHIHHI", 9, 1, 0, 9, 1, 32)),
    ],
)
def test_a_bent_capability_chain_is_refused(payload: bytes) -> None:
    with pytest.raises(GuestError):
        m.RegionInfoReply.decode(payload)


def test_capabilities_that_nobody_knows_are_skipped() -> None:
    chain = struct.pack("=HHI", 9, 1, 40) + sparse(1, struct.pack("=QQ", 0x1000, 0x2000))
    assert m.RegionInfoReply.decode(region_info(32, chain)).areas == (Area(0x1000, 0x2000),)
    assert m.RegionInfoReply.decode(region_info(32, struct.pack("=HHI", 9, 1, 0))).areas == ()
    assert m.RegionInfoReply.decode(region_info(0, b"")).areas == ()


def test_of_many_lists_of_areas_the_first_counts() -> None:
    """A hostile server could otherwise have a client decode a thousand areas for each eight bytes."""
    first, second = (sparse(1, struct.pack("=QQ", at, 0x1000), following) for at, following in ((0, 64), (0x9000, 0)))
    assert m.RegionInfoReply.decode(region_info(32, first + second)).areas == (Area(0, 0x1000),)


def test_headers() -> None:
    assert Header.decode(command_message(3, 9, b"abc")) == (3, 9, 19, 0, 0)
    assert Header.decode(reply_message(3, 9, b"abc")) == (3, 9, 19, 1, 0)
    assert Header.decode(error_message(3, 9, 22)) == (3, 9, 16, 0x21, 22)
    assert not Header.decode(error_message(3, 9, 22)).no_reply


def test_our_version_fits_qemus_buffer() -> None:
    assert len(command_message(0, Command.VERSION, Version().encode())) <= LARGEST_REPLY
    assert Version.decode(Version().encode()).capabilities == OURS


def test_what_is_not_known_is_named() -> None:
    assert "DIRTY_PAGES" in str(unknown(Command.DIRTY_PAGES))
    assert "unknown" in str(unknown(99))


@pytest.mark.parametrize(
    ("request_", "payload"),
    [
        (m.RegionRead(0, 0, 4), m.RegionReadReply(0, 0, b"abc").encode()),
        (m.RegionRead(0, 0, 4), m.RegionReadReply(4, 0, b"abcd").encode()),
        (m.RegionRead(0, 0, 4), m.RegionReadReply(0, 1, b"abcd").encode()),
        (m.RegionWrite(0, 0, b"abcd"), m.RegionWriteReply(0, 0, 3).encode()),
        (m.DmaUnmap(0, 4096), m.DmaUnmapReply(0, 8192).encode()),
        (m.DmaUnmap(0, 4096, 1, 4096, 8), m.DmaUnmapReply(0, 4096, 1, 4096, bytes(16)).encode()),
        (m.RegionWriteMulti(()), m.RegionWriteMultiReply(1).encode()),
        (m.MigDataRead(4), m.MigDataReadReply(bytes(5)).encode()),
        (m.DeviceFeature(1, m.FeatureOps.GET, 16), m.DeviceFeature(2, m.FeatureOps.GET, 16).encode()),
        (m.DeviceFeature(1, m.FeatureOps.GET, 16), m.DeviceFeature(1, m.FeatureOps.SET, 16).encode()),
        (m.DmaRead(0, 4), m.DmaReadReply(4, b"abcd").encode()),
        (m.DmaWrite(0, b"abcd"), m.DmaWriteReply(0, 3).encode()),
        (m.DeviceReset(), b"x"),
    ],
)
def test_a_reply_that_repeats_something_else_is_refused(request_: Request, payload: bytes) -> None:
    with pytest.raises(GuestError):
        decode_reply(request_, payload)


FEATURE_DATA = st.one_of(
    st.builds(m.U64, u64),
    st.builds(m.DeviceState, u32),
    st.builds(m.DmaReport, u64, u64, u64),
    st.builds(m.DmaLogging, u64, st.lists(st.tuples(u64, u64), max_size=4).map(tuple)),
)


@given(value=FEATURE_DATA)
def test_the_data_of_a_feature_survives_its_encoding(
    value: m.U64 | m.DeviceState | m.DmaReport | m.DmaLogging,
) -> None:
    encoded = value.encode()
    assert value.decode(encoded) == value
    assert value.decode(encoded + b"more") == value
    with pytest.raises(GuestError):
        value.decode(encoded[:-1])


def test_ranges_that_do_not_come_are_refused_before_they_are_waited_for() -> None:
    assert len(m.DmaLogging(4096, ((0, 4096),) * MOST_RANGES).encode()) == 16 + 16 * MOST_RANGES
    with pytest.raises(GuestError, match="expected 4112"):
        m.DmaLogging.decode(struct.pack("=QII", 4096, MOST_RANGES, 0))
    with pytest.raises(TooManyRanges):
        m.DmaLogging.decode(struct.pack("=QII", 4096, (1 << 32) - 1, 0))


@pytest.mark.parametrize(
    ("length", "page_size", "size"), [(0, 1, 0), (1, 4096, 8), (1 << 18, 4096, 8), (1 << 19, 4096, 16)]
)
def test_a_bitmap_has_a_bit_a_page_in_words_of_64(length: int, page_size: int, size: int) -> None:
    assert m.DmaReport(0, length, page_size).bitmap_size == size


def test_migration_data_may_be_less_than_its_message() -> None:
    """libvfio-user's reply is as long as the request asked for."""
    assert m.MigDataReadReply.decode(struct.pack("=II", 11, 3) + b"abc" + bytes(100)).data == b"abc"
