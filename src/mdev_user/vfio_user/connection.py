"""One side of a vfio-user connection, without a socket: bytes and file descriptors in, events out.

A shell gives what it received to `Connection.receive`, takes every event there is with `next_event`, and sends the
bytes it is given. What a peer does wrong has two sides:

- a message that is framed well and says something bad is `Refused`: its sender gets an errno, the next message works;
- bytes that cannot be followed (a size that no message has, a reply nobody asked for, a failed negotiation) raise
  `PeerError`, from then on for ever: the shell closes the connection.

A file descriptor always has exactly one owner. What `receive` is given belongs to the connection until an event
carries it (`Fds`), then to the event until somebody takes the numbers. The shell closes what an event still has when
it is done with it, and what `take_fds` of the connection gives at the end. So no path needs to know the others.
"""

from collections import deque
from dataclasses import dataclass

from mdev_user.errors import GuestError, PeerError
from mdev_user.vfio_user.commands import KINDS, NUMBERS, Reply, Request, Role, decode_reply, unknown
from mdev_user.vfio_user.framing import (
    COMMAND,
    ERROR,
    HEADER,
    KNOWN_FLAGS,
    LARGEST_MESSAGE,
    MOST_FDS,
    NO_REPLY,
    REPLY,
    Command,
    Header,
    command_message,
    error_message,
    reply_message,
)
from mdev_user.vfio_user.messages import DeviceSetIrqs, IrqData, MigDataRead
from mdev_user.vfio_user.version import LARGEST_VERSION, OURS, Capabilities, Version

_IDS = 1 << 16
_EINVAL = GuestError.errno


class RemoteError(OSError):
    """The peer answered a request with an errno."""


class Fds:
    """File descriptors that came with a message and belong to it until they are taken."""

    __slots__ = ("_numbers", "truncated")

    def __init__(self, numbers: tuple[int, ...] = (), *, truncated: bool = False) -> None:
        self._numbers = numbers
        self.truncated = truncated

    def __len__(self) -> int:
        return len(self._numbers)

    def take(self) -> tuple[int, ...]:
        """The numbers; whoever takes them closes them."""
        numbers, self._numbers = self._numbers, ()
        return numbers

    def add(self, other: "Fds") -> None:
        self._numbers += other.take()
        self.truncated |= other.truncated


@dataclass(frozen=True, slots=True)
class Negotiated:
    """VERSION is agreed on. A server sends ``reply``; a client has nothing to send."""

    peer: Capabilities
    reply: bytes
    fds: Fds


@dataclass(frozen=True, slots=True)
class Asked:
    """The peer asks for something, and waits for a reply unless ``no_reply``."""

    id: int
    command: int
    request: Request
    no_reply: bool
    fds: Fds


@dataclass(frozen=True, slots=True)
class Refused:
    """The peer asked badly. ``reply`` is to be sent; it is empty when the peer wanted none."""

    error: GuestError
    reply: bytes
    fds: Fds


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to our request ``id``: a reply, the peer's errno, or GuestError for what is no answer to it."""

    id: int
    request: Request
    reply: Reply | RemoteError | GuestError
    fds: Fds


Event = Negotiated | Asked | Refused | Answered


