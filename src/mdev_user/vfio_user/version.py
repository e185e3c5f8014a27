"""VERSION: what two sides of a connection tell each other about themselves, as JSON from a stranger.

Source: QEMU's ``docs/interop/vfio-user.rst``, "VFIO_USER_VERSION". QEMU reads the reply into the buffer of its own
request, 214 bytes: a longer reply fails the device.
"""

from dataclasses import dataclass
from struct import Struct
from typing import Annotated, Self

import msgspec

from mdev_user.errors import GuestError
from mdev_user.vfio_user.framing import HEADER, LARGEST_DATA, MOST_FDS

MAJOR, MINOR = 0, 1
LARGEST_VERSION = 4096
"""Bytes of a VERSION message that we take; QEMU's has 214."""
LARGEST_REPLY = 214

_NUMBERS = Struct("=HH")


class Capabilities(msgspec.Struct, frozen=True):
    """What a side can take; the defaults are those of the specification for what is not said."""

    max_msg_fds: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 1
    max_data_xfer_size: Annotated[int, msgspec.Meta(ge=1)] = 1 << 20
    max_dma_maps: Annotated[int, msgspec.Meta(ge=1)] = 65535
    pgsizes: Annotated[int, msgspec.Meta(ge=4096, multiple_of=4096)] = 4096
    write_multiple: bool = False


OURS = Capabilities(max_msg_fds=MOST_FDS, max_data_xfer_size=LARGEST_DATA, write_multiple=True)


class _Text(msgspec.Struct, frozen=True):
    capabilities: Capabilities = Capabilities()


_decoder = msgspec.json.Decoder(_Text)


@dataclass(frozen=True, slots=True)
class Version:
    """VERSION, request and reply alike."""

    capabilities: Capabilities = OURS
    major: int = MAJOR
    minor: int = MINOR

    def encode(self) -> bytes:
        """At most 214 bytes with the header for `OURS` and any capabilities of that size."""
        return _NUMBERS.pack(self.major, self.minor) + msgspec.json.encode(_Text(self.capabilities)) + b"\0"

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        if len(payload) < _NUMBERS.size or len(payload) > LARGEST_VERSION - HEADER.size:
            raise GuestError(f"VERSION with {len(payload)} bytes: expected 4 to {LARGEST_VERSION - HEADER.size}")
        major, minor = _NUMBERS.unpack_from(payload)
        if major != MAJOR:
            raise GuestError(f"VERSION {major}.{minor}: expected {MAJOR}.x")
        return cls(_capabilities(payload[_NUMBERS.size :]), major, minor)

    def answer(self, capabilities: Capabilities) -> "Version":
        """Our reply to this proposal: the lower minor, our limits, and no capability that was not proposed."""
        write_multiple = capabilities.write_multiple and self.capabilities.write_multiple
        ours = msgspec.structs.replace(capabilities, write_multiple=write_multiple)
        return Version(ours, MAJOR, min(self.minor, MINOR))


def _capabilities(text: bytes) -> Capabilities:
    if not text:
        return Capabilities()
    if not text.endswith(b"\0"):
        raise GuestError("VERSION: the JSON text does not end in a NUL byte")
    try:
        return _decoder.decode(text[:-1]).capabilities
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise GuestError(f"VERSION: bad JSON: {error}") from error
