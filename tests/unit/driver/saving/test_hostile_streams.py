"""Hostile streams: damaged, cut, foreign or made up; each is refused in words, and the device is as it was."""

import tracemalloc
from collections.abc import Callable, Iterator
from itertools import pairwise
from random import Random
from struct import pack

import msgspec
import pytest

from mdev_user.driver import PAGE, StateError
from mdev_user.driver.saving import landing
from mdev_user.driver.saving.header import Header
from mdev_user.driver.saving.landing import InPlace
from mdev_user.driver.saving.outgoing import PAGES
from mdev_user.driver.saving.records import PREFIX, Kind, Reader
from mdev_user.errors import MdevUserError
from mdev_user.units import MiB
from mdev_user.vfio.migration_states import MigrationState as S
from unit.driver.bench import Bench
from unit.driver.saving.moving import records, sealed, stream_of
from unit.driver.stateful import Machine, in_use, machine

Records = list[tuple[Kind, bytes]]


class Target:
    """A device with a state of its own, which is given streams."""

    def __init__(self) -> None:
        self.bench = Bench(Machine)
        made = machine(self.bench)
        made.total, made.name = 99, "before"
        made.ram[0:3], made.ram[10 * PAGE] = b"own", 7
        made.work(3)
        self.bench.jobs.step()
        self.before = self.bench.device.save()
        self.migration = self.bench.vfio.migration
        self.migration.set_state(S.RESUMING)

    def give(self, stream: bytes, size: int = MiB) -> None:
        for at in range(0, len(stream), size):
            self.migration.write(stream[at : at + size])
        self.migration.set_state(S.STOP)

    def refuses(self, stream: bytes, size: int = MiB) -> str:
        """Why it does; it is as it was, and can be given another one."""
        with pytest.raises(StateError) as caught:
            self.give(stream, size)
        assert self.migration.state is S.RESUMING
        assert self.bench.device.save() == self.before
        return str(caught.value)


@pytest.fixture
def target() -> Iterator[Target]:
    target = Target()
    yield target
    target.bench.close()


@pytest.fixture(scope="module")
def stream() -> bytes:
    bench = in_use()
    stream = stream_of(bench)
    bench.close()
    return stream


def boundaries(stream: bytes) -> list[int]:
    ends, at = [PREFIX.size], PREFIX.size
    for _kind, payload in records(stream):
        at += 12 + len(payload)
        ends.append(at)
    assert ends[-1] == len(stream)
    return ends


def test_good_stream_is_taken(target: Target, stream: bytes) -> None:
    """Or none of the refusals below would mean anything."""
    target.give(stream)
    assert machine(target.bench).total == 7
    assert target.bench.device.save() != target.before


def test_stream_that_is_cut_anywhere_is_refused(target: Target, stream: bytes) -> None:
    ends = boundaries(stream)
    cuts = {at + more for at in ends for more in (-1, 0, 1, 12, 13)} | set(range(0, len(stream), 997))
    for end in sorted(each for each in cuts if each < len(stream)):
        assert "migration stream: it" in target.refuses(stream[:end]), end


def test_bytes_behind_the_end_are_told_as_such(target: Target, stream: bytes) -> None:
    assert "goes on after its end" in target.refuses(stream + b"xx")


def test_every_kind_of_damage_is_found(target: Target, stream: bytes) -> None:
    places = {at + more for at in [0, *boundaries(stream)[:-1]] for more in range(12)}
    places |= set(range(0, len(stream), 211))
    for place in sorted(places - {len(stream)}):
        damaged = bytearray(stream)
        damaged[place] ^= 1 << place % 8
        target.refuses(bytes(damaged))


