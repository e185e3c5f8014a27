"""A guest's stock kernel and a small program of ours in it drive edu: MMIO, DMA, INTx and MSI.

The kernel's own user-space drivers give the program the interrupts: uio_pci_generic those of the pin, vfio-pci those
by message. The guest has an IOMMU, since vfio-pci asks for one: under it the program chooses the bus address itself.
"""

import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest

from guest.compiler import compile_static
from guest.scene import eventually
from mdev_user.guests.arguments import device_arguments
from mdev_user.guests.console import GuestCommandError
from mdev_user.guests.rig import Rig
from mdev_user.guests.vm import KERNEL_COMMAND_LINE, Guest
from mdev_user.testing.daemon import RunningDaemon

pytestmark = pytest.mark.guest

HERE = Path(__file__).parent
MODULES = (
    *("virt/lib/irqbypass", "drivers/uio/uio", "drivers/uio/uio_pci_generic", "drivers/vfio/vfio"),
    *("drivers/vfio/vfio_iommu_type1", "drivers/vfio/pci/vfio-pci-core", "drivers/vfio/pci/vfio-pci"),
)
"""In the order in which one needs the other."""
IOMMU = ("-device", "intel-iommu,intremap=on,caching-mode=on")  # before the devices that are behind it
PASS_THROUGH = ("-append", f"{KERNEL_COMMAND_LINE} intel_iommu=on iommu=pt")
"""A device without a driver that says otherwise uses physical addresses."""

EDU, WRONG = 0, 1
"""The guest's edus in the order of the bus."""
IDENTITY = "identity 010000ed"
COPY = "fill 9 send 4096 fill 0 receive 4096 compare 9"
"""A page to the device's buffer, and back to where it has been wiped."""
COPIED_BY_INTERRUPT = ("send by interrupt", "receive by interrupt", "compare same 4096")
IOVA = 0x0ABC0000
"""Where the program maps its page for a device behind the IOMMU."""
SHORT, LONG = "patience 300", "patience 20000"
"""Milliseconds to wait for an interrupt that must not come, and for one that must."""


@dataclass(frozen=True)
class Scene:
    """A booted guest with the program and two edus, and the daemon that serves these."""

    daemon: RunningDaemon
    guest: Guest
    edus: tuple[UUID, UUID]

    def load(self) -> None:
        """Make a guest that has just booted ready for the tests."""
        insert = (f"insmod /lib/{Path(name).name}.ko" for name in MODULES)
        self.guest.run("\n".join(["set -e", "chmod +x /bin/edu_program", *insert]))

    def run(self, way: str, steps: str, number: int = EDU) -> list[str]:
        """What the program prints, a line for each step that has something to say."""
        return self.guest.run(f"/bin/edu_program {way} {number} {LONG} {steps}").splitlines()

    def bind(self, driver: str, number: int = EDU) -> None:
        self._shell(number, f"echo {driver} >driver_override; echo $edu >/sys/bus/pci/drivers_probe; cd driver")

    @contextmanager
    def driven(self, driver: str, number: int = EDU) -> Iterator[None]:
        """The driver is bound to the edu meanwhile."""
        self.bind(driver, number)
        try:
            yield
        finally:
            self._shell(number, "echo $edu >driver/unbind; echo >driver_override")

    def counter(self, name: str) -> int:
        return int(self.daemon.control.mdev(self.edus[EDU]).counters[name])

    @property
    def complaint(self) -> str:
        return str(self.daemon.control.mdev(self.edus[EDU]).counters["last_guest_error"])

    def _shell(self, number: int, script: str) -> None:
        self.guest.run(f"""
            set -e
            cd /sys/bus/pci/devices
            edu=$(grep -l 0x11e8 */device | sed -n '{number + 1}s,/.*,,p')
            cd $edu
            {script}
        """)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    target = tmp_path_factory.mktemp("edu") / "program"
    compile_static(HERE / "edu_program.c", target)
    return target.read_bytes()