class Connection:
    """The state of one side. ``peer`` is None until VERSION is agreed on."""

    __slots__ = ("_buffer", "_consumed", "_failure", "_fds", "_next_id", "_pending", "offer", "peer", "role")

    def __init__(self, role: Role, offer: Capabilities = OURS) -> None:
        self.role = role
        self.offer = offer
        self.peer: Capabilities | None = None
        self._buffer = bytearray()
        self._consumed = 0  # bytes taken off the front of the stream so far
        self._fds: deque[tuple[int, Fds]] = deque()  # each with the stream position just behind its chunk
        self._pending: dict[int, Request] = {}
        self._next_id = 0
        self._failure = ""

    @property
    def idle(self) -> bool:
        """Negotiated, and nothing carried over: the next byte received begins a message."""
        return self.peer is not None and not self._buffer and not self._failure

    @property
    def midway(self) -> bool:
        """Part of a message has been received."""
        return bool(self._buffer)

    @property
    def wanted(self) -> int:
        """How many bytes to receive so that none of the next message is among them. After `next_event` gave None."""
        known = Header.decode(self._buffer).size if len(self._buffer) >= HEADER.size else HEADER.size
        return known - len(self._buffer)

    def receive(self, data: bytes | memoryview, fds: Fds | None = None) -> None:
        """Take over one chunk as it was received, and the fds that came with it."""
        self._buffer += data
        if fds is not None and (len(fds) or fds.truncated):
            self._fds.append((self._consumed + len(self._buffer), fds))

    def next_event(self) -> Event | None:
        """The next thing that the peer said, None when more bytes are needed. PeerError: close the connection."""
        if self._failure:
            raise PeerError(self._failure)
        if len(self._buffer) >= HEADER.size:
            header = Header.decode(self._buffer)
            self._check_size(header)
            if len(self._buffer) >= header.size:
                return self._message(header)
        self._check_carried()
        return None

    def ask(self, request: Request) -> tuple[int, bytes]:
        """The id and the message of a request of ours; its answer will be an `Answered` with that id."""
        if len(self._pending) == _IDS:
            raise GuestError(f"{_IDS} requests wait for the peer's answer")
        while self._next_id in self._pending:
            self._next_id = (self._next_id + 1) % _IDS
        identity, self._next_id = self._next_id, (self._next_id + 1) % _IDS
        self._pending[identity] = request
        return identity, command_message(identity, NUMBERS[type(request)], request.encode())

    def asked(self, identity: int, request: Request) -> None:
        """A request of ours that somebody else has sent, with an id that none of ours has."""
        if identity in self._pending:
            raise GuestError(f"the request {identity} waits for the peer's answer already")
        self._pending[identity] = request

    def post(self, request: Request) -> bytes:
        """The message of a request that is not answered, whatever becomes of it. Its id is nobody's."""
        return command_message(self._next_id, NUMBERS[type(request)], request.encode(), NO_REPLY)

    def hello(self) -> bytes:
        """The VERSION message with which a client begins."""
        return self.ask(Version(self.offer))[1]

    def take_fds(self) -> tuple[int, ...]:
        """Every fd that no event has carried yet; whoever takes them closes them."""
        groups, self._fds = self._fds, deque()
        return tuple(number for _, fds in groups for number in fds.take())

    def _check_carried(self) -> None:
        # All complete messages are out, so whatever fds are left belong to the one that is being received.
        if sum(len(fds) for _, fds in self._fds) > MOST_FDS:
            raise self._broken(f"more than {MOST_FDS} file descriptors with one message")

    def _broken(self, reason: str) -> PeerError:
        self._failure = reason
        return PeerError(reason)

    def _check_size(self, header: Header) -> None:
        largest = LARGEST_VERSION if self.peer is None else LARGEST_MESSAGE
        if not HEADER.size <= header.size <= largest:
            raise self._broken(f"message of {header.size} bytes: expected {HEADER.size} to {largest}")

    def _message(self, header: Header) -> Event:
        payload = bytes(memoryview(self._buffer)[HEADER.size : header.size])
        del self._buffer[: header.size]
        self._consumed += header.size
        fds = self._fds_of_message()
        if header.kind == REPLY:
            return self._answered(header, payload, fds)
        if self.peer is None:
            return self._negotiated(header, payload, fds)
        try:
            request = self._request(header, payload, fds)
        except GuestError as error:
            return self._refused(header, error, fds)
        return Asked(header.id, header.command, request, header.no_reply, fds)

    def _fds_of_message(self) -> Fds:
        """The fds of the message that was just taken off.

        A chunk's fds belong to the message that has the chunk's last byte: the kernel ends a receive behind the
        bytes that fds were sent with, and a peer sends them with the bytes that begin their message.
        """
        found = Fds()
        while self._fds and self._fds[0][0] <= self._consumed:
            found.add(self._fds.popleft()[1])
        return found

    def _request(self, header: Header, payload: bytes, fds: Fds) -> Request:
        if header.kind != COMMAND or header.flags & (ERROR | ~KNOWN_FLAGS):
            raise GuestError(f"flags {header.flags:#x}: expected 0 (command), with 0x10 no reply")
        kind = KINDS.get(header.command)
        if kind is None or kind.asks is self.role:
            raise unknown(header.command)
        if header.command == Command.VERSION:
            raise GuestError("VERSION is agreed on already")
        _check_fds(fds, kind.request_fds)
        request = kind.decode(payload)
        if isinstance(request, DeviceSetIrqs):
            _check_eventfds(request, fds)
        if isinstance(request, MigDataRead) and self.peer is not None:
            _check_transfer(request, self.peer)
        return request

    def _refused(self, header: Header, error: GuestError, fds: Fds) -> Refused:
        reply = b"" if header.no_reply else error_message(header.id, header.command, error.errno)
        return Refused(error, reply, fds)

    def _negotiated(self, header: Header, payload: bytes, fds: Fds) -> Event:
        """The client's first message. When it is not a good VERSION the client is told, and that was all."""
        try:
            if header.command != Command.VERSION or header.flags != COMMAND or self.role is not Role.SERVER:
                raise GuestError(f"command {header.command}, flags {header.flags:#x}: expected VERSION first")
            _check_fds(fds, 0)
            proposal = Version.decode(payload)
        except GuestError as error:
            self._failure = str(error)
            return self._refused(header, error, fds)
        self.peer = proposal.capabilities
        reply = proposal.answer(self.offer).encode()
        return Negotiated(self.peer, reply_message(header.id, header.command, reply), fds)

    def _answered(self, header: Header, payload: bytes, fds: Fds) -> Event:
        request = self._pending.get(header.id)
        if request is None or NUMBERS[type(request)] != header.command:
            # Held by nobody from here on but the connection: the event that would carry them never comes.
            self._fds.append((self._consumed, fds))
            raise self._broken(f"a reply to command {header.command}, id {header.id}, that nobody asked for")
        del self._pending[header.id]
        reply = _reply(request, header, payload, fds)
        if not isinstance(request, Version):
            return Answered(header.id, request, reply, fds)
        if not isinstance(reply, Version):
            self._failure = f"VERSION failed: {reply}"
            return Answered(header.id, request, reply, fds)
        self.peer = reply.capabilities
        return Negotiated(self.peer, b"", fds)


