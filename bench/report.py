"""From measurements to figures, and from figures to a table with the targets beside them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import accesses
import authoring
import lifecycle
import management
import report_gpu
import report_moving
import report_uapi
import report_vfio_user
from figures import Figure, one, percentile, spread
from programs import Round, Times
from rich.table import Table

# What must hold: the figure's path in the result, its name, unit, target, and whether more is better.
_TARGETS = (
    ("accesses.read.p50_ratio", "1-byte read, p50 / ping-pong's", "x", 1.8),
    ("accesses.write.p50_ratio", "1-byte write, p50 / ping-pong's", "x", 2.0),
    ("accesses.read.busy_p99_ratio", "1-byte read, p99 beside a busy neighbour / idle", "x", 2.0),
    ("accesses.write.busy_p99_ratio", "1-byte write, p99 beside a busy neighbour / idle", "x", 2.0),
    ("lifecycle.creates_per_second", "creates through sysfs", "/s", 500),
    ("lifecycle.memory_kib_per_mdev", "memory of an idle mdev (PSS)", "KiB", 100),
    ("management.beside_a_slow_create.p99_ms", "neighbours of a create of 5 s, p99", "ms", 20.0),
    *(
        (f"authoring.round_trips.{kind}.{way}.p50_ratio", f"declared / by hand, {name}, p50", "x", 1.25)
        for kind, way, name in (
            ("plain", "read", "SCR read"),
            ("plain", "write", "SCR write"),
            ("status", "read", "LSR read"),
            ("status", "write", "LSR write (ignored)"),
            ("banked_dll", "read", "DLL read (banked)"),
            ("banked_dll", "write", "DLL write (banked)"),
            ("banked_dlm", "read", "DLM read (banked)"),
            ("banked_dlm", "write", "DLM write (banked)"),
            ("handler_enable", "read", "IER read"),
            ("handler_enable", "write", "IER write (handler)"),
            ("handler_data", "read", "RBR read (handler)"),
            ("handler_data", "write", "THR write (handler)"),
            ("handler_identify", "read", "IIR read (handler)"),
            ("handler_identify", "write", "FCR write (handler)"),
        )
    ),
    *report_vfio_user.TARGETS,
    *report_moving.TARGETS,
    *report_uapi.TARGETS,
    *report_gpu.TARGETS,
)
_MORE_IS_BETTER = {"/s", "share"}
_OTHERS = (
    ("accesses.read.ours_p50_us", "1-byte read, p50", "us"),
    ("accesses.read.limit_p50_us", "  ping-pong", "us"),
    ("accesses.read.ours_p99_us", "1-byte read, p99", "us"),
    ("accesses.read.limit_p99_us", "  ping-pong", "us"),
    ("accesses.read.busy_p99_us", "  beside a busy neighbour", "us"),
    ("accesses.read.busy_limit_p99_ratio", "  the ping-pong's p99 beside it / idle", "x"),
    ("accesses.write.ours_p50_us", "1-byte write, p50", "us"),
    ("accesses.write.limit_p50_us", "  ping-pong", "us"),
    ("accesses.write.ours_p99_us", "1-byte write, p99", "us"),
    ("accesses.write.limit_p99_us", "  ping-pong", "us"),
    ("accesses.write.busy_p99_us", "  beside a busy neighbour", "us"),
    ("accesses.write.busy_limit_p99_ratio", "  the ping-pong's p99 beside it / idle", "x"),
    ("accesses.computed_read_p50_ratio", "read of a computed register, p50 / ping-pong's", "x"),
    ("lifecycle.removes_per_second", "removes through sysfs", "/s"),
    ("lifecycle.slowest_create_ms", "slowest create", "ms"),
    ("lifecycle.slowest_remove_ms", "slowest remove", "ms"),
    ("lifecycle.fds_per_mdev", "file descriptors of an idle mdev", ""),
    ("lifecycle.threads_per_mdev", "threads of an idle mdev", ""),
    ("management.beside_a_slow_create.p50_ratio", "neighbours of a create of 5 s, p50 / idle", "x"),
    ("management.beside_a_slow_create.p99_ratio", "neighbours of a create of 5 s, p99 / idle", "x"),
    ("management.creates_per_second", "creates by 8 writers at once", "/s"),
    ("management.creates_tmpfs_ratio", "  time / that of as many files in tmpfs", "x"),
    ("management.removes_per_second", "removes by 8 writers at once", "/s"),
    ("management.find_ms_per_1000_nodes", "find over the tree, 1,000 nodes", "ms"),
    ("management.find_tmpfs_ratio", "  time / that over a copy in tmpfs", "x"),
    *(
        (f"authoring.dispatch.sample.{case}", f"dispatch alone, {case.replace('_', ' ')}", "ns")
        for case in (
            *("plain_read", "plain_write", "watched_write", "handler_read", "handler_write", "banked_read"),
            *("banked_write", "straddling_read", "straddling_write"),
        )
    ),
    *report_vfio_user.OTHERS,
    *report_moving.OTHERS,
    *report_uapi.OTHERS,
    *report_gpu.OTHERS,
)

_WAYS: tuple[Literal["read"], Literal["write"]] = ("read", "write")
_CHOSEN: Mapping[str, Callable[[accesses.Measured], Round]] = {
    "ours": lambda each: each.ours,
    "limit": lambda each: each.limit,
}


def of_accesses(rounds: Sequence[accesses.Measured], count: int) -> dict[str, object]:
    """Medians over the rounds, with the smallest and the largest."""
    return {
        "rounds": len(rounds),
        "accesses_per_round": count,
        "read": _of_kind(rounds, lambda each: each["read"]),
        "write": _of_kind(rounds, lambda each: each["write"]),
        "computed_read_p50_ratio": spread(each.computed["read"]["p50"] / each.limit["read"]["p50"] for each in rounds),
    }


def of_lifecycle(runs: Sequence[lifecycle.Measured]) -> dict[str, object]:
    return {
        "mdevs": runs[0].mdevs,
        "runs": len(runs),
        "creates_per_second": spread(each.mdevs / each.create_seconds for each in runs),
        "removes_per_second": spread(each.mdevs / each.remove_seconds for each in runs),
        "slowest_create_ms": spread(each.slowest_create_seconds * 1e3 for each in runs),
        "slowest_remove_ms": spread(each.slowest_remove_seconds * 1e3 for each in runs),
        "memory_kib_per_mdev": _growth(runs, lambda cost: cost.memory_kib),
        "fds_per_mdev": _growth(runs, lambda cost: cost.fds),
        "threads_per_mdev": _growth(runs, lambda cost: cost.threads),
    }


def of_management(run: management.Measured) -> dict[str, object]:
    flood, walk, idle, beside = run.flood, run.walk, run.neighbours.idle, run.neighbours.beside
    return {
        "mdevs": flood.mdevs,
        "nodes": walk.nodes,
        "creates_per_second": one(flood.mdevs / flood.seconds),
        "creates_tmpfs_ratio": one(flood.seconds / flood.tmpfs_seconds),
        "removes_per_second": one(flood.mdevs / run.remove_seconds),
        "find_ms_per_1000_nodes": one(walk.seconds * 1e6 / walk.nodes),
        "find_tmpfs_ratio": one(walk.seconds / walk.tmpfs_seconds),
        "beside_a_slow_create": {
            "idle_p50_ms": one(percentile(idle, 50) * 1e3),
            "idle_p99_ms": one(percentile(idle, 99) * 1e3),
            "p50_ms": one(percentile(beside, 50) * 1e3),
            "p99_ms": one(percentile(beside, 99) * 1e3),
            "p50_ratio": one(percentile(beside, 50) / percentile(idle, 50)),
            "p99_ratio": one(percentile(beside, 99) / percentile(idle, 99)),
        },
    }


def of_authoring(
    rounds: Sequence[authoring.Measured], count: int, dispatch: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> dict[str, object]:
    """Ratios are of two measurements of one round; a share is of a plain access' round trip, declared."""
    trips = {kind: {way: _of_pairs(rounds, kind, way) for way in _WAYS} for kind in authoring.KINDS}
    return {
        "rounds": len(rounds),
        "accesses_per_round": count,
        "round_trips": trips,
        "dispatch": {device: dict(cases) for device, cases in dispatch.items()},
        "dispatch_share_of_round_trip": {
            device: {case: _share(figure, case, trips["plain"]) for case, figure in cases.items()}
            for device, cases in dispatch.items()
        },
    }


