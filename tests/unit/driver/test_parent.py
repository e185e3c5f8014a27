"""Parents: pools, profiles and types, and the accounts that follow from them."""

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdev_user.driver import (
    Attribute,
    DriverError,
    Function,
    Instances,
    Interrupt,
    Memory,
    NoSpace,
    Parent,
    PciId,
    Pool,
    Profile,
    attribute,
    pending,
)
from mdev_user.driver.pools import Accounts, shown
from mdev_user.errors import Busy, InvalidValue, NoInstances
from mdev_user.host.loader import load_parent
from mdev_user.testing.local import LocalHost
from mdev_user.units import GiB, MiB
from mdev_user.vfio.migration_states import STOP, STOP_COPY
from mdev_user.vfio.requests import Irq


@dataclass(frozen=True)
class Slice(Profile):
    lanes: int
    buffer: int


class Sample(Function[Slice]):
    identity = PciId(vendor=0x1DE5, device=4, class_code=0x120000)


class Card(Parent[Slice]):
    function = Sample
    lanes, buffer = Pool(8), Pool(256 * MiB)
    types = {"small": Slice(1, 16 * MiB), "large": Slice(4, 64 * MiB), "bare": Slice(1, 0)}


POOLS = {"lanes": Pool(8), "buffer": Pool(256)}
TYPES = {"small": Slice(1, 16), "large": Slice(4, 64), "bare": Slice(1, 0), "thin": Slice(0, 100)}


def test_types_are_described_by_their_profile() -> None:
    described = [(each.name, each.pretty_name, each.description) for each in Card().mdev_types]
    assert described == [
        ("small", "Sample small", "lanes: 1, buffer: 16 MiB"),
        ("large", "Sample large", "lanes: 4, buffer: 64 MiB"),
        ("bare", "Sample bare", "lanes: 1, buffer: 0"),
    ]
    assert Card.driver_name == "sample"
    assert Card.types["small"] == Slice(1, 16 * MiB)


def test_driver_is_called_like_its_function_unless_it_says_so() -> None:
    class Other(Sample):
        pass

    class OtherCard(Card):
        function = Other

    class Named(Card):
        driver_name = "named"

    class StillNamed(Named):
        function = Other

    assert [each.driver_name for each in (OtherCard, Named, StillNamed)] == ["other", "named", "named"]


def test_identity_is_that_of_the_function_unless_it_says_so() -> None:
    class Other(Sample):
        identity = PciId(vendor=0x1DE5, device=5, class_code=0x120000)

    class OtherCard(Card):
        function = Other

    class Physical(Card):
        identity = PciId(vendor=0x1DE5, device=0x104, class_code=0x120000)

    class StillPhysical(Physical):
        function = Other

    found = [each.identity.device for each in (Card, OtherCard, Physical, StillPhysical) if each.identity is not None]
    assert found == [4, 5, 0x104, 0x104]


class Clocked(Parent[Slice]):
    """With files of its own."""

    function = Sample
    lanes, buffer = Pool(8), Pool(8)
    types = {"one": Slice(1, 1)}
    clock = Attribute(100, unit="MHz", range=(10, 400), group="engine")

    @attribute(group="engine")
    def period(self) -> int:
        return 1000 // self.clock


def test_attributes_of_a_parent_are_its_own_files() -> None:
    first, second = Clocked(), Clocked()
    clock, period = first.parent_attributes
    assert (clock.group, clock.name, clock.writable, period.name, period.writable) == (
        "engine", "clock", True, "period", False,
    )  # fmt: skip
    first.store_parent(clock, b"200\n")
    assert (first.show_parent(clock), first.show_parent(period)) == ("200\n", "5\n")
    assert second.show_parent(clock) == "100\n"
    with pytest.raises(InvalidValue, match="clock: expected 10 to 400 MHz, given 9"):
        first.store_parent(clock, b"9")
    with pytest.raises(InvalidValue, match="period cannot be written"):
        first.store_parent(period, b"9")