@pytest.fixture(scope="module")
def scene(rig: Rig, program: bytes) -> Iterator[Scene]:
    modules = {f"/lib/{Path(name).name}.ko": module(rig, name) for name in MODULES}
    with RunningDaemon("edu", f"{HERE / 'broken_edu.py'}:Wrong") as daemon:
        edus = daemon.create("edu-1", parent="edu"), daemon.create("edu-1", parent="wrong")
        devices = [argument for each in edus for argument in device_arguments(daemon.run_dir.socket(each))]
        files = {**modules, "/bin/edu_program": program}
        with Guest(rig, files=files, arguments=[*IOMMU, *devices, *PASS_THROUGH]) as guest:
            made = Scene(daemon, guest, edus)
            made.load()
            yield made


def module(rig: Rig, name: str) -> bytes:
    """One of the guest kernel's modules, by its path below ``kernel``."""
    return lzma.decompress((rig.modules / "kernel" / f"{name}.ko.xz").read_bytes())


# --- registers and memory, without a driver ---------------------------------------------------------------------


def test_registers_and_dma_work_through_the_resource_file(scene: Scene) -> None:
    before = scene.counter("dma_read_bytes"), scene.counter("dma_write_bytes")
    assert scene.run("resource", f"identity invert 0x12345678 invert 0 factorial 10 factorial 13 {COPY}") == [
        IDENTITY,
        "invert edcba987",
        "invert ffffffff",
        "factorial 3628800 by polling",
        f"factorial {6227020800 % (1 << 32)} by polling",
        "send by polling",
        "receive by polling",
        "compare same 4096",
    ]
    assert (scene.counter("dma_read_bytes") - before[0], scene.counter("dma_write_bytes") - before[1]) == (4096, 4096)


def test_a_copy_beyond_the_dma_mask_leaves_memory_as_it_was(scene: Scene) -> None:
    """The program's page is in the guest's lowest 128 MiB; the device has one address line too few for most of it."""
    mask = scene.daemon.sys / "bus/mdev/devices" / str(scene.edus[EDU]) / "dma_mask"
    usual = mask.read_text()
    mask.write_text(str((1 << 20) - 1))
    try:
        *_, compared = scene.run("resource", COPY)
    finally:
        mask.write_text(usual)
    assert compared == "compare differs at 0"
    assert "expected at most 0xfffff" in scene.complaint
    assert scene.run("resource", COPY)[-1] == "compare same 4096"


def test_a_copy_without_bus_mastering_leaves_memory_as_it_was(scene: Scene) -> None:
    assert scene.run("resource", f"command 2 {COPY}")[-1] == "compare differs at 0"
    assert "bus mastering" in scene.complaint


# --- the pin, by uio_pci_generic --------------------------------------------------------------------------------


@pytest.fixture
def by_pin(scene: Scene) -> Iterator[None]:
    with scene.driven("uio_pci_generic"):
        yield


@pytest.mark.usefixtures("by_pin")
def test_the_kernel_counts_the_interrupts_of_the_pin(scene: Scene) -> None:
    first, *done, kernel = scene.run("uio", f"identity interrupts 1 factorial 12 {COPY} kernel")
    assert first == IDENTITY
    assert done == [
        "factorial 479001600 by interrupt",
        "send by interrupt",
        "receive by interrupt",
        "compare same 4096",
    ]
    assert "IO-APIC" in kernel
    assert kernel.endswith("uio_pci_generic")
    assert "nobody cared" not in scene.guest.console_tail(1 << 20)


@pytest.mark.usefixtures("by_pin")
def test_the_pin_interrupts_again_until_its_cause_is_acknowledged(scene: Scene) -> None:
    """The kernel's driver turns the pin off with each interrupt; unmasking it asks for the next."""
    steps = f"raise 4 wait unmask wait {SHORT} wait acknowledge 4 unmask wait"
    assert scene.run("uio", steps) == [
        "arrived 1 cause 4",
        "arrived 1 cause 4",
        "arrived 0 cause 4",
        "arrived 0 cause 0",
    ]


@pytest.mark.usefixtures("by_pin")
def test_a_pin_that_is_turned_off_interrupts_once_it_is_turned_on(scene: Scene) -> None:
    steps = f"command 0x406 raise 1 {SHORT} wait {LONG} unmask wait acknowledge 1 unmask"
    assert scene.run("uio", steps) == ["arrived 0 cause 1", "arrived 1 cause 1"]


