"""What a test and its host say to each other besides the control API: one request and one answer at a time."""

from msgspec import Struct

from mdev_user.testing.hosts.faults import AnyFault

LARGEST = 128 * 1024
"""Bytes of a packet; see `mdev_user.host.wire.LARGEST`."""


class Birth(Struct, frozen=True):
    """What a host is to be like; in a file, since an environment may be longer than a packet."""

    pid: int
    """Of the test's process, which the host must not outlive."""
    path: list[bytes]
    """sys.path."""
    environment: dict[bytes, bytes]


class Born(Struct, frozen=True, tag_field="answer"):
    """The host's first words: it is ready, in this folder."""

    folder: str
    pid: int
    number: int
    """Of the last uevent so far."""


class Done(Struct, frozen=True, tag_field="answer"):
    """What was asked for has been done."""

    number: int = 0
    faults: list[AnyFault] = []


class Failed(Struct, frozen=True, tag_field="answer"):
    """It has not; ``kind`` is the class of the error."""

    kind: str
    text: str


class Arm(Struct, frozen=True, tag_field="request"):
    """Let a fault happen from now on."""

    fault: AnyFault


class Clear(Struct, frozen=True, tag_field="request"):
    """Forget a fault, or all."""

    fault: AnyFault | None


class CountHits(Struct, frozen=True, tag_field="request"):
    """Answer: `Done.number`."""

    fault: AnyFault


class ListWaiting(Struct, frozen=True, tag_field="request"):
    """Answer: `Done.faults`."""


class Resize(Struct, frozen=True, tag_field="request"):
    """Let a parent have so much of its pools, or so many instances."""

    parent: str
    totals: dict[str, int]


class Die(Struct, frozen=True, tag_field="request"):
    """Let the host of a parent end as if it were killed."""

    parent: str


class Reset(Struct, frozen=True, tag_field="request"):
    """Remove every mdev and parent, and forget every fault."""


Request = Arm | Clear | CountHits | ListWaiting | Resize | Die | Reset
Answer = Born | Done | Failed
