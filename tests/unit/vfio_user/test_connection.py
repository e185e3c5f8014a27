"""The connection's own state: identities, roles, and when it is idle. Hostile bytes are in tests/protocol."""

import pytest

from mdev_user.errors import GuestError, PeerError
from mdev_user.vfio_user import messages as m
from mdev_user.vfio_user.commands import Role
from mdev_user.vfio_user.connection import Answered, Asked, Connection, Event, Fds, Negotiated, Refused, RemoteError
from mdev_user.vfio_user.framing import Command, Header, command_message, error_message, reply_message
from mdev_user.vfio_user.version import OURS, Capabilities, Version


def events(connection: Connection, data: bytes) -> list[Event]:
    connection.receive(data)
    found = []
    while (event := connection.next_event()) is not None:
        found.append(event)
    return found


@pytest.fixture
def pair() -> tuple[Connection, Connection]:
    """A client and a server that have agreed."""
    client, server = Connection(Role.CLIENT), Connection(Role.SERVER)
    (agreed,) = events(server, client.hello())
    assert isinstance(agreed, Negotiated)
    assert isinstance(events(client, agreed.reply)[0], Negotiated)
    return client, server


def test_both_sides_know_each_other(pair: tuple[Connection, Connection]) -> None:
    client, server = pair
    assert client.peer == server.peer == OURS
    assert client.idle
    assert server.idle


def test_a_request_is_asked_at_one_end_and_answered_at_the_other(pair: tuple[Connection, Connection]) -> None:
    client, server = pair
    identity, message = client.ask(m.RegionRead(0, 0, 4))
    (asked,) = events(server, message)
    assert asked == Asked(identity, Command.REGION_READ, m.RegionRead(0, 0, 4), False, asked.fds)
    reply = m.RegionReadReply(0, 0, b"abcd")
    (answered,) = events(client, reply_message(identity, Command.REGION_READ, reply.encode()))
    assert answered == Answered(identity, m.RegionRead(0, 0, 4), reply, answered.fds)


def test_identities_count_up_and_skip_what_is_waited_for(pair: tuple[Connection, Connection]) -> None:
    _client, server = pair
    request = m.DmaRead(0, 4)
    used = [server.ask(request)[0] for _ in range(3)]
    server._next_id = 0
    assert server.ask(request)[0] == 3
    server._next_id = 0xFFFF
    assert [server.ask(request)[0] for _ in range(2)] == [0xFFFF, 4]
    assert used == [0, 1, 2]


def test_no_more_requests_than_identities(pair: tuple[Connection, Connection]) -> None:
    _client, server = pair
    server._pending = dict.fromkeys(range(1 << 16), m.DmaRead(0, 4))
    with pytest.raises(GuestError, match="65536 requests"):
        server.ask(m.DmaRead(0, 4))


@pytest.mark.parametrize("errno", [1, 14, 4095])
def test_an_error_reply_carries_its_errno(pair: tuple[Connection, Connection], errno: int) -> None:
    client, _server = pair
    identity, _message = client.ask(m.DeviceReset())
    (answered,) = events(client, error_message(identity, Command.DEVICE_RESET, errno))
    assert isinstance(answered, Answered)
    assert isinstance(answered.reply, RemoteError)
    assert answered.reply.errno == errno


def test_a_server_asks_and_a_client_is_asked(pair: tuple[Connection, Connection]) -> None:
    client, server = pair
    (asked,) = events(client, server.ask(m.DmaRead(0, 4))[1])
    assert isinstance(asked, Asked)
    (refused,) = events(server, command_message(1, Command.DMA_READ, m.DmaRead(0, 4).encode()))
    assert isinstance(refused, Refused)
    assert Header.decode(refused.reply).errno == 22
    (refused,) = events(client, command_message(1, Command.REGION_READ, m.RegionRead(0, 0, 4).encode()))
    assert isinstance(refused, Refused)


def test_a_version_reply_that_is_none_ends_the_connection() -> None:
    for reply in (b"\0\0\0\0{\0", b"\1\0\0\0"):
        client = Connection(Role.CLIENT)
        client.hello()
        client.receive(reply_message(0, Command.VERSION, reply))
        assert isinstance(client.next_event(), Answered)
        with pytest.raises(PeerError, match="VERSION failed"):
            client.next_event()
        assert not client.idle


def test_a_server_that_asks_before_version_ends_the_connection() -> None:
    client = Connection(Role.CLIENT)
    client.hello()
    client.receive(command_message(0, Command.DMA_READ, m.DmaRead(0, 4).encode()))
    assert isinstance(client.next_event(), Refused)
    with pytest.raises(PeerError, match="expected VERSION first"):
        client.next_event()


def test_an_offer_of_ones_own_is_made() -> None:
    server = Connection(Role.SERVER, Capabilities(max_msg_fds=3))
    (agreed,) = events(server, command_message(0, Command.VERSION, Version(Capabilities(max_msg_fds=2)).encode()))
    assert isinstance(agreed, Negotiated)
    assert agreed.peer.max_msg_fds == 2
    assert Version.decode(agreed.reply[16:]).capabilities.max_msg_fds == 3


def test_a_connection_is_idle_between_messages_only(pair: tuple[Connection, Connection]) -> None:
    client, server = pair
    message = client.ask(m.DeviceReset())[1]
    assert events(server, message[:5]) == []
    assert (server.midway, server.idle) == (True, False)
    assert len(events(server, message[5:])) == 1
    assert (server.midway, server.idle) == (False, True)
    assert not Connection(Role.SERVER).idle


def test_fds_have_one_owner(pair: tuple[Connection, Connection]) -> None:
    fds = Fds((7, 8))
    assert len(fds) == 2
    assert fds.take() == (7, 8)
    assert fds.take() == ()
    _client, server = pair
    server.receive(b"", Fds((9,)))
    assert server.take_fds() == (9,)
    assert server.take_fds() == ()