def test_fields_of_a_profile_that_are_no_pools_are_settings() -> None:
    @dataclass(frozen=True)
    class Sized(Slice):
        resolution: str = "640x480"

    class Display(Parent[Slice]):
        function = Sample
        lanes, buffer = Pool(8), Pool(8)
        types = {"hd": Sized(1, 1, resolution="1920x1080", pretty_name="HD", description="")}

    (told,) = Display().mdev_types
    assert (told.pretty_name, told.description) == ("HD", None)


class Counted(Parent[Slice]):
    function = Sample
    count = Instances(4)
    types = {"small": Slice(1, 16), "large": Slice(4, 64, description="four")}


def test_instances_are_counted_by_the_framework_over_all_types() -> None:
    """And refused with EUSERS before the driver, or anybody who listens, hears of it."""
    with LocalHost() as host:
        parent = host.bus.register_parent("counted", Counted(count=2))
        made = [host.create(parent, f"sample-{name}") for name in ("small", "large")]
        heard: list[object] = []
        host.bus.subscribe(heard.append)
        with pytest.raises(NoInstances):
            host.create(parent, "sample-small")
        assert heard == []
        host.bus.remove(made[0].uuid)
        assert [host.bus.available(parent, each) for each in parent.types.values()] == [1, 1]


def test_parent_with_instances_describes_no_pools() -> None:
    assert [each.description for each in Counted().mdev_types] == [None, "four"]
    assert (Counted().max_instances, Counted(count=0).max_instances, Card().max_instances) == (4, 0, None)
    assert str(inspect.signature(Counted)) == "(*, count: int = 4)"
    with pytest.raises(DriverError, match=r"Counted has no pool cuont; did you mean count\?"):
        Counted(cuont=1)


def test_sizes_are_shown_in_their_unit() -> None:
    assert [shown(each) for each in (0, 7, 1024, 3 * MiB, 2 * GiB)] == ["0", "7", "1 KiB", "3 MiB", "2 GiB"]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(sorted(TYPES))), max_size=40))
def test_accounts_are_never_overdrawn(log: list[tuple[bool, str]]) -> None:
    accounts, live = Accounts(POOLS, TYPES), list[str]()
    for create, name in log:
        if not create and name in live:
            accounts.give_back(name)
            live.remove(name)
        elif create:
            available = accounts.available(name)
            try:
                accounts.take(name)
            except NoSpace:
                assert available == 0
            else:
                assert available > 0
                live.append(name)
        for pool, each in POOLS.items():
            assert accounts.free(pool) == each.total - sum(getattr(TYPES[name], pool) for name in live) >= 0


def test_available_is_how_many_can_really_be_created() -> None:
    for name in TYPES:
        accounts = Accounts(POOLS, TYPES)
        promised = accounts.available(name)
        for _ in range(promised):
            accounts.take(name)
        with pytest.raises(NoSpace):
            accounts.take(name)


def test_homogeneous_pool_is_one_types_at_a_time() -> None:
    accounts = Accounts({"lanes": Pool(8, homogeneous=True), "buffer": Pool(256)}, TYPES)
    accounts.take("small")
    assert [accounts.available(name) for name in ("small", "large", "bare", "thin")] == [7, 0, 0, 2]
    with pytest.raises(NoSpace, match="lanes is homogeneous, and another type's as long as its mdevs exist"):
        accounts.take("large")
    accounts.give_back("small")
    assert accounts.available("large") == 2


