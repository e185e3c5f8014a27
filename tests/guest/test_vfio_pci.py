"""Unmodified QEMUs under `mdev-user run`, whose guests have our mdevs by ``-device vfio-pci``: no vfio-user is in them.

Three guests run at the same time on mdevs of the same parents: Debian 12's QEMU 7.2 with private RAM, and a recent one
by the legacy API and by iommufd, with RAM in a memfd.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import pytest

from core import core_skip
from guest import test_edu
from guest.compiler import compile_static
from guest.scene import BROKEN, Tenant, at_once, disagreement
from guest.test_edu import COPIED_BY_INTERRUPT, COPY, HERE, IDENTITY, IOMMU, LONG, PASS_THROUGH, SHORT
from guest.test_sketches import interrupts
from mdev_user.guests import serial
from mdev_user.guests.arguments import (
    iommufd_arguments,
    private_memory_arguments,
    run_command,
    vfio_arguments,
)
from mdev_user.guests.console import GuestFailed, GuestTimeout
from mdev_user.guests.plain_qemu import find_plain_qemu, with_qemu
from mdev_user.guests.rig import Rig
from mdev_user.guests.serial import Exchange
from mdev_user.guests.vm import DEFAULT_MEMORY, Guest
from mdev_user.testing.daemon import RunningDaemon
from mdev_user.units import MiB

pytestmark = [pytest.mark.guest, pytest.mark.fuse]

PARENTS = {"mtty": "mtty-1", "edu": "edu-1", "vectored": "virtio-rng-small", "slate": "slate-small", "mute": "mtty-1"}
"""The parents, and the type of each guest's mdev."""
SPECIFICATIONS = (
    *("mtty", "edu", "virtio-rng,name=vectored"),
    *(f"{HERE / 'slate.py'}:Slates,name=slate", f"{BROKEN}:Mute,name=mute"),
)
PATTERNS = {"plain": bytes(range(80)), "legacy": bytes(range(80, 160)), "iommufd": bytes(range(160, 240))}
"""What each guest sends: no byte is in two of them."""
WAYS = tuple(PATTERNS)
RNG = "drivers/char/hw_random/virtio-rng"
SIZE, TIMES = 2000, 30
ACCESSES = 50


def _legacy(uuids: Sequence[UUID]) -> list[str]:
    return [argument for uuid in uuids for argument in vfio_arguments(uuid)]


def _iommufd(uuids: Sequence[UUID]) -> list[str]:
    return iommufd_arguments(*uuids)


@dataclass(frozen=True)
class Way:
    """A QEMU, the RAM of its guest, and the API by which it takes mdevs."""

    rig: Rig
    memory: Sequence[str]
    devices: Callable[[Sequence[UUID]], list[str]]


@dataclass(frozen=True)
class Visit(Tenant):
    """A guest of one of these ways."""

    @property
    def edu(self) -> test_edu.Scene:
        return test_edu.Scene(self.daemon, self.guest, (self.mdevs["edu"], self.mdevs["edu"]))

    def counter(self, parent: str, name: str) -> int:
        return int(self.daemon.control.mdev(self.mdevs[parent]).counters[name])

    @property
    def unshared(self) -> int:
        """How many bytes of the guest's memory the daemon cannot map."""
        client = self.daemon.control.mdev(self.mdevs["mtty"]).client
        assert client is not None
        return client.unshared_memory

    def accesses(self, parent: str) -> int:
        """How often the guest asked the device for something."""
        return self.counter(parent, "reads") + self.counter(parent, "writes")


@pytest.fixture(scope="module")
def plain(rig: Rig) -> Rig:
    qemu = find_plain_qemu() or core_skip("no QEMU without vfio-user: `python -m mdev_user.guests plain-qemu`")
    return with_qemu(rig, qemu)


@pytest.fixture(scope="module")
def ways(rig: Rig, plain: Rig) -> Mapping[str, Way]:
    return {
        "plain": Way(plain, private_memory_arguments(DEFAULT_MEMORY), _legacy),
        "legacy": Way(rig, (), _legacy),
        "iommufd": Way(rig, (), _iommufd),
    }


@pytest.fixture(scope="module")
def host() -> Iterator[RunningDaemon]:
    with RunningDaemon(*SPECIFICATIONS) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def visits(
    ways: Mapping[str, Way], host: RunningDaemon, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Visit]]:
    program = tmp_path_factory.mktemp("edu") / "program"
    compile_static(HERE / "edu_program.c", program)
    with ExitStack() as stack:
        guests: dict[str, tuple[Guest, Mapping[str, UUID]]] = {}
        for name, way in ways.items():
            mdevs = {parent: host.create(mdev_type, parent=parent) for parent, mdev_type in PARENTS.items()}
            guest = _guest(host, way, list(mdevs.values()), program.read_bytes())
            stack.callback(guest.close)
            guest.start()
            guests[name] = guest, mdevs
        yield {name: _visit(host, guest, mdevs) for name, (guest, mdevs) in guests.items()}


