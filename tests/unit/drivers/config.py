"""Config spaces as the kernel's samples have them, compared with ours."""

_COMMAND = {0x04, 0x05}
"""Ours is off until a guest turns it on; the samples' is always on."""


def differences(given: bytes, expected: str) -> list[str]:
    """``expected`` in hexadecimal digits; what it does not reach is zero."""
    wanted = bytes.fromhex(expected).ljust(256, b"\0")
    return [
        f"{offset:#x}: {ours:#x} for {theirs:#x}"
        for offset, (ours, theirs) in enumerate(zip(given, wanted, strict=True))
        if ours != theirs and offset not in _COMMAND
    ]
