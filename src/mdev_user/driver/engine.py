# ruff: noqa: SLF001 - an engine, its claims and their turns are one another's own
"""Engine: something that one mdev of a parent uses at a time, shared by weight.

Start-time fair queueing (Goyal, Vin, Cheng: SIGCOMM 1996) of the mdevs' turns. Each mdev's `Claim` has a *tag*, which
grows by cost / weight with each turn; of those that wait, the one with the smallest tag is next. One that was idle
begins where the others are, and has no credit for that time.

A job that has had its turn asks for the next one a moment later. Whoever decided in between would take its mdev for
idle, and all mdevs for equal. So an mdev that had a turn is *expected*: while its tag is the smallest, the next in line
goes through the queue of ready jobs, behind all that may ask, and only one that let `_ROUNDS` of them pass is idle.
"""

from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum
from threading import Lock
from types import TracebackType
from typing import Self

from mdev_user.driver.accounts import Accounts
from mdev_user.driver.pacing import TICK, Pace, TimePace
from mdev_user.driver.policy import Policy
from mdev_user.errors import DriverError, NoDevice
from mdev_user.vfio.work import Answer, Later, Sleep, Spent

_ROUNDS = 3
"""Of the ready jobs. A job that lets others go first with a sleep of no length comes back in the second one."""
_PATIENCE = 0.25
"""Seconds after which who waits for his own limit looks whether it has changed."""
_GO_ON = Answer(None)

Done = Callable[[Answer | Exception], None]


_BEST_EFFORT, _EQUAL_SHARE, _ = Policy  # looked up several times in each turn


