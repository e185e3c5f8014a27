"""The 3D commands have the sizes and places of <linux/virtio_gpu.h>."""

from struct import pack, unpack

import pytest

from mdev_user.drivers.vgpu.virgl import commands as c
from mdev_user.drivers.vgpu.virgl.capsets import Capset


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        (0x108, 8),
        (0x109, 8),
        (0x200, 72),
        (0x201, 0),
        (0x202, 8),
        (0x203, 8),
        (0x204, 48),
        (0x205, 48),
        (0x206, 48),
        (0x207, 8),
    ],
)
def test_sizes(kind: int, size: int) -> None:
    form, made = c.FORMS[kind]
    assert form.size == size
    assert len(form.unpack(bytes(size))) == len(made._fields)


def test_no_other_command_is_one_of_3d() -> None:
    assert set(c.FORMS) == {0x108, 0x109, *range(0x200, 0x208)}


def test_places() -> None:
    form, made = c.FORMS[0x205]
    told = made(*form.unpack(pack("<6IQ4I", 1, 2, 3, 4, 5, 6, 1 << 40, 8, 9, 10, 11)))
    assert told == c.TransferToHost3d(1, 2, 3, 4, 5, 6, 1 << 40, 8, 9, 10, 11)
    assert (told.offset, told.resource, told.level, told.stride, told.layer_stride) == (1 << 40, 8, 9, 10, 11)
    form, made = c.FORMS[0x204]
    created = made(*form.unpack(pack("<12I", *range(1, 13))))
    assert (created.resource, created.array_size, created.samples, created.flags) == (1, 8, 10, 11)
    form, made = c.FORMS[0x200]
    assert made(*form.unpack(pack("<2I64s", 3, 2, b"abc"))).name[:3] == b"abc"


def test_capset_info() -> None:
    assert unpack("<4I", c.capset_info(Capset(2, 3, bytes(1376)))) == (2, 3, 1376, 0)
    assert bytes(16) == c.NO_CAPSET
