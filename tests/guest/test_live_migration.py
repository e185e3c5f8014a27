"""A running guest goes from one QEMU to another with its mdevs: the live migration of the kernel's VFIO, under `run`.

It has two serial mdevs. One is left alone, in a state that only a device that was carried over has; on the other the
guest's stock driver converses all the time. A third mdev writes into the guest's memory while that is copied. Source
and destination are mdevs of two parents, whose devices live in different processes, and nothing but QEMU's own stream
connects them. The first QEMU uses the legacy API, the second iommufd.
"""

import lzma
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from guest.scene import DATA_READY, IER, LSR, RBR, THR, eventually, functions
from mdev_user.guests import serial
from mdev_user.guests.arguments import IOMMUFD_ID, MDEVS, run_command
from mdev_user.guests.qmp import Json
from mdev_user.guests.rig import Rig
from mdev_user.guests.vm import KERNEL_COMMAND_LINE, Guest
from mdev_user.testing.daemon import RunningDaemon
from mdev_user.units import PAGE, GiB, MiB

pytestmark = [pytest.mark.guest, pytest.mark.fuse]

DLL, DLM, IIR, FCR, LCR, SCR = 0, 1, 2, 2, 3, 7
DLAB, FORMAT = 0x80, 0x03
FIFO, CLEAR, RX = 0x01, 0x06, 0x01
DIVISOR = 12345
SCRATCH = 0xA5
HALF = b"half ful"
RX_PENDING, NONE_PENDING = 0xC4, 0xC1
COMMAND, STATUS = 4, 6
BUFFER = 0x40000
IO, INTERRUPT_DISABLED, INTERRUPT_PENDING = 0x001, 0x400, 0x08
MODULES = ("uio", "uio_pci_generic")
INCOMING = ("-incoming", "defer")
IOMMUFD = ("-object", f"iommufd,id={IOMMUFD_ID}")
SECONDS = 60.0
DOWNTIME_LIMIT = 2000
"""Milliseconds that QEMU may plan for; what it takes is printed."""
FORGETFUL = """
from mdev_user.vfio_user.client import Client
Client.set_migration_state = lambda client, state: None
Client.write_migration_data = lambda client, data: None
"""
"""What makes a destination take the state of its devices, and not give it to them."""
DEAF = """
import os
from mdev_user.vfio_user.client import Client
report = Client.report_dma_logging
def silenced(client, iova, length, page_size):
    found = report(client, iova, length, page_size)
    return bytes(len(found)) if os.path.exists({flag!r}) else found
Client.report_dma_logging = silenced
"""
"""What makes a source not tell QEMU of what its devices wrote, once there is a file ``flag``."""
RESERVED = 0x800000
"""Memory of the guest's that its kernel does not use: the pages there are among the first that are copied."""
SLOW, FAST = 4 * MiB, GiB
"""Bytes per second."""


@dataclass(frozen=True)
class State:
    """What the guest finds in the device that is left alone."""

    divisor: int
    scratch: int
    pending: int
    disabled: int
    cause: int
    has_data: int


EXPECTED = State(DIVISOR, SCRATCH, INTERRUPT_PENDING, INTERRUPT_DISABLED, RX_PENDING, DATA_READY)
FORGOTTEN = State(0, 0, 0, INTERRUPT_DISABLED, NONE_PENDING, 0)
"""What it finds in a new device; QEMU itself carries the config space's command register."""