def _guest(host: RunningDaemon, way: Way, uuids: Sequence[UUID], program: bytes) -> Guest:
    modules = {name: test_edu.module(way.rig, name) for name in test_edu.MODULES}
    files = {f"/lib/{name.rpartition('/')[2]}.ko": data for name, data in modules.items()}
    files |= {"/bin/edu_program": program, "/lib/virtio-rng.ko": test_edu.module(way.rig, RNG)}
    arguments = [*way.memory, *IOMMU, *way.devices(uuids), *PASS_THROUGH]
    return Guest(way.rig, files=files, arguments=arguments, launcher=run_command(host.run_dir.path))


def _visit(host: RunningDaemon, guest: Guest, mdevs: Mapping[str, UUID]) -> Visit:
    guest.boot()
    mtty, mute = serial.ports(guest)
    visit = Visit(host, guest, mdevs, {"mtty": [mtty], "mute": [mute]})
    visit.edu.load()
    guest.run("insmod /lib/virtio-rng.ko")
    return visit


@pytest.fixture(params=WAYS)
def visit(visits: Mapping[str, Visit], request: pytest.FixtureRequest) -> Visit:
    name: str = request.param
    return visits[name]


# --- the stock serial driver --------------------------------------------------------------------------------------


def test_the_stock_driver_finds_a_16550a_with_an_irq(visit: Visit) -> None:
    status = serial.status(visit.guest, visit.ports["mtty"][0])
    assert (status.uart, status.irq > 0) == ("16550A", True), status.text


def test_what_three_guests_send_at_the_same_time_is_each_ones_own(visits: Mapping[str, Visit]) -> None:
    works = [partial(visit.exchange, PATTERNS[name], SIZE) for name, visit in visits.items()]
    counted = [partial(visit.counted, work) for visit, work in zip(visits.values(), works, strict=True)]
    for name, (exchange, device) in zip(visits, at_once(*counted), strict=True):
        assert exchange.received.translate(None, PATTERNS[name]) == b""
        assert exchange.identical, name
        assert disagreement(exchange, device, 1.0) == ""


def test_a_conversation_takes_as_many_interrupts_as_the_device_raises(visit: Visit) -> None:
    """The pin goes down when it is served: QEMU masks it meanwhile, and unmasks it at the guest's next access."""
    talk, device = visit.counted(partial(visit.converse, "I am here", TIMES))
    assert talk.identical
    assert disagreement(talk, device, 1.0) == ""


def test_silence_and_a_storm_would_be_noticed(visits: Mapping[str, Visit]) -> None:
    """The negative controls of the conversation."""
    visit = visits["plain"]
    with pytest.raises(GuestTimeout):
        visit.guest.run(serial.converse_script(visit.ports["mute"][0], "hello", 1), 4)
    assert visit.guest.attempt("cat /run/received").output == b""
    assert disagreement(Exchange(b"hello\n", b"", 0), visit.interrupts("mute"), 1.0) != ""
    assert disagreement(Exchange(b"a", b"a", 60_000), 60, 1.0) != ""


# --- edu: DMA, the pin masked and unmasked, MSI -----------------------------------------------------------------------


def test_dma_goes_both_ways(visit: Visit) -> None:
    before = visit.counter("edu", "dma_read_bytes"), visit.counter("edu", "dma_write_bytes")
    first, *_rest, compared = visit.edu.run("resource", f"identity {COPY}")
    assert (first, compared) == (IDENTITY, "compare same 4096")
    after = visit.counter("edu", "dma_read_bytes"), visit.counter("edu", "dma_write_bytes")
    assert (after[0] - before[0], after[1] - before[1]) == (4096, 4096)


def test_ram_that_is_private_is_served_and_a_memfd_is_mapped(visits: Mapping[str, Visit]) -> None:
    """Both ways of DMA are taken above: what is not shared with the daemon it asks for by messages."""
    unshared = {name: visit.unshared for name, visit in visits.items()}
    assert unshared["plain"] >= DEFAULT_MEMORY // 2
    assert max(unshared["legacy"], unshared["iommufd"]) < MiB


