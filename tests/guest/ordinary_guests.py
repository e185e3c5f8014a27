"""Two guests of a recent QEMU on two mdevs of one parent, as whoever runs this: one by the legacy API, one by iommufd.

Prints a line for each: by which API, the interrupt of its port, and whether all that it sent came back.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from uuid import UUID

from mdev_user.guests import serial
from mdev_user.guests.arguments import iommufd_arguments, run_command, vfio_arguments
from mdev_user.guests.rig import find_rig
from mdev_user.guests.vm import Guest
from mdev_user.testing.daemon import RunningDaemon

APIS: dict[str, Callable[[UUID], list[str]]] = {"legacy": vfio_arguments, "iommufd": iommufd_arguments}
TIMES = 30


def _talk(api: str, guest: Guest) -> str:
    guest.boot()
    port = serial.ports(guest)[0]
    irq = serial.status(guest, port).irq
    done = serial.converse(guest, port, f"by {api}", TIMES)
    return f"{api}: irq {irq}, {'identical' if done.identical else 'not what was sent'}"


def main() -> None:
    rig = find_rig()
    assert rig is not None
    with RunningDaemon("mtty") as daemon, ExitStack() as stack:
        launcher = run_command(daemon.run_dir.path)
        guests = {
            api: Guest(rig, arguments=arguments(daemon.create("mtty-1")), launcher=launcher)
            for api, arguments in APIS.items()
        }
        for guest in guests.values():
            stack.callback(guest.close)
            guest.start()
        with ThreadPoolExecutor() as executor:
            for line in executor.map(_talk, guests.keys(), guests.values()):
                print(line)


if __name__ == "__main__":
    main()
