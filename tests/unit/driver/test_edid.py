"""EDIDs, read by the fields of VESA E-EDID 1.4."""

import pytest

from mdev_user.driver import DriverError, edid_of


def standard_sizes(edid: bytes) -> set[tuple[int, int]]:
    """Section 3.9: what is not 01 01."""
    heights = {0: (10, 16), 1: (3, 4), 2: (4, 5), 3: (9, 16)}
    found = set()
    for code, aspect in zip(edid[38:54:2], edid[39:54:2], strict=True):
        if (code, aspect) != (1, 1):
            width, (part, of) = (code + 31) * 8, heights[aspect >> 6]
            found.add((width, width * part // of))
            assert aspect & 0x3F == 0  # 60 Hz
    return found


@pytest.mark.parametrize(("width", "height"), [(640, 480), (1024, 768), (1920, 1200), (3840, 2160), (4095, 2300)])
def test_edid_prefers_its_size_at_60_hz(width: int, height: int) -> None:
    edid = edid_of(width, height, "monitor")
    assert (len(edid), sum(edid) % 256, edid[:8]) == (128, 0, b"\x00\xff\xff\xff\xff\xff\xff\x00")
    clock = int.from_bytes(edid[54:56], "little") * 10_000
    across, down = (edid[56] | (edid[58] & 0xF0) << 4), (edid[59] | (edid[61] & 0xF0) << 4)
    blank = (edid[57] | (edid[58] & 0x0F) << 8, edid[60] | (edid[61] & 0x0F) << 8)
    assert (across, down) == (width, height)
    assert clock / (width + blank[0]) / (height + blank[1]) == pytest.approx(60, abs=0.1)


def test_edid_offers_usual_sizes_that_are_smaller() -> None:
    assert standard_sizes(edid_of(1024, 768, "monitor")) == set()
    assert standard_sizes(edid_of(1920, 1200, "monitor")) == {
        (1920, 1080), (1680, 1050), (1600, 1200), (1440, 900), (1280, 1024), (1280, 720),
    }  # fmt: skip


@pytest.mark.parametrize(("name", "text"), [("vgpu", b"vgpu\n        "), ("a monitor of 19 letters", b"a monitor of ")])
def test_edid_names_the_monitor(name: str, text: bytes) -> None:
    assert edid_of(800, 600, name)[77:90] == text


@pytest.mark.parametrize("size", [(0, 600), (800, -1), (4096, 600), (4095, 4095)])
def test_size_that_no_timing_has_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(DriverError, match="expected 1 to 4095 pixels"):
        edid_of(*size, "monitor")
