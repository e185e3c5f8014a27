"""What the fuzzers have found, each kept as the input that showed it."""

import struct

import pytest

from fuzz.targets import target_of
from mdev_user.errors import GuestError
from mdev_user.vfio_user.messages import DeviceFeature

FOUND = {
    "an unknown flag of DEVICE_FEATURE was let through": ("codec", "0e0800000001000104"),
}


@pytest.mark.parametrize("name", FOUND)
def test_finding_is_none_any_more(name: str) -> None:
    target, data = FOUND[name]
    target_of(target).one(bytes.fromhex(data))


@pytest.mark.parametrize("flag", [1 << 19, 1 << 26, 1 << 31])
def test_unknown_flags_of_a_feature_are_refused(flag: int) -> None:
    """To complement an IntFlag gives its other members, and no others: the check let every unknown bit pass."""
    with pytest.raises(GuestError, match="flags"):
        DeviceFeature.decode(struct.pack("=II", 8, 1 << 16 | 1 | flag))
