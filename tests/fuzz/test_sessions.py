"""A hostile client of a whole host, as a state machine: real sockets, threads, jobs and file descriptors.

hypothesis plays; `fuzz.peer` is the model of what a peer knows, `fuzz.grammar` makes the messages.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from typing_extensions import override

from fuzz import grammar, served
from fuzz.choices import Choices
from fuzz.devices import PARENTS
from fuzz.fds import FdKind
from fuzz.peer import Expected, Ledger
from fuzz.planting import planted
from fuzz.plants import PLANTS
from fuzz.rig import COMPLAINTS, open_fds
from fuzz.session import STOCK
from fuzz.target import Finding, expect
from mdev_user.vfio_user.framing import NO_REPLY, REPLY, Command
from protocol.messages import VALID_READ, hello

FUZZ = settings(
    max_examples=int(os.environ.get("MDEV_USER_FUZZ_EXAMPLES", "40")),
    stateful_step_count=40,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
choices = st.binary(max_size=48)
HOSTS: list[served.Served] = []


@pytest.fixture(scope="module", autouse=True)
def host() -> Iterator[None]:
    HOSTS.append(served.Served())
    yield
    HOSTS.pop().close()


class HostileClient(RuleBasedStateMachine):
    """One connection of one driver's mdev, from its first to its last byte."""

    def __init__(self) -> None:
        super().__init__()
        COMPLAINTS.texts.clear()
        self.number, self.host = 0, HOSTS[0]
        self.negotiated = self.lost = False

    @initialize(number=st.integers(0, len(PARENTS) - 1))
    def connect(self, number: int) -> None:
        self.number = number
        self.negotiated = self.lost = False
        self.fds = open_fds()
        self.wire = self.host.connect(number)
        self.known = self.host.known(number)
        self.ledger = Ledger(self.known)

    @precondition(lambda self: self.lost)
    @rule(number=st.integers(0, len(PARENTS) - 1))
    def come_back(self, number: int) -> None:
        """Nothing of the connection before is left."""
        self._end()
        self.connect(number)

    # --- what it does -------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.negotiated and not self.lost)
    @rule()
    def negotiate(self) -> None:
        self._expect(Expected(0, Command.VERSION, {0}))
        served.send(self.wire, hello(), ())
        self._answered()
        self.negotiated = True

    @precondition(lambda self: not self.negotiated and not self.lost)
    @rule(data=choices)
    def speak_too_early(self, data: bytes) -> None:
        """Whatever it is, the connection ends; a message that is framed well is refused before."""
        served.send(self.wire, grammar.compose(Choices(data), self.known).encode(), ())
        self._is_closed()

    @precondition(lambda self: self.negotiated and not self.lost)
    @rule(data=choices, maker=st.sampled_from(grammar.MESSAGES), wrong=st.sampled_from((0, 0, 0, 1, 2)))
    def ask(self, data: bytes, maker: grammar.Maker, wrong: int) -> None:
        self._send(grammar.compose(Choices(data), self.known, maker, wrong))

    @precondition(lambda self: self.negotiated and not self.lost)
    @rule(data=choices, count=st.integers(2, 8))
    def ask_many_at_once(self, data: bytes, count: int) -> None:
        """In one piece: replies come in the order of the requests."""
        decide, sent = Choices(data), []
        for _ in range(count):
            message = grammar.compose(decide, self.known)
            if message.fds or message.flags & 0xF == REPLY:
                continue
            sent.append(message.encode())
            self._expects(message, known=False)
        if sent:
            served.send(self.wire, b"".join(sent), ())
            self._settle()

    @precondition(lambda self: self.negotiated and not self.lost)
    @rule(data=choices)
    def talk_nonsense(self, data: bytes) -> None:
        """What nobody can follow ends the connection, or is a message that is refused, or the start of one."""
        served.send(self.wire, grammar.wild(Choices(data)) or b"\0", ())
        self.lost = True
        self._leave()

    @precondition(lambda self: not self.lost)
    @rule(count=st.integers(1, 15), kind=st.sampled_from(FdKind))
    def go_in_the_middle(self, count: int, kind: FdKind) -> None:
        served.send(self.wire, VALID_READ[:count], (STOCK.lend(kind),) * count)
        self._leave()

    # --- what must hold -----------------------------------------------------------------------------------------

    @invariant()
    def a_valid_read_works(self) -> None:
        """Whatever was said before; unless the connection is closed."""
        if not self.negotiated or self.lost:
            return
        self._expect(Expected(0x5A5A, Command.REGION_READ, {0}))
        served.send(self.wire, VALID_READ, ())
        self._answered()

    @override
    def teardown(self) -> None:
        if hasattr(self, "wire"):
            self._end()

    def _end(self) -> None:
        self._leave()
        self.host.is_free(self.number)
        served.wait_for(lambda: open_fds() <= self.fds, "file descriptors were leaked")

    def _send(self, message: grammar.Message) -> None:
        self._expects(message)
        served.send(self.wire, message.encode(), [STOCK.lend(kind) for kind in message.fds])
        if len(message.fds) > 16:
            self.known.sure = False
        self._settle()

    def _expects(self, message: grammar.Message, *, known: bool = True) -> None:
        if message.flags & 0xF == REPLY:
            return
        if message.flags & NO_REPLY:
            return
        errnos = message.errnos if known else None
        self._expect(Expected(message.identity, message.command, errnos, message.done))

    def _expect(self, expected: Expected) -> None:
        self.ledger.expected.append(expected)

    def _settle(self) -> None:
        """Everything asked is answered. An answer that nobody asked for may have ended the connection."""
        while self.ledger.expected and not self.lost:
            self._answered(may_end=True)

    def _answered(self, *, may_end: bool = False) -> None:
        waiting = len(self.ledger.expected)
        while len(self.ledger.expected) >= waiting:
            message = served.receive(self.wire)
            if not message:
                self.lost = True
                expect(may_end, f"closed before it answered {self.ledger.expected[0]}")
                return
            self.ledger.took(message)

    def _is_closed(self) -> None:
        while served.receive(self.wire):
            pass
        self.lost = True

    def _leave(self) -> None:
        self.lost = True
        self.wire.close()


def test_no_hostile_client_does_any_harm() -> None:
    run_state_machine_as_test(HostileClient, settings=FUZZ)


@pytest.mark.parametrize("name", ["session-posted", "session-eventfd"])
def test_machine_finds_planted_faults(name: str) -> None:
    """The negative control."""
    quick = settings(FUZZ, max_examples=400, database=None, phases=[Phase.generate])
    with planted(PLANTS[name]), pytest.raises((Finding, ExceptionGroup)):
        run_state_machine_as_test(HostileClient, settings=quick)
