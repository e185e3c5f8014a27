"""Target: the JSON of VERSION, and what a connection agrees on because of it."""

import json
from collections.abc import Sequence
from random import Random

from fuzz import mutation
from fuzz.target import Target, expect
from mdev_user.errors import GuestError
from mdev_user.vfio_user.framing import HEADER
from mdev_user.vfio_user.version import LARGEST_REPLY, LARGEST_VERSION, OURS, Version

_NAMES = ("max_msg_fds", "max_data_xfer_size", "max_dma_maps", "pgsizes", "write_multiple", "migration", "else")


def one(data: bytes) -> None:
    try:
        version = Version.decode(data)
    except GuestError:
        return
    capabilities = version.capabilities
    expect(version.major == 0, f"accepted version {version.major}")
    expect(len(data) <= LARGEST_VERSION - HEADER.size, f"accepted {len(data)} bytes")
    expect(len(data) == 4 or data.endswith(b"\0"), "accepted a text without its NUL")
    expect(0 <= capabilities.max_msg_fds <= 1024, f"max_msg_fds {capabilities.max_msg_fds}")
    expect(capabilities.max_data_xfer_size >= 1, f"max_data_xfer_size {capabilities.max_data_xfer_size}")
    expect(capabilities.max_dma_maps >= 1, f"max_dma_maps {capabilities.max_dma_maps}")
    expect(capabilities.pgsizes >= 4096 and capabilities.pgsizes % 4096 == 0, f"pgsizes {capabilities.pgsizes}")
    answer = version.answer(OURS)
    expect(answer.minor <= version.minor, f"minor {answer.minor} for {version.minor}")
    expect(HEADER.size + len(answer.encode()) <= LARGEST_REPLY, "a reply that QEMU cannot take")
    expect(Version.decode(version.encode()) == version, f"{version} changes when it is encoded")


def mutate(data: bytes, chance: Random) -> bytes:
    """A capability more, less or of another kind; else other bytes."""
    try:
        text = json.loads(data[4:-1])
        capabilities = text["capabilities"]
        capabilities[chance.choice(_NAMES)] = _value(chance)
    except (ValueError, KeyError, TypeError, RecursionError):
        return mutation.mutated(data, chance)
    if chance.randrange(4) == 0:
        capabilities.pop(chance.choice(_NAMES), None)
    return data[:4] + json.dumps(text).encode() + b"\0"


def _value(chance: Random) -> object:
    values: tuple[object, ...] = (
        mutation.number(chance),
        -1,
        0.5,
        1e400,
        None,
        True,
        "1",
        [],
        {},
        {"max_bitmap_size": 8},
        1 << 80,
    )
    return chance.choice((mutation.number(chance), 1, 8, 4096, *values))


def seeds() -> Sequence[bytes]:
    texts: list[object] = [
        {},
        {"capabilities": {}},
        {"capabilities": {"max_msg_fds": 8, "max_data_xfer_size": 1048576, "pgsizes": 4096, "max_dma_maps": 65535}},
        {"capabilities": {"write_multiple": True, "migration": {"pgsize": 4096, "max_bitmap_size": 256}}},
    ]
    heads = (b"\0\0\0\0", b"\0\0\1\0", b"\1\0\0\0")
    return [heads[0], *(head + json.dumps(text).encode() + b"\0" for head in heads for text in texts)]


TARGET = Target("version", "the JSON of VERSION", one, seeds, ("mdev_user.vfio_user.version",), mutate)
