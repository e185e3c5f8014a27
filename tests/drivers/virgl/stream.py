"""Commands of the virgl protocol, as a guest's Mesa encodes them (virglrenderer: virgl_protocol.h)."""

from struct import pack

CREATE_OBJECT, SET_FRAMEBUFFER, CLEAR = 1, 5, 7
SURFACE = 8
BGRA = 1


def command(kind: int, part: int, *words: int) -> bytes:
    """A command of so many words; ``part`` says which kind of object it is about."""
    return pack(f"<{len(words) + 1}I", kind | part << 8 | len(words) << 16, *words)


def target(resource: int, surface: int = 5) -> bytes:
    """Draw into level 0 of a resource."""
    made = command(CREATE_OBJECT, SURFACE, surface, resource, BGRA, 0, 0)
    return made + command(SET_FRAMEBUFFER, 0, 1, 0, surface)


def clear(red: float, green: float, blue: float, alpha: float) -> bytes:
    colours = pack("<4f", red, green, blue, alpha)
    return pack("<2I", CLEAR | 8 << 16, 4) + colours + pack("<3I", 0, 0, 0)
