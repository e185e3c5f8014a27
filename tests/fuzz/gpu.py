"""Target: what a guest says to vgpu, any bytes in its queues; each command is answered, and what is kept stays sound.

An input is commands one behind the other: a byte that says how long it is, which queue, and whether there is a picture
for it; then its bytes.
"""

from collections.abc import Iterator, Sequence
from struct import pack

from fuzz.target import Target, expect
from mdev_user.drivers.vgpu.card import Card
from mdev_user.testing import Guest
from unit.driver.virtio.ring_driver import BUFFERS
from unit.drivers.vgpu.gpu_driver import (
    ATTACH,
    CREATE,
    DETACH,
    DISPLAY_INFO,
    EDID,
    FLUSH,
    MOVE,
    SCANOUT,
    TRANSFER,
    UNREF,
    UPDATE,
    GpuDriver,
)  # fmt: skip

MOST = 24
"""Commands of an input."""
_LONGEST, _CURSOR = 0x3F, 0x80
"""Of the byte: four bytes more than 24 for each of its size; and the queue."""


def one(data: bytes) -> None:
    with Guest(Card, "GVTg_V5_8") as guest:
        driver = GpuDriver(guest)
        for command, queue in _commands(data):
            answer = driver.send(command, queue=queue)
            expect(len(answer) >= 24, f"{command.hex()} was answered by {len(answer)} bytes")
            expect(driver.is_sound() and not driver.needs_reset, f"after {command.hex()}")


def _commands(data: bytes) -> Iterator[tuple[bytes, int]]:
    at = 0
    for _ in range(MOST):
        if at >= len(data):
            return
        size, queue = 24 + 4 * (data[at] & _LONGEST), bool(data[at] & _CURSOR)
        yield data[at + 1 : at + 1 + size].ljust(24, b"\x00"), int(queue)
        at += 1 + size


def seeds() -> Sequence[bytes]:
    def said(kind: int, form: str = "", *values: int) -> bytes:
        body = pack(f"<{form}", *values)
        size = len(body) // 4 | (_CURSOR if kind >= UPDATE else 0)
        return bytes([size]) + pack("<IIQII", kind, 1, 7, 0, 0) + body

    made = said(CREATE, "4I", 1, 1, 32, 16) + said(ATTACH, "2IQI4x", 1, 1, BUFFERS, 4096)
    shown = made + said(TRANSFER, "4IQI4x", 0, 0, 32, 16, 0, 1) + said(SCANOUT, "6I", 0, 0, 32, 16, 0, 1)
    return [
        said(DISPLAY_INFO) + said(EDID, "I4x", 0),
        shown + said(FLUSH, "5I4x", 0, 0, 32, 16, 1) + said(UNREF, "I4x", 1),
        shown + said(TRANSFER, "4IQI4x", 3, 4, 5, 6, 12, 1) + said(DETACH, "I4x", 1),
        made + said(CREATE, "4I", 2, 2, 64, 64) + said(UNREF, "I4x", 1) + said(CREATE, "4I", 3, 67, 8, 8),
        said(CREATE, "4I", 1, 2, 4096, 4096) + said(CREATE, "4I", 2, 2, 8, 8),  # all of the quota
        made + said(UPDATE, "Iii4xIII4x", 0, 1, 2, 1, 3, 4) + said(MOVE, "Iii4x16x", 0, 5, 6),
    ]


TARGET = Target(
    "gpu",
    "what a guest says to a vgpu",
    one,
    seeds,
    (
        "mdev_user.drivers.vgpu.commands",
        "mdev_user.drivers.vgpu.entries",
        "mdev_user.drivers.vgpu.function",
        "mdev_user.drivers.vgpu.resources",
    ),
)