def _of_pairs(rounds: Sequence[authoring.Measured], kind: str, way: Literal["read", "write"]) -> dict[str, Figure]:
    pairs = [(each.pairs[kind].declared[way], each.pairs[kind].by_hand[way]) for each in rounds]
    return {
        "p50_ratio": spread(declared["p50"] / by_hand["p50"] for declared, by_hand in pairs),
        "p99_ratio": spread(declared["p99"] / by_hand["p99"] for declared, by_hand in pairs),
        "declared_p50_us": spread(declared["p50"] / 1e3 for declared, _ in pairs),
        "declared_p99_us": spread(declared["p99"] / 1e3 for declared, _ in pairs),
        "by_hand_p50_us": spread(by_hand["p50"] / 1e3 for _, by_hand in pairs),
        "by_hand_p99_us": spread(by_hand["p99"] / 1e3 for _, by_hand in pairs),
    }


def _share(
    figure: Mapping[str, float], case: str, plain: Mapping[Literal["read", "write"], Mapping[str, Figure]]
) -> float:
    """The least of both: what was there when nothing else ran."""
    trip = plain["write" if "write" in case else "read"]["declared_p50_us"]["least"]
    return round(figure["least"] / 1e3 / trip, 3)


def table(result: Mapping[str, object]) -> Table:
    shown = Table(title="mdev-user, measured (median, range)", title_justify="left")
    for column in ("figure", "median", "range", "target", ""):
        shown.add_column(column, justify="left" if column == "figure" else "right")
    for path, name, unit, target in _TARGETS:
        figure = _find(result, path)
        if figure is not None:
            met = figure["median"] >= target if unit in _MORE_IS_BETTER else figure["median"] <= target
            sign = ">=" if unit in _MORE_IS_BETTER else "<="
            shown.add_row(name, *_cells(figure, unit), f"{sign} {target:g} {unit}", "met" if met else "missed")
    shown.add_section()
    for path, name, unit in _OTHERS:
        figure = _find(result, path)
        if figure is not None:
            shown.add_row(name, *_cells(figure, unit), "", "")
    return shown