class Quiet:
    """The serial function that no serial driver has: uio_pci_generic counts its interrupts."""

    def __init__(self, guest: Guest, address: str) -> None:
        self._guest = guest
        self._address = address

    def take(self) -> None:
        """From the serial driver, for uio."""
        self._guest.run(
            f"""
            cd /sys/bus/pci
            echo {self._address} >drivers/serial/unbind
            echo uio_pci_generic >devices/{self._address}/driver_override
            echo {self._address} >drivers_probe
            """
        )

    def prepare(self) -> None:
        """The interrupt is disabled, and then pending."""
        self._ask(f"command {INTERRUPT_DISABLED | IO}")
        settings = (
            *((LCR, DLAB | FORMAT), (DLL, DIVISOR & 0xFF), (DLM, DIVISOR >> 8), (LCR, FORMAT)),
            *((SCR, SCRATCH), (FCR, FIFO | CLEAR)),
            *((THR, byte) for byte in HALF),
            (IER, RX),
        )
        self._ask("\n".join(f"write {register} {value}" for register, value in settings))

    def state(self) -> State:
        found = self._ask(
            f"""
            read {IIR}; read {LSR}; read {SCR}
            write {LCR} {DLAB | FORMAT}; read {DLL}; read {DLM}; write {LCR} {FORMAT}
            config {STATUS}; config {COMMAND + 1}
            """
        )
        cause, line, scratch, low, high, status, command = found
        disabled = command << 8 & INTERRUPT_DISABLED
        return State(low | high << 8, scratch, status & INTERRUPT_PENDING, disabled, cause, line & DATA_READY)

    def interrupts_when_enabled(self) -> int:
        """How many uio has counted when one came after the function may interrupt again; 0 when none did in 5 s."""
        waited = "timeout 5 dd bs=4 count=1 <&3 2>/dev/null"
        return int.from_bytes(self._ask(f"exec 3</dev/uio0; command {IO}; {waited}"), "little")

    def drained(self) -> bytes:
        """What the receiver has: of 17 bytes those that it said to have."""
        found = self._ask(f"n=0; while [ $n -lt 17 ]; do read {LSR}; read {RBR}; n=$((n + 1)); done")
        return bytes(byte for line, byte in zip(found[::2], found[1::2], strict=True) if line & DATA_READY)

    def _ask(self, script: str) -> bytes:
        """What a script prints that has these words for the function."""
        words = f"""
            cd /sys/bus/pci/devices/{self._address}
            read() {{ dd if=resource0 bs=1 skip=$1 count=1 2>/dev/null; }}
            config() {{ dd if=config bs=1 skip=$1 count=1 2>/dev/null; }}
            write() {{ printf "\\\\$(printf %03o $2)" | dd of=resource0 bs=1 seek=$1 conv=notrunc 2>/dev/null; }}
            command() {{
                printf "\\\\$(printf %03o $(($1 & 255)))\\\\$(printf %03o $(($1 >> 8)))" |
                    dd of=config bs=2 seek={COMMAND // 2} conv=notrunc 2>/dev/null
            }}
        """
        return self._guest.attempt(f"{words}\n{script}").output


