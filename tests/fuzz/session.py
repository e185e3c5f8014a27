"""Target: a session with a device of a shipped driver behind it, given messages by the grammar.

The first byte is which driver, and whether VERSION comes first; the second a story that goes before (memory is mapped,
interrupts are armed, the device works); then each action is a few bytes.
"""

from collections.abc import Sequence

from fuzz import grammar
from fuzz.choices import Choices
from fuzz.devices import PARENTS, known_of, vfio_device
from fuzz.fds import Stock
from fuzz.peer import Expected, Known, Ledger
from fuzz.rig import LOOPS, Rig
from fuzz.target import Target, expect
from fuzz.wire import Chunk
from mdev_user.vfio_user.commands import Role
from mdev_user.vfio_user.connection import Connection
from mdev_user.vfio_user.framing import HEADER, Command, Header
from mdev_user.vfio_user.version import Capabilities
from protocol.messages import VALID_READ, hello

MOST_MESSAGES = 60
STOCK = Stock()
_SLOW = 192
"""From here on the peer does not always read."""
_BOTH = b"\x78"
"""From here on an input is played with each loop for plain accesses and without one, and nothing may be another."""
_SMALL = 32
"""This bit of the story: the peer takes no more than a page at a time."""
_SECONDS = (0.0, 0.001, 1.0, 100.0)


class Peer:
    """A hostile client, by choices."""

    def __init__(self, choices: Choices, known: Known, greeting: bytes = b"", story: int = 0) -> None:
        """``greeting`` is its VERSION; without one it begins with whatever it likes."""
        self.rig: Rig | None = None
        self._choices = choices
        self._known = known
        self.ledger = Ledger(known)
        self.sent = bytearray()
        """All that the session has sent."""
        self._left = MOST_MESSAGES
        self._story = list(grammar.STORIES[story % len(grammar.STORIES)]) if greeting else []
        self.slow = False
        """Whether it does not always read. When it reads differs between the ways that replies go."""
        self.patient = False
        """Whether it waits for all jobs before each message: with a loop a job begins at once, without one later."""
        self._chunks: list[Chunk] = []
        self._wild = self._over = False
        if greeting:
            self.ledger.expected.append(Expected(0, Command.VERSION, {0}))
            self._chunks.append((greeting, ()))

    def took(self, data: bytes | memoryview) -> None:
        self.sent += data
        if not self._wild:
            self.ledger.took(data)

    def takes(self, size: int) -> int:
        if size and self.slow and self._choices.one_in(8):
            return self._choices.below(size)
        return size

    def next_chunk(self) -> Chunk | None:
        self._wait()
        chunk = self._next_chunk()
        self._wait()
        return chunk

    def _wait(self) -> None:
        if self.patient and self.rig is not None:
            self.rig.settle()

    def _next_chunk(self) -> Chunk | None:
        if self._chunks:
            return self._chunks.pop(0)
        if self._story:
            assert self.rig is not None
            self.rig.tick(0.0)
            self._send(self._story.pop(0)(Choices(b""), self._known))
            return self._chunks.pop(0)
        if not self._choices.left or not self._left:
            return self._last()
        self._left -= 1
        self._meanwhile()
        if self._choices.one_in(24):
            self._wild = True
            data = grammar.wild(self._choices)
            return (data, ()) if data else self._last()
        self._send(grammar.compose(self._choices, self._known))
        return self._chunks.pop(0)

    def _meanwhile(self) -> None:
        """Jobs run, time passes, eventfds are signalled."""
        assert self.rig is not None
        what = self._choices.byte()
        if what >= 160:
            self.rig.tick(_SECONDS[what % len(_SECONDS)])
        elif what >= 152:
            self.rig.signal(what)

    def _send(self, message: grammar.Message) -> None:
        assert self.rig is not None
        errnos = None if self.ledger.expected or self.rig.session.connection.peer is None else message.errnos
        if message.wants_reply:
            self.ledger.expected.append(Expected(message.identity, message.command, errnos, message.done))
        data, fds = message.encode(), tuple(STOCK.give(kind) for kind in message.fds)
        cut = self._choices.below(len(data)) if not self._story and self._choices.one_in(12) else 0
        self._chunks = [(data[:cut], fds), (data[cut:], ())] if cut else [(data, fds)]

    def _last(self) -> Chunk | None:
        """One read that has to work, unless the bytes so far are not a row of messages."""
        assert self.rig is not None
        connection = self.rig.session.connection
        if self._over or not connection.idle:
            return None
        self._over = True
        if not self._wild:
            expect(not self.ledger.expected, f"no reply to {list(self.ledger.expected)[:3]}")
        self._wild = False
        self.ledger = Ledger(self._known)
        self.ledger.expected.append(Expected(0x5A5A, Command.REGION_READ, {0}))
        return VALID_READ, ()

    def check(self) -> None:
        """After the session."""
        if self._over:
            expect(self.ledger.answered, "a valid read at the end had no reply")