def test_concurrent_creates_share_the_last_one() -> None:
    accounts, won = Accounts({"lanes": Pool(50), "buffer": Pool(0)}, {"bare": Slice(1, 0)}), list[int]()

    def create() -> None:
        for _ in range(20):
            try:
                accounts.take("bare")
            except NoSpace:
                continue
            won.append(1)

    threads = [Thread(target=create) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 50
    assert accounts.free("lanes") == 0


def test_totals_are_options_of_the_parent() -> None:
    assert Card(lanes=2)._accounts.free("lanes") == 2
    with pytest.raises(DriverError, match="Card has no pool lnaes; did you mean lanes"):
        Card(lnaes=2)
    with pytest.raises(
        DriverError, match=r"the total of lanes: expected a number from 0 to 9223372036854775807, giv.*-1$"
    ):
        Card(lanes=-1)


def test_totals_are_options_on_a_command_line() -> None:
    made = load_parent(f"{__file__}:Card", {"lanes": "0x10"})
    assert getattr(made, "_accounts").free("lanes") == 16  # noqa: B009 - of a class of another module


def test_option_of_an_authors_own_is_one_of_the_parent() -> None:
    class Named(Card):
        def __init__(self, *, label: str) -> None:
            super().__init__(lanes=3)
            self.label = label

    assert list(inspect.signature(Named).parameters) == ["label"]
    assert list(inspect.signature(Card).parameters) == ["lanes", "buffer"]
    assert Named(label="x")._accounts.free("lanes") == 3


# --- mistakes ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Narrow(Profile):
    lanes: int


def function_missing() -> None:
    class Wrong(Parent[Slice]):
        lanes, buffer = Pool(8), Pool(8)
        types = {"one": Slice(1, 1)}


def function_no_class() -> None:
    class Wrong(Parent[Slice]):
        function = "Sample"  # type: ignore[assignment]  # the mistake
        types = {"one": Slice(1, 1)}


def pools_missing() -> None:
    class Wrong(Parent[Slice]):
        function = Sample
        types = {"one": Slice(1, 1)}


def types_missing() -> None:
    class Wrong(Parent[Slice]):
        function = Sample
        lanes, buffer = Pool(8), Pool(8)


def pool_missing() -> None:
    class Wrong(Parent[Slice]):
        function = Sample
        lanes, bufer = Pool(8), Pool(8)
        types = {"one": Slice(1, 1)}


def field_missing() -> None:
    class Wrong(Parent[Narrow]):
        function = Sample  # type: ignore[assignment]  # what a checker would say of it
        lanes, buffer = Pool(8), Pool(8)
        types = {"one": Narrow(1)}


def type_too_large() -> None:
    class Wrong(Parent[Slice]):
        function = Sample
        lanes, buffer = Pool(8), Pool(8)
        types = {"one": Slice(9, 1)}


def type_of_nothing() -> None:
    class Wrong(Parent[Slice]):
        function = Sample
        lanes, buffer = Pool(8), Pool(8)
        types = {"one": Slice(0, 0)}


def type_no_profile() -> None:
    class Wrong(Parent[Slice]):
        function = Sample
        lanes, buffer = Pool(8), Pool(8)
        types = {"one": 1}  # type: ignore[dict-item]  # the mistake


def size_misspelt() -> None:
    class Sized(Sample):
        frame = Memory(index=0, size=lambda profile: profile.bufer)

    class Wrong(Parent[Slice]):
        function = Sized
        lanes, buffer = Pool(8), Pool(8)
        types = {"one": Slice(1, 1)}


def negative_pool() -> None:
    Pool(-1)


def instances_beside_a_pool() -> None:
    class Wrong(Parent[Slice]):
        function = Sample
        lanes, buffer, count = Pool(8), Pool(8), Instances(4)
        types = {"one": Slice(1, 1)}


def two_instances() -> None:
    class Wrong(Parent[Slice]):
        function = Sample
        count, more = Instances(4), Instances(5)
        types = {"one": Slice(1, 1)}


def no_instances() -> None:
    Instances(0)


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (function_missing, "Wrong.function: expected a Function class, given None"),
        (function_no_class, "Wrong.function: expected a Function class, given 'Sample'"),
        (pools_missing, "Wrong: expected at least one Pool"),
        (types_missing, "Wrong: types: expected a dict of profiles by the name of the type"),
        (pool_missing, "Wrong: types['one']: Slice has no field bufer; did you mean buffer?"),
        (type_too_large, "Wrong: types['one']: lanes: expected a number from 0 to 8, the pool's, given 9"),
        (type_of_nothing, "Wrong: types['one'] takes nothing of any pool"),
        (type_no_profile, "Wrong: types['one']: expected a Profile, given 1"),
        (size_misspelt, "frame: size: Slice has no field bufer; did you mean buffer?"),
        (negative_pool, "Pool: expected a number of at least 0, given -1"),
        (instances_beside_a_pool, "Wrong: lanes, buffer, count: expected pools, or one Instances in their place"),
        (two_instances, "Wrong: count, more: expected pools, or one Instances in their place"),
        (no_instances, "Instances: expected a number of at least 1, given 0"),
        (field_missing, "Wrong: types['one']: Narrow has no field buffer; add it: buffer: int"),
    ],
)
def test_mistake_is_told(declare: Callable[[], None], message: str) -> None:
    with pytest.raises(DriverError) as raised:
        declare()
    assert message in str(raised.value)


