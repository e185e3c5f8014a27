"""The migration of a device as a state machine: any states in any order, streams of its own and of strangers."""

from contextlib import suppress
from functools import cache
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from typing_extensions import override

from fuzz import stream
from fuzz.devices import LOADED, vfio_device
from fuzz.loader import Used
from fuzz.planting import planted
from fuzz.plants import PLANTS
from fuzz.target import Finding, expect
from mdev_user.errors import GuestError, StateError
from mdev_user.vfio.migration_states import MigrationState

FUZZ = settings(max_examples=60, stateful_step_count=25, suppress_health_check=list(HealthCheck))
SILENT = {MigrationState.STOP, MigrationState.STOP_COPY, MigrationState.RESUMING, MigrationState.ERROR}
"""States in which a device's BARs cannot be reached."""
SMALL = [index for index, kind in enumerate(LOADED) if kind.__name__ != "Mbochs"]
"""Megabytes of video memory are for the other targets."""


@cache
def seeds(index: int) -> list[bytes]:
    """Streams of that driver."""
    return [seed[2:] for seed in stream.seeds() if seed[0] == index]


class Mover(RuleBasedStateMachine):
    """A program that migrates a device, or pretends to."""

    @initialize(index=st.sampled_from(SMALL))
    def open(self, index: int) -> None:
        seeds(index)  # which opens and closes the same device
        self.index, self.used = index, Used(vfio_device(index))
        self.migration = self.used.vfio.migration

    @rule(wanted=st.integers(0, 8))
    def go_to(self, wanted: int) -> None:
        """It gets there, or stays somewhere on the way; and ERROR is nobody's wish."""
        try:
            self.migration.set_state(wanted)
        except GuestError:
            expect(self.migration.state is not MigrationState.ERROR, "a refused state ends in ERROR")
        else:
            expect(self.migration.state == wanted, f"asked for {wanted}, it is {self.migration.state}")
            expect(wanted != MigrationState.ERROR, "it went to ERROR")

    @rule(most=st.integers(0, 5000))
    def read(self, most: int) -> None:
        with suppress(GuestError):
            expect(len(self.migration.read(most)) <= most, "more than was asked for")

    @rule(which=st.integers(0, 100), seed=st.integers(0, 1 << 32), spoilt=st.booleans())
    def load(self, which: int, seed: int, spoilt: bool) -> None:
        """Taken whole, or refused whole; and refused where it cannot be RESUMING."""
        data = seeds(self.index)[which % len(seeds(self.index))]
        if spoilt:
            data = stream.mutate(bytes((self.index, 0)) + data, Random(seed))[2:]
        with suppress(GuestError):
            self.migration.set_state(MigrationState.RESUMING)
        before = self.used.device.save()
        try:
            self.migration.write(data)
            self.migration.set_state(MigrationState.STOP)
        except StateError:
            expect(self.used.device.save() == before, "a refused stream has changed something")
        except GuestError:
            return

    @rule(data=st.binary(max_size=40))
    def write_rubbish(self, data: bytes) -> None:
        with suppress(GuestError):
            self.migration.write(data)

    @rule(region=st.integers(0, 9), offset=st.integers(0, 0xA0), data=st.binary(min_size=1, max_size=8))
    def access(self, region: int, offset: int, data: bytes) -> None:
        with suppress(GuestError):
            self.used.vfio.write(region, offset, data)

    @rule()
    def run_jobs(self) -> None:
        self.used.run()

    @rule()
    def ask_size(self) -> None:
        with suppress(GuestError):
            expect(self.migration.data_size() >= 0, "less than nothing is to be moved")

    @rule()
    def reset(self) -> None:
        self.used.vfio.reset()
        expect(self.migration.state is MigrationState.RUNNING, "a device that was reset does not run")

    @invariant()
    def bars_answer_where_they_may(self) -> None:
        if not hasattr(self, "used") or not self.used.device._spaces:
            return
        region, space = next(iter(self.used.device._spaces.items()))
        slot = space._layout.slots[-1]
        try:
            self.used.vfio.read(region, slot.offset, slot.size)
            answered = True
        except GuestError:
            answered = False
        silent = self.migration.state in SILENT
        expect(answered is not silent, f"{self.migration.state.name}: a BAR answers: {answered}")

    @invariant()
    def config_space_answers_always(self) -> None:
        if hasattr(self, "used"):
            expect(len(self.used.vfio.read(7, 0, 4)) == 4, "no config space")

    @override
    def teardown(self) -> None:
        if hasattr(self, "used"):
            self.used.close()


def test_no_mover_does_any_harm() -> None:
    run_state_machine_as_test(Mover, settings=FUZZ)


def test_machine_finds_a_planted_fault() -> None:
    """The negative control."""
    quick = settings(FUZZ, max_examples=2000, database=None, phases=[Phase.generate])
    with planted(PLANTS["stream-reset"]), pytest.raises((Finding, ExceptionGroup)):
        run_state_machine_as_test(Mover, settings=quick)
