"""VERSION: what is agreed on, and that a bad one is told so and ends the connection."""

import json
import os
import struct
from collections.abc import Iterator
from errno import EINVAL

import pytest

from mdev_user.vfio_user.client import Client
from mdev_user.vfio_user.framing import HEADER, NO_REPLY, REPLY, Command, command_message
from mdev_user.vfio_user.version import LARGEST_REPLY, LARGEST_VERSION, OURS
from protocol.served import Served, Wire

QEMU = (
    b'{"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, "max_data_xfer_size": 1048576,'
    b' "migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, "write_multiple": true}}\0'
)


def version(text: bytes, major: int = 0, minor: int = 0) -> bytes:
    return struct.pack("=HH", major, minor) + text


@pytest.fixture
def first(served: Served) -> Wire:
    """A wire on which nothing has been said."""
    return Wire(served.socket)


def test_qemus_proposal_is_agreed_on_within_its_own_214_bytes(first: Wire, served: Served) -> None:
    assert HEADER.size + len(version(QEMU)) == LARGEST_REPLY
    answer = first.ask(Command.VERSION, version(QEMU))
    assert answer.header.size <= LARGEST_REPLY
    assert struct.unpack_from("=HH", answer.payload) == (0, 0)
    assert answer.payload.endswith(b"\0")
    capabilities = json.loads(answer.payload[4:-1])["capabilities"]
    assert capabilities["max_msg_fds"] == 16
    assert capabilities["max_data_xfer_size"] == 1 << 20
    assert capabilities["write_multiple"] is True
    assert "twin_socket" not in capabilities
    assert served.session.connection.peer is not None
    assert first.works()


def test_a_proposal_without_text_means_the_defaults(first: Wire, served: Served) -> None:
    assert not first.ask(Command.VERSION, version(b"")).errno
    assert served.session.connection.peer is not None
    assert served.session.connection.peer.max_msg_fds == 1


def test_what_was_not_proposed_is_not_agreed_on(first: Wire) -> None:
    answer = first.ask(Command.VERSION, version(b'{"capabilities": {"twin_socket": {"supported": true}}}\0'))
    capabilities = json.loads(answer.payload[4:-1])["capabilities"]
    assert capabilities["write_multiple"] is False
    assert "twin_socket" not in capabilities
    assert not answer.fds


def test_the_lower_minor_is_agreed_on(first: Wire) -> None:
    answer = first.ask(Command.VERSION, version(b"", minor=99))
    assert struct.unpack_from("=HH", answer.payload) == (0, 1)


def test_unknown_capabilities_are_ignored(first: Wire) -> None:
    text = b'{"capabilities": {"twin_socket": {"supported": true}, "a": [1, {"b": null}]}, "more": 1}\0'
    assert not first.ask(Command.VERSION, version(text)).errno


def bad_versions() -> Iterator[tuple[str, bytes]]:
    yield "no numbers", b"\0\0\0"
    yield "major", version(b"", major=1)
    yield "no NUL", version(b"{}")
    yield "no JSON", version(b"\0")
    yield "a NUL within", version(b'{"capabilities":\0{}}\0')
    yield "not an object", version(b"[]\0")
    yield "cut off", version(b'{"capabilities": {"max_msg_fds": 1\0')
    yield "deep", version(b'{"a": ' + b"[" * 2000 + b"]" * 2000 + b"}\0")
    yield "deeper than closed", version(b'{"a":' + b"[" * 4000 + b"\0")
    for value in (b"-1", b"1e99", b'"1"', b"null", b"true", b"1025", b"99999999999999999999999999"):
        yield f"fds {value!r}", version(b'{"capabilities": {"max_msg_fds": ' + value + b"}}\0")
    for value in (b"0", b"-5", b'""', b"[]"):
        yield f"transfer {value!r}", version(b'{"capabilities": {"max_data_xfer_size": ' + value + b"}}\0")
    yield "page size", version(b'{"capabilities": {"pgsizes": 4095}}\0')
    yield "no maps", version(b'{"capabilities": {"max_dma_maps": 0}}\0')


@pytest.mark.parametrize("payload", [pytest.param(payload, id=name) for name, payload in bad_versions()])
def test_a_bad_proposal_is_refused_and_ends_the_connection(first: Wire, served: Served, payload: bytes) -> None:
    assert first.ask(Command.VERSION, payload).errno == EINVAL
    assert first.closed()
    assert served.ended().startswith("the client broke the protocol: ")


def test_a_transfer_size_beyond_ours_is_no_error(first: Wire) -> None:
    text = b'{"capabilities": {"max_data_xfer_size": 1' + b"0" * 18 + b"}}\0"
    assert not first.ask(Command.VERSION, version(text)).errno


def test_a_version_longer_than_any_is_not_even_received(first: Wire, served: Served) -> None:
    first.send(HEADER.pack(1, Command.VERSION, LARGEST_VERSION + 1, 0, 0))
    assert first.closed()
    assert "message of 4097 bytes" in served.ended()


@pytest.mark.parametrize("command", [command for command in range(20) if command != Command.VERSION])
def test_nothing_comes_before_version(first: Wire, served: Served, command: int) -> None:
    assert first.ask(command).errno == EINVAL
    assert first.closed()
    assert "expected VERSION first" in served.ended()


@pytest.mark.parametrize("flags", [NO_REPLY, 0x2, 0x20, 0x40])
def test_version_with_flags_is_no_version(first: Wire, served: Served, flags: int) -> None:
    first.send(HEADER.pack(1, Command.VERSION, HEADER.size + 4, flags, 0) + bytes(4))
    assert first.closed()
    assert "expected VERSION first" in served.ended()


def test_a_reply_before_version_ends_the_connection(first: Wire, served: Served) -> None:
    first.send(HEADER.pack(0, Command.VERSION, HEADER.size + 4, REPLY, 0) + bytes(4))
    assert first.closed()
    assert "that nobody asked for" in served.ended()


def test_version_takes_no_fds(first: Wire, served: Served) -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    assert first.ask(Command.VERSION, version(QEMU), [fd]).errno == EINVAL
    os.close(fd)
    assert first.closed()


def test_a_second_version_is_refused_and_changes_nothing(wire: Wire, served: Served) -> None:
    agreed = served.session.connection.peer
    assert wire.ask(Command.VERSION, version(b'{"capabilities": {"max_data_xfer_size": 1}}\0')).errno == EINVAL
    assert served.session.connection.peer == agreed
    assert wire.works()


def test_version_may_arrive_with_the_first_request_and_in_single_bytes(first: Wire) -> None:
    glued = command_message(1, Command.VERSION, version(QEMU)) + command_message(2, Command.DEVICE_RESET)
    for byte in glued:
        first.send(bytes([byte]))
    assert first.receive().header.id == 1
    assert first.receive().header.id == 2
    assert first.works()


def test_our_client_and_our_server_agree(client: Client) -> None:
    assert client.connection.peer == OURS
