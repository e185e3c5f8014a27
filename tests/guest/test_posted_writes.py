"""QEMU posts a guest's writes to a device that has no region to map, and puts them together when it is behind."""

from pathlib import Path

import pytest

from guest.compiler import compile_static
from mdev_user.drivers.edu import Card
from mdev_user.guests.arguments import device_arguments
from mdev_user.guests.rig import Rig
from mdev_user.guests.vm import Guest
from mdev_user.testing.local import LocalHost
from mdev_user.vfio_user import messages as m
from mdev_user.vfio_user.long_requests import LongRequests, Steps

pytestmark = pytest.mark.guest

TIMES = 12_000


def test_every_write_of_a_flood_arrives_in_order(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together: list[int] = []
    write_multi = LongRequests._write_multi

    def counted(self: LongRequests, request: m.RegionWriteMulti) -> Steps:
        together.append(len(request.writes))
        return write_multi(self, request)

    monkeypatch.setattr(LongRequests, "_write_multi", counted)
    compile_static(Path(__file__).parent / "flood_program.c", tmp_path / "flood")
    with LocalHost() as host:
        mdev = host.create(host.bus.register_parent("edu", Card()), "edu-1")
        devices = device_arguments(host.socket(mdev))
        with Guest(rig, files={"/bin/flood": (tmp_path / "flood").read_bytes()}, arguments=devices) as guest:
            counters = host.endpoint(mdev).device.counters
            before = counters.writes
            said = guest.run(f"""
                chmod +x /bin/flood
                /bin/flood $(dirname $(grep -l 0x11e8 /sys/bus/pci/devices/*/device)) {TIMES}
            """)
        assert said.strip() == str(TIMES)
        assert counters.writes - before >= TIMES  # the guest writes the config space, too
        assert counters.guest_errors == 0
    assert together, "QEMU put none together: the device was faster than the guest"
    assert max(together) > 1