_SILENT = 240
"""From here on VERSION does not come first."""
_SMALL_HELLO = Connection(Role.CLIENT, Capabilities(max_data_xfer_size=4096)).hello()


def one(data: bytes) -> None:
    sent = _play(data, "python")
    for loop in LOOPS if data[:1] >= _BOTH else ():
        if loop != "python":
            expect(_play(data, loop) == sent, f"loop {loop}: other answers than with the one in Python")


def _play(data: bytes, loop: str) -> bytes:
    choices = Choices(data)
    setup, story = choices.byte(), choices.byte()
    STOCK.clear()
    vfio = vfio_device(setup % len(PARENTS))
    greeting = b"" if setup >= _SILENT else _SMALL_HELLO if story & _SMALL else hello()
    peer = Peer(choices, _known(setup % len(PARENTS)), greeting, story)
    peer.patient = data[:1] >= _BOTH
    peer.slow = story >= _SLOW and not peer.patient
    peer.rig = Rig(vfio, peer, loop)
    peer.rig.run()
    peer.check()
    return _without_states(bytes(peer.sent))


def _without_states(sent: bytes) -> bytes:
    """What was sent but for saved states: one can say how often its device was used."""
    kept = bytearray()
    while sent:
        header = Header.decode(sent)
        kept += sent[: HEADER.size if header.command == Command.MIG_DATA_READ else header.size]
        sent = sent[header.size :]
    return bytes(kept)


def _known(index: int) -> Known:
    """Asked once for each driver, then copied."""
    if index not in _ASKED:
        vfio = vfio_device(index)
        rig = Rig(vfio, Peer(Choices(b""), Known([], {})))
        _ASKED[index] = known_of(vfio)
        rig._close()
    asked = _ASKED[index]
    return Known(asked.slots, asked.sizes, asked.work, asked.wide)


_ASKED: dict[int, Known] = {}


def seeds() -> Sequence[bytes]:
    """Every message once, as simple as it can be; and each driver with each story, and what may follow it."""
    count = len(grammar.MESSAGES)
    told = [
        bytes((driver, story)) + bytes((200, 0, which)).ljust(14, b"\0") * 8
        for driver in range(len(PARENTS))
        for story in range(1, len(grammar.STORIES))
        for which in (grammar.MESSAGES.index(grammar.answer), grammar.MESSAGES.index(grammar.work))
    ]
    both = [bytes((each[0] + 120,)) + each[1:] for each in told[1::2]]
    small = [bytes((each[0], _story(each[1], _SMALL))) + each[2:] for each in told[::4]]
    slow = [bytes((each[0], _story(each[1], _SLOW))) + each[2:] for each in told[::5]]
    # Nothing is taken at once. The last story has replies with file descriptors, that before it questions in pieces.
    last = len(grammar.STORIES) - 1
    stuck = [
        bytes((driver, _story(story, _SLOW))) + b"\x07\0\0" * 24
        for driver in range(len(PARENTS))
        for story in (1, last - 1, last)
    ]
    pieces = [bytes((driver, _story(last - 1, _SMALL))) for driver in range(len(PARENTS))]
    plain = [bytes((which % len(PARENTS), 0, 0, 0, which)) + bytes(30) for which in range(count)]
    return [*told, *both, *small, *slow, *stuck, *pieces, *plain]


def _story(story: int, kind: int) -> int:
    """The byte that means this story, told by a peer of this kind."""
    kinds = {_SMALL: range(_SMALL, 2 * _SMALL), _SLOW: range(_SLOW, _SLOW + _SMALL)}
    return next(each for each in kinds[kind] if each % len(grammar.STORIES) == story)


TARGET = Target(
    "session",
    "a session with a shipped driver's device behind it: the grammar of messages",
    one,
    seeds,
    (
        "mdev_user.vfio_user.server",
        "mdev_user.vfio_user.accesses",
        "mdev_user.vfio_user.access_loop",
        "mdev_user.vfio_user.native_loop",
        "mdev_user.vfio_user.plain_table",
        "mdev_user.vfio_user.token_lock",
        "mdev_user.vfio_user.conversation",
        "mdev_user.vfio_user.device_features",
        "mdev_user.vfio_user.long_requests",
        "mdev_user.vfio_user.shares",
        "mdev_user.vfio_user.device_requests",
        "mdev_user.vfio_user.guest_memory",
        "mdev_user.vfio_user.message_dma",
        "mdev_user.vfio_user.outgoing",
        "mdev_user.vfio_user.eventfd",
        "mdev_user.vfio.irqs",
        "mdev_user.vfio.dma",
    ),
    longest=1024,
)
