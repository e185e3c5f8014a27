"""Parsing of what is written to ``create`` and ``remove``: every row of the measured tables, and their neighbours."""

import re
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdev_user.errors import InvalidValue
from mdev_user.mdev.parsing import parse_unsigned, parse_uuid

TEXT = b"a1b2c3d4-e5f6-0718-293a-4b5c6d7e8f90"
BINARY = st.binary(max_size=80)
FORM = re.compile(rb"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")


@pytest.mark.parametrize("text", [TEXT, TEXT.upper(), TEXT.swapcase(), TEXT[:18].upper() + TEXT[18:]])
def test_uuid_is_taken_in_any_case(text: bytes) -> None:
    assert parse_uuid(text) == UUID(TEXT.decode())


def test_name_of_an_upper_case_uuid_is_lower_case() -> None:
    assert str(parse_uuid(TEXT.upper())) == TEXT.decode()


@pytest.mark.parametrize("last", [b"\n", b" ", b"\0", b"z", b"-", b"\xff"])
def test_one_byte_after_the_uuid_is_not_looked_at(last: bytes) -> None:
    assert parse_uuid(TEXT + last) == UUID(TEXT.decode())


@pytest.mark.parametrize("digit", ["0", "f"])
def test_nil_and_all_ones_are_uuids(digit: str) -> None:
    text = "-".join(digit * length for length in (8, 4, 4, 4, 12))
    assert str(parse_uuid(text.encode())) == text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        TEXT[:35],
        TEXT[:35] + b"\n",
        TEXT + b"\r\n",
        TEXT + b"\n\n",
        TEXT.ljust(4095, b"\n"),
        TEXT.ljust(4096, b"\n"),
        TEXT * 2000,
        b"{" + TEXT + b"}",
        b"urn:uuid:" + TEXT,
        TEXT.replace(b"-", b""),
    ],
)
def test_another_length_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidValue, match=r"36|8-4-4-4-12"):
        parse_uuid(data)


@pytest.mark.parametrize(
    "data",
    [
        b" " + TEXT[:35],
        TEXT[:35] + b"g",
        TEXT[:7] + b"-" + TEXT[7:8] + TEXT[9:],
        TEXT.replace(b"-", b"_"),
        TEXT[:10] + b"\0" + TEXT[11:],
        b"{" + TEXT[:34] + b"}",
        TEXT[1:] + b"\n",
        b"a1b2c3d4-e5f6-0718-293a-4b5c6d7e8f9" + "é".encode()[:1],
        b"\xd9\xa3" * 18,
    ],
)
def test_another_form_is_refused(data: bytes) -> None:
    assert len(data) in {36, 37}
    with pytest.raises(InvalidValue, match="8-4-4-4-12"):
        parse_uuid(data)


@given(st.uuids(), st.binary(max_size=1))
def test_every_uuid_comes_back(uuid: UUID, last: bytes) -> None:
    assert parse_uuid(str(uuid).encode() + last) == uuid


def _damaged(uuid: UUID, at: int, new: bytes) -> bytes:
    text = str(uuid).encode()
    return text[:at] + new[:1] + text[at + 1 :]


@given(BINARY | st.builds(_damaged, st.uuids(), st.integers(0, 35), BINARY))
def test_uuid_is_taken_exactly_when_its_first_36_bytes_are_one(data: bytes) -> None:
    wanted = len(data) in {36, 37} and FORM.fullmatch(data[:36])
    try:
        parsed = parse_uuid(data)
    except InvalidValue:
        assert not wanted
    else:
        assert wanted
        assert str(parsed).encode() == data[:36].lower()


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"1", 1),
        (b"1\n", 1),
        (b"+1", 1),
        (b"0x1", 1),
        (b"0X1", 1),
        (b"+0x1f\n", 0x1F),
        (b"010", 8),
        (b"2", 2),
        (b"18446744073709551615", 2**64 - 1),
        (b"0xffffffffffffffff", 2**64 - 1),
        (b"01777777777777777777777", 2**64 - 1),
        (b"0", 0),
        (b"00", 0),
        (b"0x0", 0),
        (b"+0", 0),
        (b"0\n", 0),
    ],
)
def test_number_is_read_in_the_base_it_shows(data: bytes, value: int) -> None:
    assert parse_unsigned(data) == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"garbage",
        b" 1",
        b"1 ",
        b"-1",
        b"-0",
        b"1.0",
        b"1garbage",
        b"0x",
        b"0xg",
        b"08",
        b"true",
        b"y",
        b"+",
        b"++1",
        b"+-1",
        b"1\n\n",
        b"1\r\n",
        b"1_0",
        b"0b1",
        b"0o7",
        b"\xd9\xa1",
        b"18446744073709551616",
        b"0x10000000000000000",
        b"02000000000000000000000",
        b"9" * 5000,
        b"0x" + b"f" * 5000,
        b"07" * 3000,
    ],
)
def test_what_is_no_unsigned_long_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidValue, match="expected"):
        parse_unsigned(data)


@given(st.integers(0, 2**64 - 1), st.sampled_from(["", "+"]), st.sampled_from(["d", "#x", "#X", "o"]), st.booleans())
def test_every_unsigned_long_comes_back(value: int, sign: str, form: str, newline: bool) -> None:
    digits = "0" + format(value, "o") if form == "o" else format(value, form)
    assert parse_unsigned(f"{sign}{digits}{chr(10) * newline}".encode()) == value


@given(st.integers(2**64, 2**200), st.sampled_from(["d", "#x"]))
def test_no_larger_number_is_taken(value: int, form: str) -> None:
    with pytest.raises(InvalidValue):
        parse_unsigned(format(value, form).encode())


@given(BINARY | st.text("0123456789abcdefxX+-_ \n", max_size=24).map(str.encode))
def test_number_is_taken_exactly_when_c_takes_it(data: bytes) -> None:
    body = data.removesuffix(b"\n").removeprefix(b"+")
    wanted = _as_c(body)
    try:
        assert parse_unsigned(data) == wanted
    except InvalidValue:
        assert wanted is None


def _as_c(body: bytes) -> int | None:
    """strtoul with base 0, told by alphabets instead of a pattern; None for what it does not take whole."""
    base, alphabet, digits = 10, b"0123456789", body
    if body[:2].lower() == b"0x":
        base, alphabet, digits = 16, b"0123456789abcdefABCDEF", body[2:]
    elif body[:1] == b"0":
        base, alphabet = 8, b"01234567"
    if not digits or any(each not in alphabet for each in digits):
        return None
    value = sum(int(chr(digit), base) * base**power for power, digit in enumerate(reversed(digits)))
    return value if value < 2**64 else None