class Copier:
    """An edu that the shell drives by polling, and two pages of memory that nobody else uses."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def load(self, value: int) -> None:
        """Let the device have it, and clear the page to which it will be copied."""
        self._run(f"devmem {RESERVED} 64 {value}; devmem {RESERVED + PAGE} 64 0; copy {RESERVED} {BUFFER} 1")

    def store(self) -> None:
        """Let the device write what it has into the second page."""
        self._run(f"copy {BUFFER} {RESERVED + PAGE} 3")

    def stored(self) -> int:
        return int(self._guest.run(f"devmem {RESERVED + PAGE} 64"), 16)

    def _run(self, script: str) -> None:
        self._guest.run(
            f"""
            set -e
            cd $(dirname $(grep -l 0x11e8 /sys/bus/pci/devices/*/device))
            printf '\\006\\000' | dd of=config bs=2 seek={COMMAND // 2} conv=notrunc 2>/dev/null
            bar=$(head -n 1 resource | cut -d ' ' -f 1)
            copy() {{
                devmem $((bar + 0x80)) 64 $1; devmem $((bar + 0x88)) 64 $2; devmem $((bar + 0x90)) 64 8
                devmem $((bar + 0x98)) 64 $3
                while [ $(($(devmem $((bar + 0x98)) 64) & 1)) = 1 ]; do :; done
            }}
            {script}
            """
        )


class Talk:
    """A conversation by the stock driver that goes on by itself: each line after the one before came back."""

    def __init__(self, guest: Guest, port: str) -> None:
        self.port = port
        self.irq = serial.status(guest, port).irq
        guest.run(
            f"""
            exec 3<>/dev/{port}; stty raw -echo -hupcl clocal 115200 <&3
            (
                n=0
                while [ ! -e /run/enough ]; do
                    n=$((n + 1))
                    echo "line $n" >&3
                    IFS= read -r -t 5 answer <&3 || {{ echo "line $n is lost"; break; }}
                    [ "$answer" = "line $n" ] || {{ echo "line $n came back as $answer"; break; }}
                    echo $n >/run/lines
                    usleep 10000
                done
                exec 3<&-
                >/run/ended
            ) </dev/null >/run/trouble 2>&1 &
            """
        )

    def end(self, guest: Guest) -> None:
        """The driver has closed its port."""
        guest.run("touch /run/enough")
        eventually(lambda: guest.attempt("[ -e /run/ended ]").status == 0, 20)

    def lines(self, guest: Guest) -> int:
        """How many came back so far; all as they were sent."""
        assert guest.run("cat /run/trouble") == ""
        return int(guest.run("cat /run/lines") or 0)

    def goes_on(self, guest: Guest) -> int:
        """How many interrupts the guest counts while ten lines come back."""
        lines, interrupts = self.lines(guest), serial.interrupt_count(guest, self.irq)
        eventually(lambda: self.lines(guest) >= lines + 10, 20)
        return serial.interrupt_count(guest, self.irq) - interrupts


def launcher(daemon: RunningDaemon, preamble: str = "") -> list[str]:
    """The beginning of a command that `run` runs; ``preamble`` breaks something in it first."""
    if not preamble:
        return run_command(daemon.run_dir.path)
    main = f"{preamble}\nfrom mdev_user.cli import main; main()"
    return [sys.executable, "-c", main, "run", "--run-dir", str(daemon.run_dir.path), "--"]


def machine(rig: Rig, daemon: RunningDaemon, parent: str, *more: str, api: str = "", preamble: str = "") -> Guest:
    """A machine with two new mdevs of a serial parent and an edu, started."""
    uuids = [daemon.create("mtty-1", parent=parent), daemon.create("mtty-1", parent=parent), daemon.create("edu-1")]
    devices = [
        f"vfio-pci,id=mdev{number},sysfsdev={MDEVS}/{uuid},enable-migration=on{api}"
        for number, uuid in enumerate(uuids)
    ]
    append = f"{KERNEL_COMMAND_LINE} memmap=64K${RESERVED:#x}"
    arguments = [*(word for device in devices for word in ("-device", device)), "-append", append, *more]
    files = {f"/lib/{name}.ko": module(rig, name) for name in MODULES}
    guest = Guest(rig, files=files, arguments=arguments, launcher=launcher(daemon, preamble))
    guest.start()
    return guest


def module(rig: Rig, name: str) -> bytes:
    return lzma.decompress((rig.modules / f"kernel/drivers/uio/{name}.ko.xz").read_bytes())


def migrate(source: Guest, target: Guest, meanwhile: Callable[[], None]) -> dict[str, Json]:
    """What QEMU says of the migration once it is over; AssertionError unless it went well.

    ``meanwhile`` is done when the first pages of memory have been copied.
    """
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        uri = f"unix:{folder}/m"
        target.qmp.execute("migrate-incoming", {"uri": uri})
        source.qmp.execute("migrate-set-parameters", {"downtime-limit": DOWNTIME_LIMIT, "max-bandwidth": SLOW})
        source.qmp.execute("migrate", {"uri": uri})
        eventually(lambda: _copied(source) > SLOW, SECONDS)
        meanwhile()
        assert _over(source) == {}, "what was done meanwhile came too late"
        source.qmp.execute("migrate-set-parameters", {"max-bandwidth": FAST})
        told = eventually(lambda: _over(source), SECONDS)
        assert told["status"] == "completed", f"{told}\n{source.console_tail()}\n{target.console_tail()}"
        eventually(lambda: _status(target) == "running", SECONDS)
        return told
    finally:
        shutil.rmtree(folder)


def _copied(source: Guest) -> int:
    told = source.qmp.execute("query-migrate")
    assert isinstance(told, dict)
    ram = told.get("ram")
    copied = ram["transferred"] if isinstance(ram, dict) else 0
    assert isinstance(copied, int)
    return copied


def _over(source: Guest) -> dict[str, Json]:
    told = source.qmp.execute("query-migrate")
    assert isinstance(told, dict)
    return told if told.get("status") in {"completed", "failed", "cancelled"} else {}


def _status(guest: Guest) -> Json:
    told = guest.qmp.execute("query-status")
    assert isinstance(told, dict)
    return told["status"]


@dataclass
class Journey:
    """A guest where it is now, the function that is left alone in it, and its conversation."""

    guest: Guest
    address: str
    talk: Talk

    @property
    def quiet(self) -> Quiet:
        return Quiet(self.guest, self.address)

    @property
    def copier(self) -> Copier:
        return Copier(self.guest)

    def go(self, target: Guest, value: int) -> dict[str, Json]:
        """From where it is to ``target``, while its copier writes a value; what QEMU says of that."""
        try:
            self.copier.load(value)
            told = migrate(self.guest, target, self.copier.store)
        except BaseException:
            target.close()
            raise
        self.guest.close()
        self.guest = target
        return told


@pytest.fixture(scope="module")
def world() -> Iterator[RunningDaemon]:
    with RunningDaemon("mtty", "mtty,name=other", "edu") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def journey(rig: Rig, world: RunningDaemon) -> Iterator[Journey]:
    """A booted guest on the parent ``mtty``, whose first mdev is left alone, and which converses by its second."""
    source = machine(rig, world, "mtty")
    try:
        source.boot()
        source.run("\n".join(["set -e", *(f"insmod /lib/{name}.ko" for name in MODULES)]))
        address = functions(source)[0].address
        yield (begun := Journey(source, address, Talk(source, serial.ports(source)[1])))
    finally:
        source.close()
    begun.guest.close()


def test_a_running_guest_takes_its_mdevs_along(
    rig: Rig, world: RunningDaemon, journey: Journey, capsys: pytest.CaptureFixture[str]
) -> None:
    journey.quiet.take()
    journey.quiet.prepare()
    assert journey.quiet.state() == EXPECTED
    before = eventually(lambda: journey.talk.lines(journey.guest), 20)
    deaf = DEAF.format(flag=str(world.folder / "deaf"))
    target = machine(rig, world, "other", *INCOMING, *IOMMUFD, api=f",iommufd={IOMMUFD_ID}", preamble=deaf)
    told = journey.go(target, 0x1122334455667788)
    with capsys.disabled():
        print(f"\n{'live migration':24} downtime {told['downtime']} ms, in all {told['total-time']} ms", told["vfio"])
    check(journey.quiet)
    assert journey.copier.stored() == 0x1122334455667788, "what a device wrote meanwhile"
    assert journey.talk.goes_on(journey.guest) > 0, journey.guest.run("dmesg | tail -40; cat /proc/interrupts")
    assert journey.talk.lines(journey.guest) > before + 10


def test_without_states_and_dirty_pages_the_guest_finds_others(
    rig: Rig, world: RunningDaemon, journey: Journey
) -> None:
    """The negative control, and a second migration of the same guest."""
    (world.folder / "deaf").touch()
    journey.talk.end(journey.guest)  # a driver would wait for a device that has forgotten everything
    journey.quiet.prepare()
    assert journey.quiet.state() == EXPECTED
    journey.go(machine(rig, world, "mtty", *INCOMING, preamble=FORGETFUL), 0x99AABBCCDDEEFF00)
    with pytest.raises(AssertionError):
        check(journey.quiet)
    assert (journey.quiet.state(), journey.quiet.drained()) == (FORGOTTEN, b"")
    assert journey.copier.stored() == 0


def check(quiet: Quiet) -> None:
    assert quiet.state() == EXPECTED
    assert quiet.interrupts_when_enabled() == 1, "the interrupt that waited comes, once"
    assert quiet.drained() == HALF
