"""The interrupts of a device: arming, masking, levels and edges, and which request is refused how."""

from collections.abc import Callable

import pytest
from typing_extensions import override

from mdev_user.errors import GuestError, UnknownRequest
from mdev_user.vfio.counters import Counters
from mdev_user.vfio.irqs import IrqTable
from mdev_user.vfio.requests import Eventfd, Irq, IrqAction, IrqFlags, IrqInfo, SetIrqs

MASK, UNMASK, TRIGGER = IrqAction.MASK, IrqAction.UNMASK, IrqAction.TRIGGER


class Recorder(Eventfd):
    """An eventfd that only counts."""

    def __init__(self) -> None:
        self.signals = 0
        self.closed = 0
        self.signalled: Callable[[], None] | None = None

    @override
    def signal(self) -> None:
        assert not self.closed, "a closed eventfd was signalled"
        self.signals += 1

    @override
    def watch(self, signalled: Callable[[], None]) -> None:
        self.signalled = signalled

    @override
    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def counters() -> Counters:
    return Counters()


@pytest.fixture
def irqs(counters: Counters) -> IrqTable:
    return IrqTable({Irq.INTX: 1, Irq.MSI: 4, Irq.MSIX: 8}, counters)


def arm(irqs: IrqTable, index: int, *eventfds: Eventfd | None, start: int = 0, action: IrqAction = TRIGGER) -> None:
    irqs.set(SetIrqs(index, start, len(eventfds), action, eventfds=eventfds))


@pytest.fixture
def intx(irqs: IrqTable) -> Recorder:
    arm(irqs, Irq.INTX, eventfd := Recorder())
    return eventfd


def test_information_says_what_each_kind_can(irqs: IrqTable) -> None:
    level = IrqFlags.EVENTFD | IrqFlags.MASKABLE | IrqFlags.AUTOMASKED
    assert irqs.info(Irq.INTX) == IrqInfo(Irq.INTX, level, 1)
    assert irqs.info(Irq.MSIX) == IrqInfo(Irq.MSIX, IrqFlags.EVENTFD | IrqFlags.NORESIZE, 8)
    assert irqs.info(Irq.ERR) == IrqInfo(Irq.ERR, IrqFlags(0), 0)


@pytest.mark.parametrize("index", [-1, 5, 6, 1000])
def test_an_index_that_no_device_has_is_einval(irqs: IrqTable, index: int) -> None:
    with pytest.raises(GuestError, match="expected 0 to 4"):
        irqs.info(index)
    with pytest.raises(GuestError):
        irqs.set(SetIrqs(index, 0, 0, TRIGGER))


def test_an_edge_fires_its_vector_only(irqs: IrqTable, counters: Counters) -> None:
    eventfds = [Recorder() for _ in range(4)]
    arm(irqs, Irq.MSI, *eventfds)
    assert irqs.trigger(Irq.MSI, 2)
    assert irqs.trigger(Irq.MSI, 2)
    assert [each.signals for each in eventfds] == [0, 0, 2, 0]
    assert counters.interrupts == 2


def test_an_edge_that_nobody_listens_to_is_lost(irqs: IrqTable, counters: Counters) -> None:
    assert not irqs.trigger(Irq.MSIX, 0)
    assert not counters.interrupts


def test_arming_a_vector_again_closes_its_eventfd(irqs: IrqTable) -> None:
    first, second = Recorder(), Recorder()
    arm(irqs, Irq.MSI, first, start=1)
    arm(irqs, Irq.MSI, second, start=1)
    irqs.trigger(Irq.MSI, 1)
    assert (first.closed, second.closed, second.signals) == (1, 0, 1)


def test_none_takes_a_vector_away(irqs: IrqTable) -> None:
    eventfds = [Recorder() for _ in range(3)]
    arm(irqs, Irq.MSIX, *eventfds)
    arm(irqs, Irq.MSIX, None, start=1)
    assert [irqs.trigger(Irq.MSIX, vector) for vector in range(3)] == [True, False, True]
    assert [each.closed for each in eventfds] == [0, 1, 0]


def test_count_0_disables_the_index_and_no_other(irqs: IrqTable) -> None:
    arm(irqs, Irq.MSI, msi := Recorder())
    arm(irqs, Irq.MSIX, msix := Recorder())
    assert irqs.armed(Irq.MSI)
    irqs.set(SetIrqs(Irq.MSI, 0, 0, TRIGGER))
    assert not irqs.armed(Irq.MSI)
    assert irqs.armed(Irq.MSIX)
    assert (msi.closed, msix.closed) == (1, 0)


# --- INTx -------------------------------------------------------------------------------------------------------


def test_a_level_fires_once_until_unmasked(irqs: IrqTable, intx: Recorder) -> None:
    irqs.set_level(True)
    irqs.set_level(True)
    assert intx.signals == 1
    irqs.unmask()
    irqs.unmask()
    assert intx.signals == 3


