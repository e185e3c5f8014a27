"""The figures of everything over vfio-user, and what must hold of them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import crowd
import engines
import polling
import roundtrips
from figures import Figure, spread
from programs import Times
from vfio_user import NATIVE, PURE, Load, Measured

_BOTH = (PURE, NATIVE)
_WAYS: tuple[Literal["read"], Literal["write"]] = ("read", "write")
_COPIED: Mapping[Literal["read", "write"], str] = {"read": "guest to device", "write": "device to guest"}
_PEER_TARGETS = {(PURE, "read"): 1.4, (PURE, "write"): 1.5, (NATIVE, "read"): 0.9, (NATIVE, "write"): 0.9}


def _targets(loop: str) -> Iterator[tuple[str, str, str, float]]:
    for way in _WAYS:
        at = f"vfio_user.trips.{way}.{loop}"
        yield f"{at}.libvfio_user_p50_ratio", f"{loop}: {way}, p50 / libvfio-user's", "x", _PEER_TARGETS[loop, way]
        yield f"{at}.busy_p99_ratio", f"{loop}: {way}, p99 beside a busy mdev / idle", "x", 2.0
    yield f"vfio_user.interrupt.{loop}.p50_ratio", f"{loop}: doorbell to interrupt, p50 / C's", "x", 2.0
    for way, name in _COPIED.items():
        yield f"vfio_user.copy.{way}.{loop}.ratio", f"{loop}: DMA of 1 MiB, {name} / memcpy", "x", 1.2
    crowd_at = f"vfio_user.crowd.{loop}"
    yield f"{crowd_at}.total_share", f"{loop}: accesses of all mdevs at once / of one", "share", 0.5
    yield f"{crowd_at}.fastest_to_slowest", f"{loop}: their fastest client / the slowest", "x", 2.0


def _others(loop: str) -> Iterator[tuple[str, str, str]]:
    for way in _WAYS:
        at = f"vfio_user.trips.{way}.{loop}"
        yield f"{at}.p50_us", f"{loop}: {way}, p50", "us"
        yield f"{at}.p99_us", f"{loop}: {way}, p99", "us"
        yield f"{at}.busy_p99_us", "  beside a busy mdev", "us"
    yield f"vfio_user.interrupt.{loop}.p50_us", f"{loop}: doorbell to interrupt, p50", "us"
    for way, name in _COPIED.items():
        yield f"vfio_user.copy.{way}.{loop}.us", f"{loop}: DMA of 1 MiB, {name}", "us"
    yield f"vfio_user.polling.{loop}.asleep_p50_us", f"{loop}: read from another core, p50, host asleep", "us"
    yield f"vfio_user.polling.{loop}.looking_p50_us", "  host busy polling", "us"
    yield f"vfio_user.polling.{loop}.p50_ratio", "  polling / asleep", "x"
    yield from _common(f".{loop}", loop)
    crowd_at = f"vfio_user.crowd.{loop}"
    yield f"{crowd_at}.per_second", f"{loop}: accesses of all mdevs at once", "/s"
    yield f"{crowd_at}.p50_us", "  p50", "us"
    yield f"{crowd_at}.p99_us", "  p99", "us"


def _limits() -> Iterator[tuple[str, str, str]]:
    for way in _WAYS:
        at = f"vfio_user.trips.{way}"
        for name, shown in (("limit", "ping-pong"), ("libvfio_user", "libvfio-user")):
            yield f"{at}.{name}_p50_us", f"{shown}: {way}, p50", "us"
            yield f"{at}.{name}_p99_us", f"{shown}: {way}, p99", "us"
    yield "vfio_user.interrupt.limit_p50_us", "two threads in C: doorbell to interrupt, p50", "us"
    for way, name in _COPIED.items():
        yield f"vfio_user.copy.{way}.limit_us", f"memcpy: 1 MiB, {name}", "us"
    yield from _common(".libvfio_user", "libvfio-user")


def _common(key: str, name: str) -> Iterator[tuple[str, str, str]]:
    for what in ("maps", "unmaps"):
        yield f"vfio_user.mappings.{what}{key}", f"{name}: {what} of pages, an fd each", "/s"


TARGETS = tuple(row for loop in _BOTH for row in _targets(loop))
"""As `report._TARGETS`."""
OTHERS = (*_limits(), *(row for loop in _BOTH for row in _others(loop)))


def of_vfio_user(measured: Measured, load: Load) -> dict[str, object]:
    """Medians over the rounds, with the smallest and the largest."""
    loops = list(measured.crowds)
    return {
        "rounds": load.rounds,
        "accesses_per_round": load.accesses,
        "mdevs": load.mdevs,
        "hosts": crowd.HOSTS,
        "trips": {way: _trips(measured.trips, way, loops) for way in _WAYS},
        "interrupt": _interrupts(measured.engines, loops),
        "copy": {way: _copies(measured.engines, way, loops) for way in _WAYS},
        "mappings": _mappings(measured.engines, loops),
        "polling": {loop: _polled([each[loop] for each in measured.polled if loop in each]) for loop in loops},
        "crowd": {loop: _crowd(rounds) for loop, rounds in measured.crowds.items()},
    }


def _trips(
    rounds: Sequence[roundtrips.Measured], way: Literal["read", "write"], loops: Sequence[str]
) -> dict[str, object]:
    limit = [each.limit[way] for each in rounds]
    peer = [each.libvfio_user[way] for each in rounds if each.libvfio_user]
    return {
        **_times("limit_", limit),
        **(_times("libvfio_user_", peer) if peer else {}),
        **{loop: _of_loop([each.ours[loop] for each in rounds], way, limit, peer) for loop in loops},
    }


def _of_loop(
    rounds: Sequence[roundtrips.Ours], way: Literal["read", "write"], limit: Sequence[Times], peer: Sequence[Times]
) -> dict[str, Figure]:
    idle = [each.idle[way] for each in rounds]
    figures = {**_times("", idle), **_ratios("limit_", idle, limit)}
    if peer:
        figures |= _ratios("libvfio_user_", idle, peer)
    busy = [each.busy[way] for each in rounds if each.busy]
    if busy:
        figures |= {**_times("busy_", busy), **_ratios("busy_", busy, idle)}
    return figures


def _times(name: str, rounds: Sequence[Times]) -> dict[str, Figure]:
    return {
        f"{name}p50_us": spread(each["p50"] / 1e3 for each in rounds),
        f"{name}p99_us": spread(each["p99"] / 1e3 for each in rounds),
    }


def _ratios(name: str, ours: Sequence[Times], theirs: Sequence[Times]) -> dict[str, Figure]:
    pairs = list(zip(ours, theirs, strict=True))
    return {
        f"{name}p50_ratio": spread(own["p50"] / other["p50"] for own, other in pairs),
        f"{name}p99_ratio": spread(own["p99"] / other["p99"] for own, other in pairs),
    }


def _interrupts(rounds: Sequence[engines.Measured], loops: Sequence[str]) -> dict[str, object]:
    limit = [each.interrupt_limit for each in rounds]
    ours = {loop: [each.interrupts[loop] for each in rounds] for loop in loops}
    return {
        **_times("limit_", limit),
        **{loop: {**_times("", own), **_ratios("", own, limit)} for loop, own in ours.items()},
    }


def _copies(
    rounds: Sequence[engines.Measured], way: Literal["read", "write"], loops: Sequence[str]
) -> dict[str, object]:
    def taken(copies: engines.Copies) -> float:
        return (copies.read if way == "read" else copies.write) / 1e3

    return {
        "limit_us": spread(taken(each.copy_limit) for each in rounds),
        **{
            loop: {
                "us": spread(taken(each.copies[loop]) for each in rounds),
                "ratio": spread(taken(each.copies[loop]) / taken(each.copy_limit) for each in rounds),
            }
            for loop in loops
        },
    }


def _mappings(rounds: Sequence[engines.Measured], loops: Sequence[str]) -> dict[str, dict[str, Figure]]:
    found = {loop: [each.mapped[loop] for each in rounds] for loop in loops}
    peer = [each.libvfio_user_mapped for each in rounds if each.libvfio_user_mapped]
    if peer:
        found["libvfio_user"] = peer
    return {
        "maps": {name: spread(1e9 / each.map for each in own) for name, own in found.items()},
        "unmaps": {name: spread(1e9 / each.unmap for each in own) for name, own in found.items()},
    }


def _polled(rounds: Sequence[polling.Measured]) -> dict[str, Figure]:
    if not rounds:
        return {}
    asleep, looking = ([each.asleep["read"] for each in rounds], [each.looking["read"] for each in rounds])
    return {**_times("asleep_", asleep), **_times("looking_", looking), **_ratios("", looking, asleep)}


def _crowd(rounds: Sequence[crowd.Measured]) -> dict[str, Figure]:
    together = [each.together for each in rounds]
    return {
        "per_second": spread(each.together["all"] / each.together_seconds for each in rounds),
        "alone_per_second": spread(each.alone["all"] / each.alone_seconds for each in rounds),
        "total_share": spread(
            each.together["all"] / each.together_seconds * each.alone_seconds / each.alone["all"] for each in rounds
        ),
        "fastest_to_slowest": spread(each["most"] / max(1, each["least"]) for each in together),
        "p50_us": spread(each["p50"] / 1e3 for each in together),
        "p99_us": spread(each["p99"] / 1e3 for each in together),
    }