def _of_kind(rounds: Sequence[accesses.Measured], kind: Callable[[Round], Times]) -> dict[str, Figure]:
    figures = {
        "p50_ratio": spread(kind(each.ours)["p50"] / kind(each.limit)["p50"] for each in rounds),
        "p99_ratio": spread(kind(each.ours)["p99"] / kind(each.limit)["p99"] for each in rounds),
    }
    for name, of in _CHOSEN.items():
        figures[f"{name}_p50_us"] = spread(kind(of(each))["p50"] / 1e3 for each in rounds)
        figures[f"{name}_p99_us"] = spread(kind(of(each))["p99"] / 1e3 for each in rounds)
    pairs = [(each, each.busy, each.busy_limit) for each in rounds if each.busy and each.busy_limit]
    if pairs:
        figures |= {
            "busy_p50_us": spread(kind(busy)["p50"] / 1e3 for _, busy, _ in pairs),
            "busy_p99_us": spread(kind(busy)["p99"] / 1e3 for _, busy, _ in pairs),
            "busy_p99_ratio": spread(kind(busy)["p99"] / kind(each.ours)["p99"] for each, busy, _ in pairs),
            "busy_limit_p99_ratio": spread(kind(limit)["p99"] / kind(each.limit)["p99"] for each, _, limit in pairs),
        }
    return figures


def _growth(runs: Sequence[lifecycle.Measured], part: Callable[[lifecycle.Cost], int]) -> Figure:
    return spread((part(each.with_all) - part(each.before)) / each.mdevs for each in runs)


def _find(result: Mapping[str, Any], path: str) -> Figure | None:
    part, _, name = path.rpartition(".")
    found: Any = result  # what was not measured is absent
    for key in (*part.split("."), name):
        found = found.get(key, {})
    return found or None


def _cells(figure: Figure, unit: str) -> tuple[str, str]:
    return f"{figure['median']:.4g} {unit}", f"{figure['least']:.4g} - {figure['most']:.4g}"