def test_damage_would_be_loaded_without_the_checksum(
    target: Target, stream: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    monkeypatch.setattr(Reader, "_checked", lambda _self, record: (Kind(record[0]), record[12:]))
    damaged = bytearray(stream)
    damaged[boundaries(stream)[2] - 1] ^= 1
    target.give(bytes(damaged))
    assert target.bench.device.save() != target.before


def test_page_of_a_refused_stream_would_stay_without_the_undo(
    target: Target, stream: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    monkeypatch.setattr(InPlace, "undo", lambda _self: None)
    with pytest.raises(AssertionError):
        target.refuses(stream[:-1])


def state(given: Records, **changes: object) -> bytes:
    """The STATE record's payload, with some of it changed."""
    values = msgspec.msgpack.decode(dict(given)[Kind.STATE])
    return msgspec.msgpack.encode({**values, **changes})


def header(given: Records, **changes: object) -> tuple[Kind, bytes]:
    values = msgspec.msgpack.decode(dict(given)[Kind.HEADER])
    return Kind.HEADER, msgspec.msgpack.encode({**values, **changes})


def page(number: int, first: int, count: int, size: int | None = None) -> tuple[Kind, bytes]:
    data = b"\x55" * (count * PAGE if size is None else size)
    return Kind.PAGES, PAGES.pack(number, 1) + pack("<QQ", first, count) + data


Made = Callable[[Records], Records]
BAD: dict[str, tuple[Made, str]] = {
    "no HEADER": (lambda r: r[1:], "expected one HEADER"),
    "two HEADERs": (lambda r: [r[0], *r], "expected one HEADER"),
    "no STATE": (lambda r: [each for each in r if each[0] is not Kind.STATE], "without a STATE"),
    "two STATEs": (lambda r: [*r[:-1], r[-2], r[-1]], "a second STATE"),
    "PAGES after STATE": (lambda r: [*r[:-1], r[1], r[-1]], "PAGES after"),
    "more after END": (lambda r: [*r, r[-1]], "after its end"),
    "no END": (lambda r: r[:-1], "cut off"),
    "END first": (lambda r: [r[0], r[-1]], "without a STATE"),
    "memory that is not there": (lambda r: [r[0], page(1, 0, 1), *r[1:]], "memory 1"),
    "pages behind the end": (lambda r: [r[0], page(0, 63, 2), *r[1:]], "pages 63 to 65"),
    "pages far behind the end": (lambda r: [r[0], page(0, (1 << 64) - 1, 1), *r[1:]], "pages 18446744073709551615"),
    "no pages in a run": (lambda r: [r[0], page(0, 3, 0), *r[1:]], "pages 3 to 3"),
    "fewer bytes than pages": (lambda r: [r[0], page(0, 3, 2, PAGE), *r[1:]], "expected 2 pages"),
    "part of a page": (lambda r: [r[0], page(0, 3, 1, PAGE - 1), *r[1:]], "expected 1 pages"),
    "runs that overlap": (
        lambda r: [r[0], (Kind.PAGES, PAGES.pack(0, 2) + pack("<4Q", 5, 2, 6, 1) + bytes(3 * PAGE)), *r[1:]],
        "pages 6 to 7: expected some from 7",
    ),
    "fewer runs than said": (lambda r: [r[0], (Kind.PAGES, PAGES.pack(0, 9)), *r[1:]], "and 9 runs"),
    "PAGES without anything": (lambda r: [r[0], (Kind.PAGES, b"123"), *r[1:]], "PAGES of 3 bytes"),
    "another driver": (lambda r: [header(r, driver="Other"), *r[1:]], "expected one of Machine, given one of 'Other'"),
    "a newer state": (lambda r: [header(r, version=2), *r[1:]], "update the driver here first"),
    "an older state": (lambda r: [header(r, version=0), *r[1:]], "not of its HEADER"),
    "smaller memory": (lambda r: [header(r, memories=[("ram", 32)]), *r[1:]], "ram of 32 pages: expected 64"),
    "memory that it does not name": (lambda r: [header(r, memories=[("rum", 64)]), *r[1:]], "did you mean ram"),
    "memory that it names twice": (
        lambda r: [header(r, memories=[("ram", 64)] * 2), *r[1:]],
        "there is none, or no second",
    ),
    "an unknown field": (lambda r: [header(r, more=1), *r[1:]], "its header"),
    "many profile fields": (lambda r: [header(r, profile={str(n): n for n in range(65)}), *r[1:]], "its header"),
    "no header at all": (lambda r: [(Kind.HEADER, b""), *r[1:]], "its header"),
    "a state of another driver": (lambda r: [*r[:2], (Kind.STATE, state(r, driver="x")), r[-1]], "not of its HEADER"),
    "a state with memory": (
        lambda r: [*r[:2], (Kind.STATE, state(r, memory={"ram": [b"", b""]})), r[-1]],
        "not of its HEADER",
    ),
    "a bad value": (lambda r: [*r[:2], (Kind.STATE, state(r, values={"total": "x"})), r[-1]], "total"),
    "a bad job": (
        lambda r: [
            *r[:2],
            (Kind.STATE, state(r, jobs=[{"unit": "", "name": "x", "arguments": {}, "slept": 0.0, "again": False}])),
            r[-1],
        ],
        "no job 'x'",
    ),
    "a bad config space": (lambda r: [*r[:2], (Kind.STATE, state(r, config=b"\xff" * 256)), r[-1]], "saved byte 0x0"),
    "bad levels": (lambda r: [*r[:2], (Kind.STATE, state(r, levels=b"\xff" * 8)), r[-1]], "saved levels"),
    "no msgpack": (lambda r: [*r[:2], (Kind.STATE, b"\xc1"), r[-1]], "saved state"),
}


@pytest.mark.parametrize("what", BAD)
def test_stream_with_the_right_checksums_is_not_believed(target: Target, stream: bytes, what: str) -> None:
    make, reason = BAD[what]
    given = records(stream)
    assert [kind for kind, _payload in given] == [Kind.HEADER, Kind.PAGES, Kind.STATE, Kind.END]
    assert reason in target.refuses(sealed(*make(given)))


def test_records_that_are_lost_or_moved_are_found(target: Target, stream: bytes) -> None:
    ends = boundaries(stream)
    pieces = [stream[begin:end] for begin, end in pairwise(ends)]
    head = stream[: PREFIX.size]
    for order in ((0, 2, 3), (0, 1, 1, 2, 3), (0, 2, 1, 3)):
        assert "damaged, or another one is missing" in target.refuses(head + b"".join(pieces[at] for at in order))


@pytest.mark.parametrize(
    ("begin", "reason"),
    [
        (b"QEMU", "expected it to begin with"),
        (b"mdevusex", "expected it to begin with"),
        (b"mdevuser\3\0", "format 3: expected at most 2: it is of a newer mdev-user"),
        (b"mdevuser\0\0", "format 0"),
        (b"mdevuser\1\0", "saved state"),
        (b"mdevuser\2\0" + pack("<III", 0, 0, 0), "a record of kind 0"),
        (b"mdevuser\2\0" + pack("<III", 6, 0, 0), "a record of kind 6"),
        (b"mdevuser\2\0" + pack("<III", 2, MiB + 1, 0), "at most 1048576"),
        (b"mdevuser\2\0" + pack("<III", 4, 0xFFFFFFFF, 0), "a STATE record of 4294967295 bytes"),
    ],
)
@pytest.mark.parametrize("size", [1, MiB])
def test_what_is_no_stream_is_refused_at_once(target: Target, begin: bytes, reason: str, size: int) -> None:
    assert reason in target.refuses(begin, size)


def test_state_in_one_piece_has_an_end(target: Target) -> None:
    assert "expected at most" in target.refuses(b"mdevuser\1\0" + bytes(20 * MiB))


def test_little_is_kept_of_a_stream_that_never_ends(target: Target, stream: bytes) -> None:
    given = records(stream)
    endless = sealed(given[0], *[page(0, 8, 50)] * 20)
    tracemalloc.start()
    for _ in range(10):
        target.migration.write(endless)
        target.refuses(b"and then something else")
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MiB


def test_memory_of_an_older_version_has_an_end(target: Target) -> None:
    collected = landing.Collected([("a", 1 << 40), ("b", 8)], 2 * PAGE)
    run = memoryview(pack("<QQ", 1 << 39, 1))
    collected.put(0, run, memoryview(b"x" * PAGE))
    collected.put(0, run, memoryview(b"y" * PAGE))
    collected.put(1, memoryview(pack("<QQ", 7, 1)), memoryview(bytes(PAGE)))
    assert collected.collected() == {"a": (bytes(run), b"y" * PAGE)}
    with pytest.raises(StateError, match="more memory than this mdev"):
        collected.put(1, memoryview(pack("<QQ", 0, 1)), memoryview(bytes(PAGE)))


def test_header_of_memory_without_end_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(Header("", "", 1, {}, [("x", 1)] * 65)), type=Header)


def test_random_states_are_taken_or_refused_and_nothing_else(target: Target, stream: bytes) -> None:
    """With the right checksums: what is behind them is looked at too."""
    random, given, taken = Random(5), records(stream), 0
    for _ in range(400):
        at = random.choice([0, 2, 2, 2])
        kind, payload = given[at]
        changed = bytearray(payload)
        for _change in range(random.randrange(1, 4)):
            changed[random.randrange(len(changed))] = random.choice(
                [0, 1, 0x7F, 0x80, 0xC0, 0xFF, random.randrange(256)]
            )
        try:
            target.give(sealed(*given[:at], (kind, bytes(changed)), *given[at + 1 :]))
        except StateError:
            assert target.bench.device.save() == target.before
            continue
        except MdevUserError as error:
            raise AssertionError(error) from error
        taken += 1
        target.before = target.bench.device.save()
        target.migration.set_state(S.RESUMING)
    assert 0 < taken < 390
