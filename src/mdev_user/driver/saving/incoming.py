# ruff: noqa: SLF001 - a device and its units are the framework's own
"""Incoming: the stream of another device, checked as it comes, and what an open and stopped device becomes at its end.

Nothing in it is believed. Memory is put where it belongs as it comes, all else is checked when it is there and taken
over at the end; a device that does not take it over is as it was, its memory included.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from mdev_user.driver.saving import transfer
from mdev_user.driver.saving.header import Header, check_header, decoded_header, header_of, in_order
from mdev_user.driver.saving.landing import Collected, InPlace, Landing
from mdev_user.driver.saving.outgoing import PAGES
from mdev_user.driver.saving.pages import RUN, memory_bytes, places_of
from mdev_user.driver.saving.records import FORMAT, PREFIX, Kind, Reader
from mdev_user.driver.saving.snapshot import FORMAT as FORMAT_IN_ONE_PIECE
from mdev_user.driver.saving.snapshot import MAGIC, from_body, largest
from mdev_user.errors import StateError

if TYPE_CHECKING:
    from mdev_user.driver.device import Device


class DeviceIncoming:
    """What takes a stream for a declared device; of any format that there was."""

    def __init__(self, device: "Device") -> None:
        self._device = device
        self._prefix = bytearray()
        self._taker: _Piece | _Records | None = None

    def write(self, data: bytes) -> None:
        self._device._runner()  # it was closed, or its driver was replaced
        view = memoryview(data)
        if self._taker is None:
            missing = PREFIX.size - len(self._prefix)
            self._prefix += view[:missing]
            view = view[missing:]
            self._taker = self._begun()
        if self._taker is not None:
            self._taker.write(view)

    def finish(self) -> None:
        self._device._runner()
        if self._taker is None:
            raise StateError(f"migration stream: it ends after {len(self._prefix)} bytes")
        self._taker.finish()

    def close(self) -> None:
        if self._taker is not None:
            self._taker.close()

    def _begun(self) -> "_Piece | _Records | None":
        given = bytes(self._prefix)
        if not MAGIC.startswith(given[: len(MAGIC)]):
            raise StateError(f"migration stream: expected it to begin with {MAGIC!r}, given {given[:8]!r}")
        if len(given) < PREFIX.size:
            return None
        _magic, number = PREFIX.unpack(given)
        if number == FORMAT:
            return _Records(self._device)
        if number == FORMAT_IN_ONE_PIECE:
            return _Piece(self._device, given)
        raise StateError(
            f"migration stream: format {number}: expected at most {FORMAT}: it is of a newer mdev-user; update this one"
        )


class _Piece:
    """A state as `Device.save` gives it: it can be looked at when it is all there."""

    def __init__(self, device: "Device", prefix: bytes) -> None:
        self._device, self._data = device, bytearray(prefix)
        self._most = largest(memory_bytes(places_of(device)))

    def write(self, data: memoryview) -> None:
        if len(self._data) + len(data) > self._most:
            raise StateError(f"saved state: expected at most {self._most} bytes, given more")
        self._data += data

    def finish(self) -> None:
        transfer.load(self._device, bytes(self._data))

    def close(self) -> None:
        self._data.clear()


class _Records:
    """A stream of records."""

    def __init__(self, device: "Device") -> None:
        self._device = device
        self._places = places_of(device)
        self._own = header_of(type(device.function), device.function.profile, self._places)
        self._reader = Reader()
        self._header: Header | None = None
        self._landing: Landing | None = None
        self._prepared: transfer.Prepared | None = None
        self._take_memory: Callable[[], None] = _nothing
        self._ended = self._finished = False

    def write(self, data: memoryview) -> None:
        for kind, payload in self._reader.feed(data):
            if self._ended:
                raise StateError("migration stream: it goes on after its end")
            if (self._header is None) is not (kind is Kind.HEADER):
                raise StateError(f"migration stream: expected one HEADER, and it first; given {kind.name}")
            if kind is not Kind.NOTHING:
                _TAKES[kind](self, payload)

    def finish(self) -> None:
        if not self._ended or self._prepared is None:
            raise StateError("migration stream: it is cut off: there is no END")
        if self._reader.midway:
            raise StateError("migration stream: it goes on after its end")
        self._prepared.take_over(self._take_memory)
        self._finished = True

    def close(self) -> None:
        if self._landing is not None and not self._finished:
            self._landing.undo()
        self._landing = None

    def _begin(self, payload: memoryview) -> None:
        header = decoded_header(payload)
        check_header(header, self._own)
        if header.version == self._own.version:
            self._landing = InPlace(in_order(header, self._places))
        else:
            self._landing = Collected(header.memories, memory_bytes(self._places))
        self._header = header

    def _put(self, payload: memoryview) -> None:
        if self._landing is None or self._prepared is not None:
            raise StateError("migration stream: PAGES after the STATE")
        if len(payload) < PAGES.size:
            raise StateError(f"migration stream: PAGES of {len(payload)} bytes")
        number, count = PAGES.unpack_from(payload)
        begin = PAGES.size + count * RUN.size
        if begin > len(payload):
            raise StateError(f"migration stream: PAGES of {len(payload)} bytes, and {count} runs")
        self._landing.put(number, payload[PAGES.size : begin], payload[begin:])

    def _prepare(self, payload: memoryview) -> None:
        stream, header, landing = from_body(payload), self._header, self._landing
        if self._prepared is not None or header is None or landing is None:
            raise StateError("migration stream: a second STATE")
        if (stream.driver, stream.version) != (header.driver, header.version) or stream.memory:
            raise StateError("migration stream: its STATE is not of its HEADER")
        stream = replace(stream, memory=landing.collected())
        stream = transfer.upgraded_to(self._device, stream)
        if isinstance(landing, Collected):
            self._take_memory = transfer.memory_taker(self._places, stream.memory)
        else:
            self._take_memory = landing.finish
        self._prepared = transfer.Prepared(self._device, stream)

    def _end(self, _payload: memoryview) -> None:
        if self._prepared is None:
            raise StateError("migration stream: it ends without a STATE")
        self._ended = True


# Of the class: a stream that refers to itself keeps the device's memory until Python looks for such things.
_TAKES: dict[Kind, Callable[[_Records, memoryview], None]] = {
    Kind.HEADER: _Records._begin,
    Kind.PAGES: _Records._put,
    Kind.STATE: _Records._prepare,
    Kind.END: _Records._end,
}


def _nothing() -> None:
    """There is no memory yet."""
