"""The capability chain of a REGION_INFO: which parts of it may be mapped, and what a device-specific region is.

Structures of Linux's ``include/uapi/linux/vfio.h``: each begins with a header of id, version and the next one's offset
from the start of the whole answer. A chain that is decoded comes from a hostile server: it may loop, or leave the
message.
"""

from collections.abc import Iterator, Sequence
from struct import Struct

from mdev_user.errors import GuestError
from mdev_user.vfio.requests import Area, RegionType

_HEADER = Struct("=HHI")
_SPARSE = Struct("=II")
_AREA = Struct("=QQ")
_TYPE = Struct("=II")

_SPARSE_MMAP, _REGION_TYPE = 1, 2
_MOST_AREAS = 1024


def chain_size(areas: Sequence[Area], kind: RegionType | None) -> int:
    """Bytes of the chain; 0 for none."""
    return sum(_HEADER.size + len(body) for _id, body in _bodies(areas, kind))


def encode_chain(areas: Sequence[Area], kind: RegionType | None, at: int) -> bytes:
    """The chain that begins ``at`` bytes into the answer."""
    links: list[bytes] = []
    bodies = list(_bodies(areas, kind))
    for number, (identity, body) in enumerate(bodies, 1):
        at += _HEADER.size + len(body)
        links += [_HEADER.pack(identity, 1, at if number < len(bodies) else 0), body]
    return b"".join(links)


def decode_chain(payload: bytes, at: int) -> tuple[tuple[Area, ...], RegionType | None]:
    """The areas and the type in the chain that begins at ``at``; GuestError (EINVAL) for a bent one."""
    areas: tuple[Area, ...] = ()
    kind: RegionType | None = None
    for identity, body in _links(payload, at):
        if identity == _SPARSE_MMAP and not areas:  # each of many could have as many as there can be
            areas = _decode_areas(payload, body)
        elif identity == _REGION_TYPE:
            kind = _decode_type(payload, body)
    return areas, kind


def _bodies(areas: Sequence[Area], kind: RegionType | None) -> Iterator[tuple[int, bytes]]:
    if areas:
        packed = (_AREA.pack(area.offset, area.size) for area in areas)
        yield _SPARSE_MMAP, b"".join((_SPARSE.pack(len(areas), 0), *packed))
    if kind is not None:
        yield _REGION_TYPE, _TYPE.pack(kind.type, kind.subtype)


def _links(payload: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Of each capability its id, and where what follows the header begins."""
    seen = 0
    while at:
        if at < seen + _HEADER.size or at + _HEADER.size > len(payload):
            raise GuestError(f"capability at {at}: expected chained forward within {len(payload)} bytes")
        identity, _version, following = _HEADER.unpack_from(payload, at)
        yield identity, at + _HEADER.size
        at, seen = following, at


def _decode_areas(payload: bytes, at: int) -> tuple[Area, ...]:
    if at + _SPARSE.size > len(payload):
        raise GuestError("the SPARSE_MMAP capability is cut off")
    count, _reserved = _SPARSE.unpack_from(payload, at)
    first = at + _SPARSE.size
    if count > _MOST_AREAS or first + count * _AREA.size > len(payload):
        raise GuestError(f"SPARSE_MMAP with {count} areas does not lie in {len(payload)} bytes")
    return tuple(Area(*_AREA.unpack_from(payload, first + i * _AREA.size)) for i in range(count))


def _decode_type(payload: bytes, at: int) -> RegionType:
    if at + _TYPE.size > len(payload):
        raise GuestError("the TYPE capability is cut off")
    return RegionType(*_TYPE.unpack_from(payload, at))
