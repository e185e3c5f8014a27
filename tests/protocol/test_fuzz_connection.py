"""The connection by itself, given anything: nothing but PeerError comes out, and every fd has one owner."""

import random
import struct
from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from mdev_user.errors import PeerError
from mdev_user.vfio_user import messages as m
from mdev_user.vfio_user.commands import Role
from mdev_user.vfio_user.connection import Answered, Asked, Connection, Event, Fds, Negotiated, Refused
from mdev_user.vfio_user.framing import HEADER, REPLY, Command, reply_message
from mdev_user.vfio_user.version import Version
from protocol.messages import VALID_READ, any_message, broken_frame, hello

FUZZ = settings(max_examples=300)


class Feed:
    """A connection that is fed, with its fds counted: labels, not real ones."""

    def __init__(self, role: Role = Role.SERVER, *, negotiated: bool = True) -> None:
        self.connection = Connection(role)
        self.given: list[int] = []
        self.events: list[Event] = []
        self.seen: list[int] = []
        if not negotiated:
            return
        if role is Role.SERVER:
            self.feed(hello())
        else:
            self.connection.hello()
            self.feed(reply_message(0, Command.VERSION, Version().encode()))
        assert isinstance(self.events.pop(), Negotiated)

    def feed(self, data: bytes, fds: int = 0, *, truncated: bool = False) -> None:
        """PeerError when the connection is done for."""
        labels = tuple(range(len(self.given), len(self.given) + fds))
        self.given += labels
        self.connection.receive(data, Fds(labels, truncated=truncated))
        while (event := self.connection.next_event()) is not None:
            self.events.append(event)
            self.seen += event.fds.take()

    def all_fds(self) -> list[int]:
        return sorted([*self.seen, *self.connection.take_fds()])


def chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges) if start < end]


@FUZZ
@given(
    data=st.binary(max_size=400),
    cuts=st.lists(st.integers(0, 1000), max_size=6),
    fds=st.lists(st.integers(0, 20), min_size=8, max_size=8),
    role=st.sampled_from(Role),
    negotiated=st.booleans(),
)
@example(data=bytes(16), cuts=[], fds=[3] * 8, role=Role.SERVER, negotiated=True)
@example(data=HEADER.pack(0, 1, 16, REPLY, 0), cuts=[3], fds=[3] * 8, role=Role.CLIENT, negotiated=False)
def test_random_bytes(data: bytes, cuts: list[int], fds: list[int], role: Role, negotiated: bool) -> None:
    feed = Feed(role, negotiated=negotiated)
    broken = False
    for chunk, count in zip(chunks(data, cuts), fds, strict=False):
        try:
            feed.feed(chunk, count)
            assert not broken, "a broken connection must stay broken"
        except PeerError:
            broken = True
    assert feed.all_fds() == sorted(feed.given)


@FUZZ
@given(seed=st.integers(0, 1 << 32), cuts=st.lists(st.integers(0, 5000), max_size=8), role=st.sampled_from(Role))
def test_spoilt_messages_in_any_pieces(seed: int, cuts: list[int], role: Role) -> None:
    chance = random.Random(seed)
    count = chance.randrange(1, 12)
    data = b"".join(any_message(chance) for _ in range(count))
    feed = Feed(role)
    for chunk in chunks(data, cuts):
        feed.feed(chunk, chance.choice([0, 0, 1]), truncated=chance.random() < 0.1)
    assert len(feed.events) == count
    assert all(isinstance(event, Asked | Refused) for event in feed.events)
    assert feed.connection.idle
    assert feed.all_fds() == sorted(feed.given)


@FUZZ
@given(seed=st.integers(0, 1 << 32))
def test_after_any_framed_request_a_valid_one_works(seed: int) -> None:
    chance = random.Random(seed)
    feed = Feed()
    feed.feed(any_message(chance), chance.choice([0, 1, 3]))
    feed.feed(VALID_READ)
    last = feed.events[-1]
    assert isinstance(last, Asked)
    assert last.request == m.RegionRead(0x10, 7, 4)


@FUZZ
@given(seed=st.integers(0, 1 << 32))
def test_a_broken_frame_breaks_for_ever(seed: int) -> None:
    feed = Feed()
    for data in (broken_frame(random.Random(seed)), VALID_READ, b""):
        try:
            feed.feed(data, 1)
        except PeerError:
            continue
        raise AssertionError("it was not refused")
    assert feed.all_fds() == [0, 1, 2]


@FUZZ
@given(payload=st.binary(max_size=60), flags=st.sampled_from([1, 0x21]), errno=st.integers(0, (1 << 32) - 1))
def test_any_answer_to_our_request_is_an_event(payload: bytes, flags: int, errno: int) -> None:
    for request in (m.DmaRead(0x1000, 8), m.DmaWrite(0x1000, b"12345678")):
        feed = Feed()
        identity, message = feed.connection.ask(request)
        command = struct.unpack_from("=HH", message)[1]
        feed.feed(HEADER.pack(identity, command, HEADER.size + len(payload), flags, errno) + payload)
        (event,) = feed.events
        assert isinstance(event, Answered)
        assert (event.id, event.request) == (identity, request)


CLIENT_REQUESTS = [
    m.DeviceGetInfo(),
    m.DeviceGetRegionInfo(2, 64),
    m.DeviceGetIrqInfo(0),
    m.RegionRead(0, 0, 8),
    m.RegionWrite(0, 0, b"12345678"),
    m.DmaUnmap(0, 4096),
    m.DeviceReset(),
]


@FUZZ
@given(payload=st.binary(max_size=100), request=st.sampled_from(CLIENT_REQUESTS))
@example(payload=struct.pack("=IIIIQQ", 64, 15, 2, 32, 0, 0), request=CLIENT_REQUESTS[1])
@example(payload=struct.pack("=IIIIQQHHI", 64, 15, 2, 32, 0, 0, 2, 1, 32), request=CLIENT_REQUESTS[1])
@example(payload=struct.pack("=IIIIQQHHIII", 64, 15, 2, 32, 0, 0, 1, 1, 0, 1 << 31, 0), request=CLIENT_REQUESTS[1])
def test_any_answer_to_a_client_is_an_event(payload: bytes, request: m.RegionRead) -> None:
    feed = Feed(Role.CLIENT)
    identity, message = feed.connection.ask(request)
    command = struct.unpack_from("=HH", message)[1]
    feed.feed(reply_message(identity, command, payload), fds=1)
    (event,) = feed.events
    assert isinstance(event, Answered)
    assert feed.all_fds() == [0]