class Engine:
    """Shared by the mdevs of a parent: its `backend`, or a part of that. Each has a `Share` of it.

    ``policy`` may be a function that says it, such as ``lambda: self.policy`` of an attribute of the parent: it is
    asked at every turn. ``whole`` is the sum of weights that a fixed share is a part of, say that of a parent cut into
    as many mdevs as possible; those that are in use, where that is more. ``width`` is how many turns there are at a
    time.
    """

    def __init__(
        self, policy: Policy | Callable[[], Policy] = Policy.BEST_EFFORT, *, whole: int = 0, width: int = 1
    ) -> None:
        if width < 1 or whole < 0:
            raise DriverError(f"Engine: expected a width of at least 1 and a whole of at least 0: {width}, {whole}")
        self._policy = policy if callable(policy) else lambda: policy
        self._whole, self._width = whole, width
        self._lock = Lock()
        # Under the lock from here on; nobody is told anything while it is held.
        self._present: dict[Claim, None] = {}
        """Those in use that do not stand still, in the order in which they came."""
        self._backlogged: dict[Claim, None] = {}
        """Those of them of which a turn waits."""
        self._expected: dict[Claim, int] = {}
        """Those that may ask again soon, with the rounds that they let pass."""
        self._messenger: Turn | None = None
        """The one that goes through the queue of ready jobs."""
        self._held = 0
        self._asked = 0
        self._tag = 0.0
        """The greatest with which a turn began."""

    @property
    def policy(self) -> Policy:
        return self._policy()

    # --- claims ---------------------------------------------------------------------------------------------

    def _join(self, claim: "Claim") -> None:
        """The device of a claim is in use, or goes on."""
        with self._lock:
            self._present[claim] = None
            if claim._waiting:
                self._backlogged[claim] = None
                claim._tag = max(claim._tag, self._tag)
            told = self._decide()
        _tell(told)

    def _leave(self, claim: "Claim") -> None:
        """Its device is in use no more, or stands still: what it has, others may have."""
        with self._lock:
            for each in (self._present, self._backlogged, self._expected):
                each.pop(claim, None)
            for turn in claim._holding:
                self._held -= 1
                if turn._state is _GRANTED:  # its job has not heard of it, and will ask again
                    self._take_back(turn)
            claim._holding.clear()
            if self._messenger is not None and self._messenger._claim is claim:
                self._messenger = None
            told = self._decide()
        _tell(told)

    def _pass_over(self, claim: "Claim") -> None:
        """A job of its device is to go on and cannot: the turns that it was to have are others' until it does."""
        with self._lock:
            granted = [turn for turn in claim._holding if turn._state is _GRANTED]
            is_messenger = self._messenger is not None and self._messenger._claim is claim
            if not granted and not is_messenger:
                return
            for turn in reversed(granted):
                self._held -= 1
                del claim._holding[turn]
                self._take_back(turn)
            if is_messenger:
                self._messenger = None
            self._backlogged.pop(claim, None)
            told = self._decide()
        _tell(told)

    def _take_back(self, turn: "Turn") -> None:
        claim = turn._claim
        turn._state = _WAITING
        claim._tag -= turn._charged / claim._rated
        claim._waiting.appendleft(turn)

    def _go_on(self, claim: "Claim") -> None:
        """One of its jobs runs: if it was passed over, it may have turns again, without credit for that time."""
        if claim._waiting and claim in self._present and claim not in self._backlogged:
            self._backlogged[claim] = None
            claim._tag = max(claim._tag, self._tag)

    def _part(self, claim: "Claim", policy: Policy) -> float:
        """What part of the engine's time a claim may have, where it may not have all."""
        with self._lock:
            present = list(self._present)
        if policy is _EQUAL_SHARE:
            return self._width / max(1, len(present))
        weights = sum(each.weight for each in present)
        return self._width * claim.weight / max(self._whole, weights, claim.weight)

    # --- turns ----------------------------------------------------------------------------------------------

    def _ask(self, turn: "Turn", policy: Policy) -> bool:
        """Whether it has its turn at once."""
        claim = turn._claim
        with self._lock:
            self._weigh(claim, policy)
            if self._expected.pop(claim, None) is None and not (claim._waiting or claim._holding):
                claim._tag = max(claim._tag, self._tag)
            self._go_on(claim)
            if not self._backlogged and claim in self._present and self._may_begin(claim):
                self._grant(claim, turn)
                turn._state = _BEGUN
                return True
            self._asked += 1
            turn._order = self._asked
            claim._waiting.append(turn)
            if claim in self._present:
                self._backlogged[claim] = None
            told = self._decide()
            has_it = turn._begin()
        _tell(told)
        return has_it

    def _wait(self, turn: "Turn", done: Done) -> None:
        """``done`` is told when its job has something to do here."""
        with self._lock:
            claim = turn._claim
            was_passed_over = claim in self._present and claim not in self._backlogged
            is_wanted = turn._state is _GRANTED or turn is self._messenger or was_passed_over
            turn._done = None if is_wanted else done
        if is_wanted:
            done(_GO_ON)

    def _come(self, turn: "Turn") -> bool:
        """The job that waits was told something: whether it has its turn."""
        with self._lock:
            if turn is self._messenger:
                self._messenger = None
                self._end_round()
            self._go_on(turn._claim)
            told = self._decide()
            has_it = turn._begin()
        _tell(told)
        return has_it

    def _withdraw(self, turn: "Turn") -> None:
        """Its job waits no more: it was cancelled."""
        claim = turn._claim
        with self._lock:
            if turn._state is _WAITING:
                claim._waiting.remove(turn)
            elif turn in claim._holding:
                self._held -= 1
                del claim._holding[turn]
                claim._tag -= turn._charged / claim._rated
            turn._state = _OVER
            if not claim._waiting:
                self._backlogged.pop(claim, None)
            self._go_on(claim)
            if turn is self._messenger:
                self._messenger = None
            told = self._decide()
        _tell(told)

    def _end(self, turn: "Turn", cost: float) -> None:
        claim = turn._claim
        with self._lock:
            if turn in claim._holding:
                self._held -= 1
                del claim._holding[turn]
            turn._state = _OVER
            claim._tag += (cost - turn._charged) / claim._rated
            claim._guess = cost
            if not claim._waiting and claim in self._present:
                self._expected[claim] = 0
            told = self._decide() if self._backlogged else ()
        _tell(told)

    # --- decisions, under the lock --------------------------------------------------------------------------

    def _decide(self) -> list[Done]:
        """Give turns to those whose turn it is. Returns whom to tell when the lock is free."""
        told: list[Done] = []
        policy = self._policy()
        for each in self._backlogged:
            self._weigh(each, policy)
        while self._backlogged and self._held < self._width:
            claim = min(self._backlogged, key=_place) if len(self._backlogged) > 1 else next(iter(self._backlogged))
            turn = claim._waiting[0]
            if not self._may_begin(claim):
                if self._messenger is None:
                    self._messenger = turn
                    told += turn._take_done()
                break
            claim._waiting.popleft()
            if not claim._waiting:
                del self._backlogged[claim]
            self._grant(claim, turn)
            told += turn._take_done()
        return told

    def _weigh(self, claim: "Claim", policy: Policy) -> None:
        """Have a claim's weight be what it is now: what it is ahead of others, it would not be by as much."""
        weight = 1 if policy is _EQUAL_SHARE else claim._weight()
        if weight != claim._rated:
            if claim._tag > self._tag:
                claim._tag = self._tag + (claim._tag - self._tag) * claim._rated / weight
            claim._rated = weight

    def _may_begin(self, claim: "Claim") -> bool:
        """Whether there is room, and nobody is expected who would be next."""
        if self._held >= self._width:
            return False
        return not self._expected or min(each._tag for each in self._expected) >= claim._tag

    def _grant(self, claim: "Claim", turn: "Turn") -> None:
        self._tag = max(self._tag, claim._tag)
        self._held += 1
        claim._holding[turn] = None
        turn._state = _GRANTED
        turn._charged = claim._guess if turn.cost is None else turn.cost
        claim._tag += turn._charged / claim._rated

    def _end_round(self) -> None:
        for claim, passed in list(self._expected.items()):
            if passed + 1 < _ROUNDS:
                self._expected[claim] = passed + 1
            else:
                del self._expected[claim]


