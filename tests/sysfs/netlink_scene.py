"""A program for a network namespace of its own: libudev's listeners hear what `UdevSender` sends. Prints JSON."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

from mdev_user.sysfs.netlink import NotPermitted, UdevSender
from mdev_user.sysfs.uevents import Uevent, murmur_hash, udev_message
from sysfs.udev_listener import UdevListener

MDEV = "/devices/virtual/mtty/mtty/83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
UEVENTS = (
    Uevent("add", MDEV, "mdev"),
    Uevent("add", "/devices/virtual/vfio/0", "vfio", {"DEVNAME": "vfio/0"}),
    Uevent("add", f"{MDEV}/vfio-dev/vfio0", "vfio-dev"),
    Uevent("bind", MDEV, "mdev", {"DRIVER": "mtty", "DEVTYPE": "card", "TAGS": ":here:"}),
    Uevent("add", "/bus/mdev/drivers/mtty", "drivers"),
    Uevent("add", "/module/mtty", "module"),
    Uevent("add", "/class/mtty", "class"),
)
"""Numbered from 1."""
SUBSYSTEMS = sorted({each.subsystem for each in UEVENTS})
WRONG = 100
"""The number of an ``add`` of an mdev whose header has the hash of another subsystem."""
MANY = 1000
SECONDS = 20.0


def messages() -> list[bytes]:
    told = [udev_message(uevent, number) for number, uevent in enumerate(UEVENTS, 1)]
    wrong = udev_message(UEVENTS[0], WRONG)
    return [*told, wrong[:24] + murmur_hash(b"net").to_bytes(4, "big") + wrong[28:]]


def heard_by_libudev(sender: UdevSender) -> dict[str, list[dict[str, str]]]:
    listeners = {
        "all": UdevListener(),
        "devtype card": UdevListener("mdev", "card"),
        "devtype other": UdevListener("mdev", "other"),
        "tag here": UdevListener(tag="here"),
        "tag there": UdevListener(tag="there"),
        **{each: UdevListener(each) for each in SUBSYSTEMS},
    }
    for message in messages():
        sender.send(message)
    return {name: listener.heard() for name, listener in listeners.items()}


def heard_in_a_flood(sender: UdevSender) -> dict[str, int]:
    """How many of MANY messages one hears that reads, and one that does not and has little room."""
    diligent, lazy = UdevListener(), UdevListener(room=4096)
    heard = 0
    for number in range(1, MANY + 1):
        sender.send(udev_message(UEVENTS[0], number))
        if number % 50 == 0:
            heard += len(diligent.heard())
    assert lazy.heard() == []  # its socket says ENOBUFS first
    return {"diligent": heard, "lazy": len(lazy.heard())}


def printed_by_udevadm(sender: UdevSender) -> str:
    """What ``udevadm monitor`` with a filter prints."""
    with subprocess.Popen(
        ["udevadm", "monitor", "--udev", "--property", "--subsystem-match=mdev"], stdout=subprocess.PIPE, text=True
    ) as monitor:
        _wait_until_read(monitor.pid)
        for message in messages():
            sender.send(message)
        _wait_until_read(monitor.pid)
        monitor.send_signal(signal.SIGTERM)
        return monitor.communicate(timeout=SECONDS)[0]


def _wait_until_read(pid: int) -> None:
    """Until the process listens to the udev group and has nothing left to read (columns Groups and Rmem)."""
    deadline = monotonic() + SECONDS
    while monotonic() < deadline:
        rows = [line.split() for line in Path("/proc/self/net/netlink").read_text().splitlines()]
        if any(row[1:5] == ["15", str(pid), "00000002", "0"] for row in rows):
            return
        sleep(0.01)
    raise TimeoutError("udevadm does not listen, or does not read")


def is_refused(sender: UdevSender) -> bool | None:
    """Whether an ordinary user may not send; None where there is no other user (in a user namespace)."""
    try:
        os.setuid(65534)
    except OSError:
        return None
    try:
        sender.send(messages()[0])
    except NotPermitted:
        return True
    return False


def main() -> None:
    sender = UdevSender()
    sender.send(messages()[0])  # nobody listens
    found: dict[str, object] = {"libudev": heard_by_libudev(sender)}
    found["flood"] = heard_in_a_flood(sender)
    if "udevadm" in sys.argv:
        found["udevadm"] = printed_by_udevadm(sender)
    found["refused"] = is_refused(sender)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