# --- attributes through the parent, as sysfs asks for them ------------------------------------------------------


class Tuned(Function[Slice]):
    identity = Sample.identity
    level = Attribute(1, range=(0, 9), group="engine")

    @pending
    def is_high(self) -> bool:
        return self.level > 5

    high = Interrupt(is_high)


class Tuners(Parent[Slice]):
    function = Tuned
    driver_name = "tuner"
    lanes, buffer = Pool(8), Pool(8)
    types = {"one": Slice(1, 1)}


def test_store_is_a_step_after_which_interrupts_are_settled() -> None:
    with LocalHost() as host:
        parent = host.bus.register_parent("tuners", Tuners())
        mdev = host.create(parent, "tuner-one")
        (level,) = parent.ops.attributes
        assert (level.group, level.name, level.writable) == ("engine", "level", True)
        assert parent.ops.show(mdev, level) == "1\n"
        with host.client(mdev) as client:
            pin = os.eventfd(0, os.EFD_NONBLOCK)
            client.arm(Irq.INTX, [pin])
            parent.ops.store(mdev, level, b"7\n")
            assert os.eventfd_read(pin) == 1
            os.close(pin)
        assert parent.ops.show(mdev, level) == "7\n"
        with pytest.raises(InvalidValue):
            parent.ops.store(mdev, level, b"10")


def test_nothing_is_stored_while_the_state_is_read() -> None:
    with LocalHost() as host:
        parent = host.bus.register_parent("tuners", Tuners())
        mdev = host.create(parent, "tuner-one")
        (level,) = parent.ops.attributes
        endpoint = host.endpoint(mdev)
        with host.client(mdev):
            with endpoint.lock:
                endpoint.device.migration.set_state(STOP_COPY)
            with pytest.raises(Busy, match="STOP_COPY"):
                parent.ops.store(mdev, level, b"3")
            with endpoint.lock:
                endpoint.device.migration.set_state(STOP)
            parent.ops.store(mdev, level, b"3")


def test_create_that_fails_gives_back_what_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalHost() as host:
        parent = host.bus.register_parent("tuners", Tuners())
        monkeypatch.setattr(Tuned, "_plan", None)
        with pytest.raises(AttributeError):
            host.create(parent, "tuner-one")
        monkeypatch.undo()
        assert parent.ops.get_available(parent.types["tuner-one"]) == 8


def test_mdev_of_another_parent_is_refused() -> None:
    with LocalHost() as host:
        parent = host.bus.register_parent("tuners", Tuners())
        mdev = host.create(parent, "tuner-one")
        mdev.drvdata = None
        with pytest.raises(DriverError, match="tuners: create returned None: expected a Device"):
            parent.ops.show(mdev, parent.ops.attributes[0])