class _State(Enum):
    WAITING = 0
    GRANTED = 1
    """It is its turn, and its job has not gone on yet."""
    BEGUN = 2
    OVER = 3


_WAITING, _GRANTED, _BEGUN, _OVER = _State


class Claim:
    """What one mdev has of an engine, its `Share` in use: turns, a pace for its frames, and accounts of both."""

    __slots__ = (
        "_accounts", "_clock", "_engine", "_frame_rate", "_frames", "_guess", "_holding", "_rated", "_tag", "_time",
        "_waiting", "_weight",
    )  # fmt: skip

    def __init__(
        self,
        engine: Engine,
        clock: Callable[[], float],
        spent: Callable[[], Spent],
        weight: Callable[[], int],
        frame_rate: Callable[[], float],
        accounts: Callable[[], Accounts],
    ) -> None:
        """``clock`` is the one by which its jobs sleep, in seconds, ``spent`` what they took so far.

        NoDevice of both when nobody uses the device.
        """
        self._engine, self._clock, self._weight, self._frame_rate = engine, clock, weight, frame_rate
        self._accounts = accounts
        self._time, self._frames = TimePace(spent), Pace()
        self._tag = self._guess = 0.0
        self._rated = 1
        """The weight by which its tag grows."""
        self._waiting: deque[Turn] = deque()
        self._holding: dict[Turn, None] = {}

    @property
    def weight(self) -> int:
        """As it is now."""
        return self._weight()

    @property
    def given(self) -> float:
        """What its turns have cost, in the engine's unit."""
        return self._accounts().given

    @property
    def seconds(self) -> float:
        """How long it held its turns."""
        return self._accounts().seconds

    @property
    def turns(self) -> int:
        """How many have ended."""
        return self._accounts().turns

    @property
    def frames(self) -> int:
        """How many were let go on."""
        return self._accounts().frames

    @property
    def waited(self) -> float:
        """Seconds that its turns waited for those of others."""
        return self._accounts().waited

    @property
    def held_back(self) -> float:
        """Seconds that it waited for its own limits: the frame rate, its part of the engine."""
        return self._accounts().held_back

    def join(self) -> None:
        """Its device is in use, or goes on after it stood still."""
        self._time.begin()
        self._engine._join(self)

    def leave(self) -> None:
        """Its device is in use no more, or stands still: what turns it has are others' now."""
        self._time.end()
        self._engine._leave(self)

    def be_passed_over(self) -> None:
        """A job of its device cannot go on for the moment. In any thread; all else is a step of the device."""
        self._engine._pass_over(self)

    def turn(self, cost: float | None = None) -> "Turn":
        """``async with self.drawing.turn(cost):`` for a job that uses the engine.

        ``cost`` is in any unit, the same for all users of the engine, and above 0. Count what each turn takes however
        small its work is, or a guest has small work for nothing. Without a cost it is the seconds that the block took,
        or what ``turn.cost`` is set to meanwhile. What the block awaits, all others wait for: nobody takes a turn away
        but from a device that is closed, or stopped to be migrated. So await no DMA in it: a guest that shares no
        memory answers when it likes. A turn of a known cost may end before the work that it is for.
        """
        if cost is not None and not cost > 0:
            raise DriverError(f"turn: expected a cost above 0, given {cost}")
        return Turn(self, cost)

    def charge(self, cost: float) -> None:
        """Let the mdev's turns begin later by what it had without one, and nobody waited for: ``cost`` as of `turn`.

        What keeps to a part of the engine's time (equal and fixed share) does so as before.
        """
        if not cost > 0:
            raise DriverError(f"charge: expected a cost above 0, given {cost}")
        self._accounts().given += cost
        with self._engine._lock:
            self._tag += cost / self._rated

    async def frame(self) -> None:
        """Go on when the mdev's next frame may be shown: at once without a limit."""
        while (rate := self._frame_rate()) > 0:
            now = self._clock()
            if (left := self._frames.wait(now, rate)) <= TICK:
                self._frames.spend(now, 1, rate, 1 / rate)
                break
            await self._hold_back(now, left)
        self._accounts().frames += 1

    async def _keep_to_part(self) -> None:
        """Wait until it may have more of the engine, whoever else uses it."""
        self._time.pay_between()
        while (policy := self._engine.policy) is not _BEST_EFFORT:
            now = self._clock()
            if (left := self._time.wait(now, self._engine._part(self, policy))) <= TICK:
                return
            await self._hold_back(now, left)

    async def _hold_back(self, since: float, seconds: float) -> None:
        await Sleep(min(seconds, _PATIENCE))
        self._accounts().held_back += self._clock() - since

    def _account(self, turn: "Turn", cost: float, seconds: float) -> None:
        accounts = self._accounts()
        accounts.turns += 1
        accounts.given += cost
        accounts.seconds += seconds  # and not what is paid, which depends on how fast this machine is
        if (policy := self._engine.policy) is _BEST_EFFORT:
            self._time.forget()
        elif turn._ran is not None:
            self._time.pay_turn(turn._wanted, seconds, turn._ran, self._engine._part(self, policy))

    def _now(self) -> float | None:
        try:
            return self._clock()
        except NoDevice:  # its user is gone
            return None


