"""From measurements of the vgpu parent to figures, and the targets."""

from collections.abc import Mapping, Sequence

import gpu_guest
import gpu_rendering
import gpu_screenshots
import gpu_shares
import gpu_updates
from figures import Figure, spread
from gpu import Measured
from gpu_registers import REGISTERS
from gpu_rendering import SIZES
from gpu_shares import FULL, NAMES, WEIGHTS, distance
from gpu_updates import BYTES, WAYS
from programs import Times

_WAYS = dict(
    zip(
        WAYS,
        (
            "1920x1080 updates on one core",
            "  a guest's memory in single pages",
            "  beside a vgpu that draws all the time",
            "  beside a busy mtty",
        ),
        strict=True,
    )
)
_PICTURES = {"desktop": "screenshot of a desktop", "random": "screenshot of random pixels"}
_STAGES: Mapping[str, tuple[str, str]] = {
    "taken": ("taken, under the step lock", "ms"),
    "encoded": ("encoded", "ms"),
    "made": ("taken and encoded", "ms"),
    "asked": ("asked of the daemon", "ms"),
    "compressed": ("asked of the daemon, level 1", "ms"),
    "command": ("the whole command", "ms"),
    "megabytes": ("size with level 1", "MB"),
}

TARGETS = (
    *((f"gpu.updates.{way}.per_second", name, "/s", 60) for way, name in _WAYS.items() if way != "beside_vgpu"),
    ("gpu.registers.plain.p99_ratio", "register beside a vgpu that draws, p99 / idle", "x", 2.0),
    ("gpu.registers.banked.p99_ratio", "  the same, one that Python answers", "x", 2.0),
    ("gpu.shares.distance", "weights 1:2:4, off by", "x", 0.1),
    ("gpu.shares.weight_felt_s", "a new weight is felt after", "s", 1.0),
    ("gpu.shares.limit_felt_s", "a new frame-rate limit is felt after", "s", 1.0),
    ("gpu.shares.together_share", "all three / one alone, best effort", "share", 0.9),
    ("gpu.shares.fixed_distance", "fixed share 8:4:4, off by", "x", 0.1),
    ("gpu.shares.fixed_held", "  of the engine's time while others idle, off by", "x", 0.1),
    ("gpu.shares.equal_distance", "equal share, off by", "x", 0.1),
    ("gpu.shares.equal_held", "  of the engine's time while others idle, off by", "x", 0.1),
    ("gpu.rendering.distance", "3D, renderers' time by weights 1:2:4, off by", "x", 0.1),
    ("gpu.screenshots.desktop.made_ms", "screenshot of 1920x1080, a desktop: taken and encoded", "ms", 10.0),
    ("gpu.screenshots.desktop.asked_ms", "  asked of the daemon", "ms", 10.0),
)
"""As `report._TARGETS`."""
OTHERS = (
    *(
        (f"gpu.updates.{way}.{figure}", f"{name.strip()}, {text}", unit)
        for way, name in _WAYS.items()
        for figure, text, unit in (
            *((("per_second", "a second", "/s"),) if way == "beside_vgpu" else ()),
            ("p50_ms", "p50", "ms"),
            ("p99_ms", "p99", "ms"),
            ("memcpy_share", "of memcpy's speed", ""),
        )
    ),
    ("gpu.updates.limit_ms", "memcpy of 1920x1080 pixels", "ms"),
    ("gpu.updates.limit_pages_ms", "  of as many single pages", "ms"),
    *(
        (f"gpu.registers.{name}.{where}_{of}_us", f"a {name} register, {where}, {of}", "us")
        for name in REGISTERS
        for where in ("idle", "beside")
        for of in ("p50", "p99")
    ),
    *((f"gpu.shares.share_{name}", f"share of weight {each}", "") for name, each in zip(NAMES, WEIGHTS, strict=True)),
    ("gpu.updates.limit_three_share", "  memcpy's speed with three pictures / with one", ""),
    ("gpu.shares.together_mpx", "all three draw", "Mpx/s"),
    ("gpu.shares.alone_mpx", "one alone", "Mpx/s"),
    ("gpu.shares.fixed_together_mpx", "fixed share of 4/16, others draw", "Mpx/s"),
    ("gpu.shares.fixed_alone_mpx", "fixed share of 4/16, others idle", "Mpx/s"),
    ("gpu.shares.equal_together_mpx", "equal share of 1/3, others draw", "Mpx/s"),
    ("gpu.shares.equal_alone_mpx", "equal share of 1/3, others idle", "Mpx/s"),
    *(
        (f"gpu.screenshots.{name}.{stage}_{unit.lower()}", f"{text}, {what}", unit)
        for name, text in _PICTURES.items()
        for stage, (what, unit) in _STAGES.items()
    ),
    *(
        (f"gpu.rendering.{name}.{of}_ms", f"{width}x{height} cleared and read back, {of}", "ms")
        for name, (width, height) in SIZES.items()
        for of in ("p50", "p99")
    ),
    *(
        (f"gpu.rendering.share_{name}", f"renderer's time of weight {each}", "")
        for name, each in zip(NAMES, WEIGHTS, strict=True)
    ),
    ("gpu.guest.ours_per_second", "flips of 1920x1200 in a guest", "/s"),
    ("gpu.guest.qemus_per_second", "  on QEMU's own virtio-gpu", "/s"),
    ("gpu.guest.ratio", "  ours / QEMU's", "x"),
)


