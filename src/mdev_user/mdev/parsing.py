"""What may be written to the framework's attributes, parsed as Linux parses it."""

import re
from uuid import UUID

from mdev_user.errors import InvalidValue

_UUID = re.compile(rb"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_UNSIGNED = re.compile(rb"\+?(?:(?P<hex>0[xX][0-9a-fA-F]+)|(?P<octal>0[0-7]*)|(?P<decimal>[1-9][0-9]{0,19}))")
_LONG = 1 << 64  # has 20 decimal digits; more would only make int() work (it refuses some thousands)
_SHOWN = 60


def parse_uuid(data: bytes) -> UUID:
    """A UUID as ``create`` takes it: 36 characters and at most one more, of which nothing is asked. EINVAL."""
    if len(data) not in {36, 37}:
        raise InvalidValue(f"expected a UUID of 36 characters and at most a newline, given {len(data)} bytes")
    if not _UUID.fullmatch(data[:36]):
        raise InvalidValue(f"expected a UUID (8-4-4-4-12 hexadecimal digits), given {data[:_SHOWN]!r}")
    return UUID(data[:36].decode())


def parse_unsigned(data: bytes) -> int:
    """An unsigned long as the kernel's kstrtoul with base 0 takes it, one newline allowed. EINVAL."""
    match = _UNSIGNED.fullmatch(data[:-1] if data.endswith(b"\n") else data)
    if match is None:
        raise InvalidValue(f"expected an unsigned number, given {data[:_SHOWN]!r}")
    bases = {"hex": 16, "octal": 8, "decimal": 10}
    value = next(int(text, bases[kind]) for kind, text in match.groupdict().items() if text is not None)
    if value >= _LONG:
        raise InvalidValue(f"expected a number below 2**64, given {data[:_SHOWN]!r}")
    return value