@pytest.mark.usefixtures("by_pin")
def test_nothing_interrupts_that_was_not_asked_to(scene: Scene) -> None:
    done = scene.run("uio", f"factorial 5 send 16 {SHORT} wait")
    assert done == ["factorial 120 by polling", "send by polling", "arrived 0 cause 0"]


# --- messages, by vfio-pci --------------------------------------------------------------------------------------


@pytest.fixture
def by_message(scene: Scene) -> Iterator[None]:
    with scene.driven("vfio-pci"):
        yield


@pytest.mark.usefixtures("by_message")
def test_the_kernel_gets_msi_and_the_device_goes_through_its_iommu(scene: Scene) -> None:
    first, *done, kernel = scene.run("vfio", f"identity interrupts 1 factorial 11 {COPY} kernel")
    assert first == IDENTITY
    assert done == ["factorial 39916800 by interrupt", *COPIED_BY_INTERRUPT]
    assert "PCI-MSI" in kernel
    assert "vfio-msi[0]" in kernel


@pytest.mark.usefixtures("by_message")
def test_each_cause_sends_one_message_and_none_again(scene: Scene) -> None:
    """The difference from the pin: what is not acknowledged says nothing more."""
    steps = f"raise 4 wait raise 8 wait {SHORT} wait acknowledge 0xc wait"
    assert scene.run("vfio", steps) == [
        "arrived 1 cause 4",
        "arrived 1 cause c",
        "arrived 0 cause c",
        "arrived 0 cause 0",
    ]


@pytest.mark.usefixtures("by_message")
def test_no_message_leaves_a_device_without_bus_mastering(scene: Scene) -> None:
    steps = f"command 2 raise 1 {SHORT} wait acknowledge 1 command 6 {LONG} raise 2 wait"
    assert scene.run("vfio", steps) == ["arrived 0 cause 1", "arrived 1 cause 2"]


@pytest.mark.usefixtures("by_message")
def test_what_the_iommu_does_not_show_is_out_of_the_devices_reach(scene: Scene) -> None:
    """Memory is there at 1 MiB, but the program has not mapped it."""
    before = scene.counter("dma_read_bytes")
    done = scene.run("vfio", f"address 0x100000 send 16 interrupts 1 {SHORT} send 16")
    assert done == ["send by polling", "send no interrupt"]
    assert scene.counter("dma_read_bytes") == before
    assert scene.run("vfio", "send 16") == ["send by polling"]  # the control: its own page it has
    assert scene.counter("dma_read_bytes") == before + 16


# --- negative controls ------------------------------------------------------------------------------------------


def test_an_edu_that_is_wrong_in_everything_is_noticed(scene: Scene) -> None:
    with scene.driven("uio_pci_generic", WRONG):
        done = scene.run("uio", f"identity invert 1 {COPY} interrupts 1 {SHORT} factorial 5 send 16", WRONG)
    assert done == [
        IDENTITY,
        "invert 00000001",
        *("send by polling", "receive by polling", "compare differs at 0"),
        *("factorial 121 no interrupt", "send no interrupt"),
    ]


def test_a_program_that_cannot_hold_its_device_says_why(scene: Scene) -> None:
    with pytest.raises(GuestCommandError, match=r"/uio: No such file or directory"):
        scene.run("uio", "identity")
    with pytest.raises(GuestCommandError, match="no such edu"):
        scene.run("resource", "identity", 2)


# --- the guest's IOMMU, over a reset (the last one: it boots the guest anew) ------------------------------------


def test_a_reset_leaves_nothing_of_what_the_iommu_showed(scene: Scene) -> None:
    """QEMU then unmaps all of the address space in large pieces, which are no mappings that it made."""
    begun = scene.counter("dma_read_bytes")
    scene.bind("vfio-pci")
    scene.guest.run(f"/bin/edu_program vfio 0 {LONG} send 4096 wait >/dev/null 2>&1 </dev/null &")
    eventually(lambda: scene.counter("dma_read_bytes") == begun + 4096, 20)
    scene.guest.reset()
    scene.load()
    scene.run("resource", f"address {IOVA:#x} send 16")
    assert scene.counter("dma_read_bytes") == begun + 4096
    with scene.driven("vfio-pci"):
        assert scene.run("vfio", COPY)[-1] == "compare same 4096"
