"""Config space, MSI and MSI-X against their model, as a state machine: the oracle is `config_model`."""

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from fuzz.config_model import SHAPES
from fuzz.config_space import Function
from fuzz.planting import planted
from fuzz.plants import PLANTS
from fuzz.target import Finding
from mdev_user.pci.config import StatusError
from mdev_user.pci.interrupts import InterruptKind

FUZZ = settings(max_examples=60, stateful_step_count=30, suppress_health_check=list(HealthCheck))
vectors = st.integers(0, 80)
kinds = st.sampled_from(InterruptKind)
offsets = st.one_of(st.integers(0, 0x80), st.integers(0, 4100))
ALL_ONES = b"\xff" * 4


class Guest(RuleBasedStateMachine):
    """A guest, its VMM and its device, each doing what it may and what it may not."""

    @initialize(shape=st.sampled_from(SHAPES))
    def make(self, shape: object) -> None:
        self.function = Function(shape)  # type: ignore[arg-type]  # a sample of Shapes is one

    @rule(offset=offsets, data=st.one_of(st.binary(max_size=8), st.just(ALL_ONES)))
    def write(self, offset: int, data: bytes) -> None:
        self.function.write(offset, data)

    @rule(word=st.sampled_from((4, 0x42, 0x44, 0x4A, 0x62, 0x72)), value=st.integers(0, 0xFFFF))
    def write_control(self, word: int, value: int) -> None:
        self.function.write(word, value.to_bytes(2, "little"))

    @rule(offset=offsets, count=st.integers(0, 300))
    def read(self, offset: int, count: int) -> None:
        self.function.read(offset, count)

    @rule()
    def size_bars(self) -> None:
        self.function.size_bars()

    @rule(vector=vectors)
    def raise_level(self, vector: int) -> None:
        self.function.raise_level(vector)

    @rule(vector=vectors)
    def lower_level(self, vector: int) -> None:
        self.function.lower_level(vector)

    @rule(vector=vectors)
    def fire(self, vector: int) -> None:
        self.function.fire(vector)

    @rule(kind=kinds, vector=vectors)
    def listen(self, kind: InterruptKind, vector: int) -> None:
        self.function.listen(kind, vector)

    @rule(kind=kinds, vector=vectors)
    def forget(self, kind: InterruptKind, vector: int) -> None:
        self.function.forget(kind, vector)

    @rule(offset=st.integers(0, 1200), data=st.binary(max_size=16))
    def write_table(self, offset: int, data: bytes) -> None:
        self.function.table(offset, data)

    @rule(error=st.sampled_from(StatusError))
    def latch(self, error: StatusError) -> None:
        self.function.latch(error)

    @rule()
    def move(self) -> None:
        self.function.move()

    @rule(at=offsets, byte=st.integers(0, 255), levels=st.integers(0, 1 << 40), pending=st.integers(0, 1 << 40))
    def load_what_a_stranger_touched(self, at: int, byte: int, levels: int, pending: int) -> None:
        self.function.load(at, byte, levels, pending)

    @rule()
    def reset(self) -> None:
        self.function.reset()

    @invariant()
    def it_is_as_its_model(self) -> None:
        if hasattr(self, "function"):
            self.function.check()


def test_config_space_is_as_its_model() -> None:
    run_state_machine_as_test(Guest, settings=FUZZ)


def test_machine_finds_a_planted_fault() -> None:
    """The negative control."""
    quick = settings(FUZZ, max_examples=2000, database=None, phases=[Phase.generate])
    with planted(PLANTS["config-pin"]), pytest.raises((Finding, ExceptionGroup)):
        run_state_machine_as_test(Guest, settings=quick)
