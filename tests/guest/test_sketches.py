"""The queue devices of the sketches in a real guest, with the stock drivers of its Linux."""

import lzma
from collections.abc import Iterator
from pathlib import Path

import pytest

from mdev_user.guests.rig import Rig
from mdev_user.guests.vm import Guest
from mdev_user.testing.daemon import RunningDaemon

pytestmark = pytest.mark.guest

SKETCHES = Path(__file__).parents[1] / "sketches"
RNG = "kernel/drivers/char/hw_random/virtio-rng.ko.xz"


@pytest.fixture(scope="module")
def host() -> Iterator[RunningDaemon]:
    parents = [f"{SKETCHES}/virtio_rng.py:{kind},name={kind.lower()}" for kind in ("Card", "VectoredCard")]
    with RunningDaemon(*parents, f"{SKETCHES}/nvme.py:Card,name=nvme") as running:
        yield running


@pytest.fixture(scope="module")
def guest(rig: Rig, host: RunningDaemon) -> Iterator[Guest]:
    mdevs = [
        host.create("rng-small", parent="card"),
        host.create("rng-small", parent="vectoredcard"),
        host.create("disk-4m", parent="nvme"),
    ]
    files = {"virtio-rng.ko": lzma.decompress((rig.modules / RNG).read_bytes())}
    with Guest(rig, map(host.run_dir.socket, mdevs), files=files) as booted:
        booted.run("insmod /virtio-rng.ko")
        yield booted


def test_look(guest: Guest, host: RunningDaemon) -> None:
    print(guest.attempt("cat /sys/class/misc/hw_random/rng_available; ls /sys/bus/virtio/devices /dev/nvme*; cat /proc/interrupts; dmesg | tail -40; timeout 5 dd if=/dev/hwrng bs=64 count=4 | hexdump -C").output.decode())
    print(host.log[-3000:])
    assert 0
