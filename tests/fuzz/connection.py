"""Target: the connection by itself, in both roles: any bytes in any pieces with any file descriptors.

An input is a list of actions: receive bytes as they are, receive a framed message (valid, or with one thing wrong),
ask for something, take what fds are left. The fds are labels, not real ones, so that each can be found again.
"""

from collections.abc import Sequence

from fuzz.choices import Choices
from fuzz.target import Target, expect
from mdev_user.errors import GuestError, PeerError
from mdev_user.vfio_user import messages as m
from mdev_user.vfio_user.commands import KINDS, NUMBERS, Request, Role
from mdev_user.vfio_user.connection import Answered, Asked, Connection, Event, Fds, Negotiated, Refused
from mdev_user.vfio_user.framing import (
    ERROR,
    HEADER,
    LARGEST_MESSAGE,
    MOST_FDS,
    NO_REPLY,
    REPLY,
    Command,
    Header,
    error_message,
    reply_message,
)
from mdev_user.vfio_user.version import Capabilities, Version
from protocol.messages import PAYLOADS, VALID_READ, hello

COMMANDS = sorted(PAYLOADS)
QUESTIONS: dict[Role, list[Request]] = {
    Role.SERVER: [m.DmaRead(0x1000, 8), m.DmaWrite(0x1000, b"12345678")],
    Role.CLIENT: [
        m.DeviceGetInfo(),
        m.DeviceGetRegionInfo(2, 64),
        m.RegionRead(0, 0, 8),
        m.RegionWrite(0, 0, b"12345678"),
        m.DeviceReset(),
    ],
}
ERRNOS = {GuestError.errno, 25}
MOST_ACTIONS = 40
_SMALL_HELLO = Connection(Role.CLIENT, Capabilities(max_data_xfer_size=4096)).hello()


class Run:
    """One connection, what it was given and what came out."""

    def __init__(self, role: Role) -> None:
        self.connection = Connection(role)
        self.given = self.asked = 0
        self.seen: list[int] = []
        self.broken = False
        self.waiting: list[tuple[int, Request]] = []

    def negotiate(self, other: int) -> None:
        """``other``: a client that takes little, or a server that refuses."""
        if self.connection.role is Role.SERVER:
            self.receive(_SMALL_HELLO if other else hello(), 0, truncated=False)
            return
        if other:
            self.ask(Version(self.connection.offer))
            self.receive(error_message(0, Command.VERSION, GuestError.errno), 0, truncated=False)
        else:
            self.connection.hello()
            self.receive(reply_message(0, Command.VERSION, Version().encode()), 0, truncated=False)

    def receive(self, data: bytes, fds: int, *, truncated: bool) -> None:
        if not data:  # which a socket gives at its end only, and never with fds
            return
        labels = tuple(range(self.given, self.given + fds))
        self.given += fds
        self.connection.receive(data, Fds(labels, truncated=truncated))
        try:
            while (event := self.connection.next_event()) is not None:
                expect(not self.broken, f"{event} after the connection broke")
                self._check(event)
                self.seen += event.fds.take()
        except PeerError:
            self.broken = True
        else:
            expect(not self.broken, "a broken connection must stay broken")
            carried = sum(len(each) for _end, each in self.connection._fds)
            expect(carried <= MOST_FDS, f"{carried} fds are kept")
            expect(len(self.connection._buffer) < LARGEST_MESSAGE, f"{len(self.connection._buffer)} bytes are kept")

    def _check(self, event: Event) -> None:
        match event:
            case Refused(error, reply):
                expect(error.errno in ERRNOS, f"errno {error.errno}")
                expect(len(reply) in {0, HEADER.size}, f"an error reply of {len(reply)} bytes")
                expect(not reply or Header.decode(reply).flags == REPLY | ERROR, "an error reply that is none")
            case Asked():
                kind = KINDS[event.command]
                expect(isinstance(event.request, kind.request), f"{event.request} for command {event.command}")
                expect(kind.asks is not self.connection.role, f"command {event.command} from the wrong side")
                expect(self.connection.peer is not None, "a request before VERSION")
                expect(len(event.fds) <= kind.request_fds, f"{len(event.fds)} fds with command {event.command}")
                expect(not event.fds.truncated, "a request whose fds were lost")
                self._check_eventfds(event)
            case Answered():
                expect((event.id, event.request) in self.waiting, f"an answer {event.id} to nothing")
                self.waiting.remove((event.id, event.request))
            case Negotiated():
                expect(self.connection.peer is not None, "negotiated with nobody")

    def _check_eventfds(self, event: Asked) -> None:
        request = event.request
        if isinstance(request, m.DeviceSetIrqs):
            most = request.count if request.data is m.IrqData.EVENTFD else 0
            expect(len(event.fds) in {0, most}, f"{len(event.fds)} fds for {most} vectors")

    def ask(self, request: Request) -> None:
        identity, message = self.connection.ask(request)
        expect(all(identity != each for each, _request in self.waiting), f"id {identity} is used twice")
        expect(Header.decode(message).size == len(message), "a message of the wrong size")
        self.waiting.append((identity, request))

    def end(self) -> None:
        """A connection that is not broken and has nothing carried over takes a valid request."""
        if self.connection.role is Role.SERVER and self.connection.idle:
            before = len(self.seen)
            self.receive(VALID_READ, 0, truncated=False)
            expect(not self.broken and len(self.seen) == before, "a valid read was not understood")
        self.seen += self.connection.take_fds()
        expect(sorted(self.seen) == list(range(self.given)), f"of {self.given} fds these came out: {self.seen}")


