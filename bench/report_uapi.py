"""From measurements of a program under `run` to figures, and the targets."""

from collections.abc import Sequence
from typing import Literal

from figures import Figure, spread

from uapi import KINDS, SYNCHRONOUS, Measured

_WAYS: tuple[Literal["read"], Literal["write"]] = ("read", "write")
_CALLS = {
    "call": "an untrapped call",
    "ioctl": "ioctl of another type",
    "open_to_read": "open(O_RDONLY), close",
    "open_to_change": "open(O_RDWR), close",
}
TARGETS = tuple(
    (f"uapi.{way}.{kind}.p50_ratio", f"under run, {kind}: {way}, p50 / vfio-user's", "x", 2.0)
    for kind in SYNCHRONOUS
    for way in _WAYS
)
"""As `report._TARGETS`."""
OTHERS = (
    *((f"uapi.{way}.vfio_user_{of}_us", f"vfio-user: {way}, {of}", "us") for way in _WAYS for of in ("p50", "p99")),
    *(
        (f"uapi.{way}.{kind}.{of}_us", f"under run, {kind}: {way}, {of}", "us")
        for kind in KINDS
        for way in _WAYS
        for of in ("p50", "p99")
    ),
    *(
        (f"uapi.calls.{name}.{where}_ns", f"{text}, {where.replace('_', ' ')}", "ns")
        for name, text in _CALLS.items()
        for where in ("alone", "under_run")
    ),
    ("uapi.boot.alone_s", "a guest boots, alone", "s"),
    ("uapi.boot.under_run_s", "a guest boots, under run", "s"),
)


def of_uapi(rounds: Sequence[Measured], boots: Sequence[tuple[float, float]]) -> dict[str, object]:
    """Medians over the rounds, with the smallest and the largest."""
    result: dict[str, object] = {way: _way(rounds, way) for way in _WAYS}
    result["rounds"] = len(rounds)
    result["calls"] = {
        name: {
            "alone_ns": spread(each.alone[name]["p50"] for each in rounds),
            "under_run_ns": spread(each.under_run[name]["p50"] for each in rounds),
        }
        for name in _CALLS
    }
    if boots:
        result["boot"] = {
            "alone_s": spread(alone for alone, _ in boots),
            "under_run_s": spread(under_run for _, under_run in boots),
        }
    return result


def _way(rounds: Sequence[Measured], way: Literal["read", "write"]) -> dict[str, object]:
    figures: dict[str, object] = {
        "vfio_user_p50_us": spread(each.vfio_user[way]["p50"] / 1e3 for each in rounds),
        "vfio_user_p99_us": spread(each.vfio_user[way]["p99"] / 1e3 for each in rounds),
    }
    return figures | {kind: _kind(rounds, way, kind) for kind in rounds[0].trapped}


def _kind(rounds: Sequence[Measured], way: Literal["read", "write"], kind: str) -> dict[str, Figure]:
    return {
        "p50_us": spread(each.trapped[kind][way]["p50"] / 1e3 for each in rounds),
        "p99_us": spread(each.trapped[kind][way]["p99"] / 1e3 for each in rounds),
        "p50_ratio": spread(each.trapped[kind][way]["p50"] / each.vfio_user[way]["p50"] for each in rounds),
        "p99_ratio": spread(each.trapped[kind][way]["p99"] / each.vfio_user[way]["p99"] for each in rounds),
    }
