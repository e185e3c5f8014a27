"""Queue devices in a real guest, driven by its Linux's own drivers: the shipped virtio-rng, and the sketch of nvme."""

import lzma
from collections.abc import Iterator
from pathlib import Path

import pytest

from mdev_user.guests.rig import Rig
from mdev_user.guests.vm import Guest
from mdev_user.testing.daemon import RunningDaemon

SKETCHES = Path(__file__).parents[1] / "sketches"
PINNED = Path(__file__).parent / "pinned_rng.py"
RNG = "kernel/drivers/char/hw_random/virtio-rng.ko.xz"
"""The nvme driver is a part of the rig's kernel."""


@pytest.fixture(scope="module")
def host() -> Iterator[RunningDaemon]:
    with RunningDaemon("virtio-rng", f"{PINNED}:Card,name=pinned", f"{SKETCHES}/nvme.py:Card,name=nvme") as running:
        yield running


@pytest.fixture(scope="module")
def guest(rig: Rig, host: RunningDaemon) -> Iterator[Guest]:
    types = {"pinned": "pinned-rng-small", "virtio-rng": "virtio-rng-small", "nvme": "disk-4m"}
    mdevs = [host.create(mdev_type, parent=parent) for parent, mdev_type in types.items()]
    files = {"virtio-rng.ko": lzma.decompress((rig.modules / RNG).read_bytes())}
    with Guest(rig, map(host.run_dir.socket, mdevs), files=files) as booted:
        booted.run("insmod /virtio-rng.ko")
        yield booted


def interrupts(guest: Guest, name: str) -> int:
    """How often the guest's kernel counted the interrupts of this name."""
    lines = guest.run("cat /proc/interrupts").splitlines()
    return sum(int(line.split()[1]) for line in lines if name in line)


@pytest.mark.parametrize(("source", "line"), [("virtio_rng.0", "virtio0"), ("virtio_rng.1", "virtio1-input")])
def test_stock_virtio_rng_reads_entropy_by_the_pin_and_by_msix(guest: Guest, source: str, line: str) -> None:
    guest.run(f"echo {source} >/sys/class/misc/hw_random/rng_current")
    before = interrupts(guest, line)
    data = guest.attempt("dd if=/dev/hwrng bs=64 count=64 2>/dev/null").output
    assert len(data) == 4096
    assert len({data[at : at + 64] for at in range(0, 4096, 64)}) == 64
    assert interrupts(guest, line) - before >= 60


@pytest.mark.parametrize("device", ["virtio0", "virtio1"])
def test_stock_driver_takes_all_that_the_transport_offers(guest: Guest, device: str) -> None:
    bits = guest.run(f"cat /sys/bus/virtio/devices/{device}/features").strip()
    assert [at for at, bit in enumerate(bits) if bit == "1"] == [28, 29, 32]
    assert guest.run(f"cat /sys/bus/virtio/devices/{device}/status").strip() == "0x0000000f"


def test_stock_nvme_writes_and_reads_the_disk(guest: Guest) -> None:
    before = interrupts(guest, "nvme0q")
    guest.run("dd if=/dev/urandom of=/data bs=4k count=512 2>/dev/null")
    guest.run("dd if=/data of=/dev/nvme0n1 bs=64k oflag=direct 2>/dev/null && sync")
    guest.run("echo 3 >/proc/sys/vm/drop_caches")
    guest.run("dd if=/dev/nvme0n1 of=/again bs=4k count=512 iflag=direct 2>/dev/null && cmp /data /again")
    assert guest.run("cat /sys/class/nvme/nvme0/model").strip() == "mdev-user sketch"
    assert guest.run("cat /sys/block/nvme0n1/size").strip() == "8192"
    assert interrupts(guest, "nvme0q") - before >= 500
    guest.run("rm /data /again")


def test_stock_nvme_resets_its_controller_and_finds_its_data(guest: Guest) -> None:
    guest.run("printf kept | dd of=/dev/nvme0n1 conv=sync,fsync 2>/dev/null")
    guest.run("echo 1 >/sys/class/nvme/nvme0/reset_controller && echo 3 >/proc/sys/vm/drop_caches")
    assert guest.run("dd if=/dev/nvme0n1 bs=4 count=1 2>/dev/null") == "kept"