def test_a_copy_without_bus_mastering_leaves_memory_as_it_was(visit: Visit) -> None:
    """The negative control."""
    assert visit.edu.run("resource", f"command 2 {COPY}")[-1] == "compare differs at 0"


def test_the_pin_interrupts_again_until_its_cause_is_acknowledged(visit: Visit) -> None:
    with visit.edu.driven("uio_pci_generic"):
        steps = f"raise 4 wait unmask wait {SHORT} wait acknowledge 4 unmask wait"
        assert visit.edu.run("uio", steps) == [
            *("arrived 1 cause 4", "arrived 1 cause 4", "arrived 0 cause 4", "arrived 0 cause 0"),
        ]
        steps = f"command 0x406 raise 1 {SHORT} wait {LONG} unmask wait acknowledge 1 unmask"
        assert visit.edu.run("uio", steps) == ["arrived 0 cause 1", "arrived 1 cause 1"]


def test_messages_arrive_and_dma_goes_through_the_guests_iommu(visit: Visit) -> None:
    with visit.edu.driven("vfio-pci"):
        first, *done, kernel = visit.edu.run("vfio", f"identity interrupts 1 factorial 11 {COPY} kernel")
        assert [first, *done] == [IDENTITY, "factorial 39916800 by interrupt", *COPIED_BY_INTERRUPT]
        assert "PCI-MSI" in kernel
        steps = f"raise 4 wait raise 8 wait {SHORT} wait acknowledge 0xc wait"
        assert visit.edu.run("vfio", steps) == [
            *("arrived 1 cause 4", "arrived 1 cause c", "arrived 0 cause c", "arrived 0 cause 0"),
        ]
        before = visit.counter("edu", "dma_read_bytes")
        visit.edu.run("vfio", "address 0x100000 send 16")
        assert visit.counter("edu", "dma_read_bytes") == before, "what the program has not mapped is out of reach"


# --- MSI-X, by a driver of the guest's kernel -------------------------------------------------------------------------


def test_stock_virtio_rng_reads_entropy_by_msix(visit: Visit) -> None:
    before = interrupts(visit.guest, "virtio0-input")
    data = visit.guest.attempt("dd if=/dev/hwrng bs=64 count=32 2>/dev/null").output
    assert (len(data), len({data[at : at + 64] for at in range(0, len(data), 64)})) == (2048, 32)
    assert interrupts(visit.guest, "virtio0-input") - before >= 30


# --- memory that the guest maps --------------------------------------------------------------------------------------


def test_memory_of_a_bar_is_the_guests_without_a_call(visit: Visit) -> None:
    sheet, registers = _bars(visit.guest)
    visit.guest.run(f"devmem {registers:#x} 32 0")
    before = visit.accesses("slate")
    for base in (sheet, registers + 0x2000):
        script = f"n=0; while [ $n -lt {ACCESSES} ]; do devmem $(({base} + n * 4)) 32 0x01010101; n=$((n + 1)); done"
        visit.guest.run(script)
    assert visit.accesses("slate") == before
    results = [_sum(visit.guest, registers, number) for number in (1, 0)]
    assert results == [4 * ACCESSES, 4 * ACCESSES]
    assert visit.accesses("slate") >= before + 4, "the control: registers are asked for"
    visit.guest.run(f"devmem {registers:#x} 32 0xa5")
    assert _read(visit.guest, sheet + 0x3F00) == _read(visit.guest, registers + 0x2000) == 0xA5A5A5A5


def _sum(guest: Guest, registers: int, number: int) -> int:
    guest.run(f"devmem {registers + 4:#x} 32 {number}")
    return _read(guest, registers + 8)


def _read(guest: Guest, address: int) -> int:
    return int(guest.run(f"devmem {address:#x} 32"), 16)


def _bars(guest: Guest) -> tuple[int, int]:
    """The addresses of BAR 2 and BAR 0."""
    listing = guest.run(
        "cd $(dirname $(grep -l 0x51a7 /sys/bus/pci/devices/*/device)); echo 1 >enable; cat resource"
    ).splitlines()
    return int(listing[2].split()[0], 16), int(listing[0].split()[0], 16)


# --- without `run` ---------------------------------------------------------------------------------------------------


def test_without_run_there_is_no_such_device(ways: Mapping[str, Way], visits: Mapping[str, Visit]) -> None:
    """The negative control of all of these."""
    uuid = visits["plain"].mdevs["mtty"]
    guest = Guest(ways["plain"].rig, arguments=_legacy([uuid]))
    with pytest.raises(GuestFailed, match=re.escape(str(uuid))):
        guest.boot()