def framed(choices: Choices, run: Run) -> bytes:
    """A message with at most one thing wrong, or an answer to a question of ours."""
    command, flags = choices.one_of(COMMANDS), 0
    payload = choices.one_of(PAYLOADS[command])
    identity = choices.byte()
    match choices.below(10):
        case 1:
            payload = payload[: choices.below(len(payload) + 1)]
        case 2:
            payload += choices.take(choices.below(64))
        case 3 if payload:
            at = choices.below(len(payload))
            payload = payload[:at] + choices.take(1) + payload[at + 1 :]
        case 4:
            command = choices.below(64)
        case 5:
            flags = choices.one_of((NO_REPLY, ERROR, REPLY, REPLY | ERROR, 2, 0x40, 1 << 31))
        case 6 | 7 if run.waiting:
            identity, request = choices.one_of(run.waiting)
            command, flags, payload = NUMBERS[type(request)], choices.one_of((REPLY, REPLY | ERROR)), _answer(choices)
        case _:
            pass
    return HEADER.pack(identity, command, HEADER.size + len(payload), flags, choices.byte()) + payload


def _answer(choices: Choices) -> bytes:
    valid = [m.DmaReadReply(0x1000, b"12345678").encode(), m.DmaWriteReply(0x1000, 8).encode(), b""]
    valid += [m.RegionReadReply(0, 0, b"12345678").encode(), m.DeviceInfoReply(3, 9, 5).encode(), bytes(24)]
    return choices.one_of(valid) if choices.byte() % 2 == 0 else choices.take(choices.below(64))


def one(data: bytes) -> None:
    choices = Choices(data)
    setup = choices.byte()
    run = Run(Role.CLIENT if setup & 1 else Role.SERVER)
    if not setup & 2:
        run.negotiate(setup & 4)
    for _ in range(MOST_ACTIONS):
        if not choices.left:
            break
        _act(choices, run)
    run.end()


def _act(choices: Choices, run: Run) -> None:
    action = choices.below(8)
    if action == 0:
        fds = choices.one_of((0, 1, 2, MOST_FDS, MOST_FDS + 1))
        run.receive(choices.take(choices.below(64)), fds, truncated=choices.one_in(8))
    elif action == 1 and run.connection.peer is not None:
        run.ask(choices.one_of(QUESTIONS[run.connection.role]))
    else:
        message, fds = framed(choices, run), choices.one_of((0, 0, 0, 1, 2, MOST_FDS))
        cut = choices.below(len(message) + 1) if choices.one_in(3) else len(message)
        run.receive(message[:cut], fds, truncated=choices.one_in(16))
        if cut < len(message):
            run.receive(message[cut:], choices.one_of((0, 0, 1)), truncated=False)


def seeds() -> Sequence[bytes]:
    messages = [bytes((0, 2, COMMANDS.index(command), which, 7)) for command in COMMANDS for which in range(3)]
    return [bytes((setup,)) + each[1:] * 3 for setup in (0, 1, 2, 3, 4, 5) for each in messages]


TARGET = Target(
    "connection",
    "the state of a connection in both roles: any bytes, any pieces, any fds",
    one,
    seeds,
    ("mdev_user.vfio_user.connection", "mdev_user.vfio_user.commands", "mdev_user.vfio_user.framing"),
)