def test_however_often_a_level_is_signalled_it_is_one_interrupt(
    irqs: IrqTable, intx: Recorder, counters: Counters
) -> None:
    irqs.set_level(True)
    irqs.unmask()
    assert counters.interrupts == 1
    irqs.set_level(False)
    irqs.unmask()
    irqs.set_level(True)
    assert counters.interrupts == 2


def test_a_level_that_fell_does_not_fire_on_unmask(irqs: IrqTable, intx: Recorder) -> None:
    irqs.set_level(True)
    irqs.set_level(False)
    irqs.unmask()
    irqs.set_level(True)
    assert intx.signals == 2


def test_a_level_is_remembered_until_somebody_listens(irqs: IrqTable) -> None:
    irqs.set_level(True)
    arm(irqs, Irq.INTX, eventfd := Recorder())
    assert eventfd.signals == 1


def test_a_level_fires_anew_for_who_arms_next(irqs: IrqTable, intx: Recorder) -> None:
    """QEMU arms INTx again at every reset: a line that is up must reach it."""
    irqs.set_level(True)
    arm(irqs, Irq.INTX, again := Recorder())
    assert (intx.closed, again.signals) == (1, 1)


def test_disabling_intx_forgets_its_mask(irqs: IrqTable, intx: Recorder) -> None:
    irqs.set_level(True)
    irqs.set(SetIrqs(Irq.INTX, 0, 0, TRIGGER))
    irqs.set_level(False)
    arm(irqs, Irq.INTX, again := Recorder())
    irqs.set_level(True)
    assert again.signals == 1


def test_a_masked_level_waits_for_its_unmask(irqs: IrqTable, intx: Recorder) -> None:
    irqs.set(SetIrqs(Irq.INTX, 0, 1, MASK))
    irqs.set_level(True)
    before = intx.signals
    irqs.set(SetIrqs(Irq.INTX, 0, 1, UNMASK))
    assert (before, intx.signals) == (0, 1)


def test_an_eventfd_can_unmask(irqs: IrqTable, intx: Recorder) -> None:
    arm(irqs, Irq.INTX, unmask := Recorder(), action=UNMASK)
    irqs.set_level(True)
    assert unmask.signalled is not None
    unmask.signalled()
    assert intx.signals == 2
    arm(irqs, Irq.INTX, None, action=UNMASK)
    assert unmask.closed == 1


# --- a client that fires its own vectors ------------------------------------------------------------------------


def test_loopback_fires_what_is_asked_for(irqs: IrqTable) -> None:
    eventfds = [Recorder() for _ in range(4)]
    arm(irqs, Irq.MSI, *eventfds)
    irqs.set(SetIrqs(Irq.MSI, 1, 2, TRIGGER))
    irqs.set(SetIrqs(Irq.MSI, 0, 4, TRIGGER, bools=(True, False, False, True)))
    assert [each.signals for each in eventfds] == [1, 1, 1, 1]


def test_loopback_of_intx_masks_itself(irqs: IrqTable, intx: Recorder) -> None:
    irqs.set(SetIrqs(Irq.INTX, 0, 1, TRIGGER))
    irqs.set(SetIrqs(Irq.INTX, 0, 1, TRIGGER))
    assert intx.signals == 1


# --- what is refused, and whose the eventfds are then -----------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "start", "count", "action", "kind"),
    [
        (Irq.MSI, 3, 2, TRIGGER, GuestError),
        (Irq.MSI, 0, 5, TRIGGER, GuestError),
        (Irq.ERR, 0, 1, TRIGGER, GuestError),
        (Irq.COUNT, 0, 1, TRIGGER, GuestError),
        (Irq.MSI, 0, 0, TRIGGER, GuestError),
        (Irq.INTX, 0, 1, MASK, UnknownRequest),
        (Irq.MSI, 0, 1, UNMASK, UnknownRequest),
        (Irq.INTX, 0, 1, UNMASK, GuestError),  # nothing armed
    ],
)
def test_eventfds_of_a_refused_request_are_closed(
    irqs: IrqTable, index: int, start: int, count: int, action: IrqAction, kind: type[GuestError]
) -> None:
    eventfds = tuple(Recorder() for _ in range(count))
    with pytest.raises(kind):
        irqs.set(SetIrqs(index, start, count, action, eventfds=eventfds))
    assert all(each.closed == 1 for each in eventfds)
    assert not any(irqs.armed(each) for each in Irq if each is not Irq.COUNT)


def test_none_among_refused_eventfds_is_harmless(irqs: IrqTable) -> None:
    with pytest.raises(GuestError):
        arm(irqs, Irq.MSI, None, None, None, None, None)