class Turn:
    """One use of an engine, an ``async with`` of a job: from when it is the mdev's turn to the end of the block."""

    __slots__ = ("_charged", "_claim", "_done", "_order", "_ran", "_since", "_state", "_wanted", "cost")

    def __init__(self, claim: Claim, cost: float | None) -> None:
        self.cost = cost
        """What it costs; None: the seconds that the block takes. It may be set within the block."""
        self._claim = claim
        self._charged = self._since = self._wanted = 0.0
        self._ran: float | None = None
        """What stretches of the device's jobs had taken when it began; None where nothing is paced."""
        self._order = 0
        self._state = _WAITING
        self._done: Done | None = None

    @property
    def seconds(self) -> float:
        """How long it is held so far; 0 when nobody uses the device any more."""
        now = self._claim._now()
        return 0.0 if now is None else now - self._since

    async def __aenter__(self) -> Self:
        claim = self._claim
        engine = claim._engine
        if (policy := engine._policy()) is not _BEST_EFFORT:
            await claim._keep_to_part()
            self._ran = claim._time.ran()
        self._wanted = self._since = claim._clock()
        if not engine._ask(self, policy):
            await self._wait(engine)
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        claim, seconds = self._claim, self.seconds
        cost = max(seconds, TICK) if self.cost is None else self.cost
        claim._account(self, cost, seconds)
        claim._engine._end(self, cost)

    async def _wait(self, engine: Engine) -> None:
        try:
            while True:
                await Later(lambda done, _wanted: engine._wait(self, done))
                if engine._come(self):
                    break
            self._since = self._claim._clock()
            if self._ran is not None:
                self._ran = self._claim._time.ran()
        except BaseException:  # GeneratorExit: the job was cancelled
            engine._withdraw(self)
            raise
        self._claim._accounts().waited += self._since - self._wanted

    def _begin(self) -> bool:
        if self._state is not _GRANTED:
            return False
        self._state = _BEGUN
        return True

    def _take_done(self) -> list[Done]:
        """Whom to tell, if its job has gone so far; otherwise it will ask."""
        done, self._done = self._done, None
        return [] if done is None else [done]


def _place(claim: Claim) -> tuple[float, int]:
    """In the line of those that wait."""
    return claim._tag, claim._waiting[0]._order


def _tell(told: Iterable[Done]) -> None:
    for each in told:
        each(_GO_ON)