def _reply(request: Request, header: Header, payload: bytes, fds: Fds) -> Reply | RemoteError | GuestError:
    command = Command(header.command)
    if header.flags & ERROR:
        return RemoteError(header.errno or _EINVAL, f"the peer refused {command.name}")
    try:
        _check_fds(fds, KINDS[command].reply_fds)
        return decode_reply(request, payload)
    except GuestError as error:
        return error


def _check_fds(fds: Fds, most: int) -> None:
    if fds.truncated:
        raise GuestError(f"file descriptors were lost: over {MOST_FDS} with one message, or too many open files here")
    if len(fds) > most:
        raise GuestError(f"{len(fds)} file descriptors came with a message that takes {most}")


def _check_eventfds(request: DeviceSetIrqs, fds: Fds) -> None:
    if request.data is not IrqData.EVENTFD and len(fds):
        raise GuestError(f"SET_IRQS with {request.data.name} data takes no file descriptors, {len(fds)} came")
    if len(fds) not in {0, request.count}:
        raise GuestError(f"SET_IRQS of {request.count} vectors with {len(fds)} eventfds")


def _check_transfer(request: MigDataRead, peer: Capabilities) -> None:
    if request.size > peer.max_data_xfer_size:
        raise GuestError(f"MIG_DATA_READ of {request.size} bytes: its sender said it takes {peer.max_data_xfer_size}")