@pytest.mark.parametrize(
    "request_",
    [
        SetIrqs(Irq.MSI, 0, 2, TRIGGER, bools=(True,)),
        SetIrqs(Irq.MSI, 0, 2, TRIGGER, eventfds=(None,)),
        SetIrqs(Irq.MSI, 0, 0, TRIGGER, bools=()),
        SetIrqs(Irq.INTX, 0, 0, UNMASK),
        SetIrqs(Irq.INTX, 0, 0, MASK),
    ],
)
def test_values_and_count_must_agree(irqs: IrqTable, intx: Recorder, request_: SetIrqs) -> None:
    with pytest.raises(GuestError):
        irqs.set(request_)
    assert not intx.closed


def test_only_intx_can_be_masked(irqs: IrqTable) -> None:
    arm(irqs, Irq.MSI, Recorder())
    with pytest.raises(UnknownRequest, match="MSI cannot be masked"):
        irqs.set(SetIrqs(Irq.MSI, 0, 1, MASK))


def test_the_end_closes_everything(irqs: IrqTable, intx: Recorder) -> None:
    arm(irqs, Irq.INTX, unmask := Recorder(), action=UNMASK)
    arm(irqs, Irq.MSIX, msix := Recorder(), None)
    irqs.set_level(True)
    irqs.disarm_all()
    irqs.disarm_all()
    assert [each.closed for each in (intx, unmask, msix)] == [1, 1, 1]
    irqs.set_level(False)
    irqs.set_level(True)
    assert not irqs.trigger(Irq.MSIX, 0)


def test_masking_none_of_the_vectors_masks_nothing(irqs: IrqTable, intx: Recorder) -> None:
    irqs.set(SetIrqs(Irq.INTX, 0, 1, MASK, bools=(False,)))
    irqs.set_level(True)
    assert intx.signals == 1
    irqs.set(SetIrqs(Irq.INTX, 0, 1, UNMASK, bools=(False,)))
    assert intx.signals == 1
    irqs.set(SetIrqs(Irq.INTX, 0, 1, UNMASK, bools=(True,)))
    assert intx.signals == 2


# --- a device that comes from elsewhere --------------------------------------------------------------------------


def is_automasked(irqs: IrqTable) -> bool:
    """As it is now, which a type checker takes for what it was."""
    return irqs.automasked


@pytest.mark.usefixtures("intx")
def test_automasked_is_from_the_signal_to_the_unmask(irqs: IrqTable) -> None:
    assert not is_automasked(irqs)
    irqs.set_level(True)
    irqs.set_level(False)
    assert is_automasked(irqs)  # whatever the pin does meanwhile
    irqs.unmask()
    assert not is_automasked(irqs)
    irqs.set(SetIrqs(Irq.INTX, 0, 1, MASK))
    assert not is_automasked(irqs)


def test_fires_again_once_and_counts_no_interrupt(irqs: IrqTable, intx: Recorder, counters: Counters) -> None:
    irqs.go_on(automasked=True)
    irqs.go_on(automasked=True)
    assert (intx.signals, counters.interrupts, is_automasked(irqs)) == (1, 0, True)
    irqs.unmask()
    assert (intx.signals, is_automasked(irqs)) == (1, False)
    irqs.set_level(True)
    assert (intx.signals, counters.interrupts) == (2, 1)


def test_what_was_seen_to_where_it_comes_from_can_fire(irqs: IrqTable, intx: Recorder) -> None:
    irqs.set_level(True)
    irqs.go_on(automasked=False)
    assert is_automasked(irqs)  # its pin is up
    irqs.set_level(False)
    irqs.go_on(automasked=False)
    assert not is_automasked(irqs)
    irqs.set_level(True)
    assert intx.signals == 2


def test_level_that_is_up_has_fired_already(irqs: IrqTable, intx: Recorder) -> None:
    irqs.set_level(True)
    irqs.go_on(automasked=True)
    assert intx.signals == 1


def test_nobody_is_told_who_does_not_listen_or_has_masked_it(irqs: IrqTable) -> None:
    irqs.go_on(automasked=True)
    assert not is_automasked(irqs)
    arm(irqs, Irq.INTX, eventfd := Recorder())
    irqs.set(SetIrqs(Irq.INTX, 0, 1, MASK))
    irqs.go_on(automasked=True)
    assert (eventfd.signals, is_automasked(irqs)) == (0, False)


@pytest.mark.parametrize("how", ["rearmed", "disarmed", "closed"])
def test_another_listener_begins_anew(irqs: IrqTable, intx: Recorder, how: str) -> None:
    irqs.go_on(automasked=True)
    if how == "rearmed":
        arm(irqs, Irq.INTX, Recorder())
    elif how == "disarmed":
        irqs.set(SetIrqs(Irq.INTX, 0, 0, TRIGGER))
    else:
        irqs.disarm_all()
    assert not is_automasked(irqs)