def of_gpu(measured: Measured) -> dict[str, object]:
    """Medians over the rounds, with the smallest and the largest."""
    result: dict[str, object] = {
        "rounds": len(measured.updates),
        "updates": _updates(measured.updates),
        "registers": {
            name: _register([(each.idle[name], each.beside[name]) for each in measured.registers]) for name in REGISTERS
        },
        "shares": _shares(measured.shares),
        "course": _course(measured.course),
        "screenshots": _screenshots(measured.screenshots),
    }
    if measured.rendering:
        result["rendering"] = _rendering(measured.rendering)
    if measured.guest:
        result["guest"] = _guest(measured.guest)
    return result


def _updates(rounds: Sequence[gpu_updates.Measured]) -> dict[str, object]:
    result: dict[str, object] = {
        "bytes": BYTES,
        "limit_ms": spread(each.limit["read"]["p50"] / 1e6 for each in rounds),
        "limit_pages_ms": spread(each.limit["write"]["p50"] / 1e6 for each in rounds),
    }
    result["limit_three_share"] = spread(
        3 * each.limit["read"]["p50"] / each.limit_three["read"]["p50"] for each in rounds
    )
    for way in WAYS:
        limits = [each.limit["write" if way == "pages" else "read"]["p50"] / 1e9 for each in rounds]
        result[way] = {
            "per_second": spread(each.updates[way]["per_second"] for each in rounds),
            "p50_ms": spread(each.updates[way]["p50"] / 1e6 for each in rounds),
            "p99_ms": spread(each.updates[way]["p99"] / 1e6 for each in rounds),
            "memcpy_share": spread(
                limit * each.updates[way]["per_second"] for limit, each in zip(limits, rounds, strict=True)
            ),
        }
    return result


def _register(pairs: Sequence[tuple[Times, Times]]) -> dict[str, Figure]:
    figures = {
        "p50_ratio": spread(beside["p50"] / idle["p50"] for idle, beside in pairs),
        "p99_ratio": spread(beside["p99"] / idle["p99"] for idle, beside in pairs),
    }
    for at, where in enumerate(("idle", "beside")):
        figures[f"{where}_p50_us"] = spread(pair[at]["p50"] / 1e3 for pair in pairs)
        figures[f"{where}_p99_us"] = spread(pair[at]["p99"] / 1e3 for pair in pairs)
    return figures


def _shares(rounds: Sequence[gpu_shares.Measured]) -> dict[str, Figure]:
    return {
        "distance": spread(distance(each.shares, WEIGHTS) for each in rounds),
        **{f"share_{name}": spread(each.shares[at] for each in rounds) for at, name in enumerate(NAMES)},
        "together_share": spread(each.together / each.alone for each in rounds),
        "together_mpx": spread(each.together / 1e6 for each in rounds),
        "alone_mpx": spread(each.alone / 1e6 for each in rounds),
        **_policy("fixed", [each.fixed for each in rounds], FULL),
        **_policy("equal", [each.equal for each in rounds], (1, 1, 1)),
        "weight_felt_s": spread(each.weight_felt for each in rounds),
        "limit_felt_s": spread(each.limit_felt for each in rounds),
    }


def _policy(name: str, rounds: Sequence[gpu_shares.InTurn], weights: Sequence[int]) -> dict[str, Figure]:
    """The part that one has: of what is drawn while all draw, of the engine's time while the others do not."""
    part = weights[-1] / sum(weights)
    return {
        f"{name}_distance": spread(distance(each.together.drawn, weights) for each in rounds),
        f"{name}_held": spread(abs(each.alone.worked / part - 1) for each in rounds),
        f"{name}_worked": spread(each.alone.worked for each in rounds),
        f"{name}_together_mpx": spread(each.together.drawn[-1] / 1e6 for each in rounds),
        f"{name}_alone_mpx": spread(each.alone.drawn[-1] / 1e6 for each in rounds),
    }


def _course(course: gpu_shares.Course) -> dict[str, object]:
    """What the plot shows: seconds, and pixels so far."""
    return {
        "changes": [[round(each.at, 3), each.what] for each in course.changes],
        "samples": [[round(each.at, 3), *each.drawn] for each in course.samples],
    }


def _screenshots(rounds: Sequence[gpu_screenshots.Measured]) -> dict[str, object]:
    return {
        name: {
            f"{stage}_{unit.lower()}": spread(getattr(each[name], stage) for each in rounds)
            for stage, (_what, unit) in _STAGES.items()
        }
        for name in _PICTURES
    }


def _rendering(rounds: Sequence[gpu_rendering.Measured]) -> dict[str, object]:
    parts = [[seconds / sum(each.seconds) for seconds in each.seconds] for each in rounds]
    result: dict[str, object] = {
        name: {f"{of}_ms": spread(each.trips[name][of] / 1e6 for each in rounds) for of in ("p50", "p99")}
        for name in SIZES
    }
    result["distance"] = spread(distance(each, WEIGHTS) for each in parts)
    return result | {f"share_{name}": spread(each[at] for each in parts) for at, name in enumerate(NAMES)}


def _guest(rounds: Sequence[gpu_guest.Measured]) -> dict[str, Figure]:
    return {
        "ours_per_second": spread(each.ours for each in rounds),
        "qemus_per_second": spread(each.qemus for each in rounds),
        "ratio": spread(each.ours / each.qemus for each in rounds),
    }
