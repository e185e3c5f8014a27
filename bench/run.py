"""`make bench`: accesses, life cycle, many mdevs and the cost of declaring, against the targets; see README.md."""

import argparse
import json
import os
import platform
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import accesses
import authoring
import boots
import dispatch
import gpu
import gpu_plot
import gpu_registers
import lifecycle
import management
import moving
import peer
import report
import report_gpu
import report_moving
import report_uapi
import report_vfio_user
import vfio_user
from programs import CannotMeasure, build, on_core
from rich.console import Console
from served import memory_folder

import uapi
from mdev_user import __version__
from mdev_user.vfio_user.loops import chosen

_BOOTS = 5
_RESULTS = Path(__file__).parent / "results"


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # end as by Ctrl-C: nothing stays
    console = Console(width=None if sys.stdout.isatty() else 120)
    try:
        result = _measure(options, console)
    except CannotMeasure as error:
        print(f"cannot measure: {error}", file=sys.stderr)
        return 1
    path = options.out or _RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-{_name(options.only)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    console.print(report.table(result))
    console.print(f"written to {os.path.relpath(path)}")
    return 0


def _measure(options: argparse.Namespace, console: Console) -> dict[str, object]:
    result: dict[str, object] = {"machine": _machine()}
    for name, (doing, measured) in _PARTS.items():
        if name in options.only:
            with console.status(f"{doing} ..."):
                result |= measured(options)
    return result


def _accesses(options: argparse.Namespace) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="mdev-user-bench-") as folder:
        build(Path(folder))
        cores = tuple(sorted(os.sched_getaffinity(0)))
        measured = accesses.measure(Path(folder), options.rounds, options.accesses, cores)
    return {"accesses": report.of_accesses(measured, options.accesses)}


def _lifecycle(options: argparse.Namespace) -> dict[str, object]:
    runs = [lifecycle.measure(options.mdevs) for _ in range(options.runs)]
    return {"lifecycle": report.of_lifecycle(runs), "lifecycle_runs": [asdict(each) for each in runs]}


def _management(options: argparse.Namespace) -> dict[str, object]:
    return {"management": report.of_management(management.measure(options.many, options.parents))}


def _moving(options: argparse.Namespace) -> dict[str, object]:
    return {"moving": report_moving.of_moving(moving.measure(options.moves))}


def _uapi(options: argparse.Namespace) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="mdev-user-bench-") as folder:
        build(Path(folder), uapi.REGISTER)
        core = min(os.sched_getaffinity(0))
        measured = uapi.measure(Path(folder), options.vfio_user_rounds, options.accesses, core)
    return {"uapi": report_uapi.of_uapi(measured, boots.measure(_BOOTS))}


def _gpu(options: argparse.Namespace) -> dict[str, object]:
    load = gpu.Load(options.gpu_rounds, options.updates, options.accesses, options.phase)
    with tempfile.TemporaryDirectory(prefix="mdev-user-bench-") as folder:
        wider = Path(folder) / gpu.WIDER
        wider.mkdir()
        build(Path(folder))
        build(wider, gpu_registers.REGISTER)
        measured = gpu.measure(Path(folder), load)
    results = options.out.parent if options.out else _RESULTS
    plot = gpu_plot.svg(measured.course, "What three mdevs of one vgpu draw")
    (results / f"{datetime.now(UTC):%Y-%m-%d}-gpu-shares.svg").write_text(plot)
    return {"gpu": report_gpu.of_gpu(measured)}


def _name(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else "spine"


def _authoring(options: argparse.Namespace) -> dict[str, object]:
    cores = tuple(sorted(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory(prefix="mdev-user-bench-") as folder:
        build(Path(folder))
        measured = authoring.measure(Path(folder), options.rounds, options.authoring_accesses, cores)
    with on_core(cores[0]):
        alone = dispatch.measure()
    return {"authoring": report.of_authoring(measured, options.authoring_accesses, alone)}


def _vfio_user(options: argparse.Namespace) -> dict[str, object]:
    cores = tuple(sorted(os.sched_getaffinity(0)))
    load = vfio_user.Load(options.vfio_user_rounds, options.accesses, options.interrupts, options.connected)
    with tempfile.TemporaryDirectory(prefix="mdev-user-bench-") as folder:
        build(Path(folder), vfio_user.REGISTER)
        measured = vfio_user.measure(Path(folder), load, cores, options.libvfio_user)
    return {"vfio_user": report_vfio_user.of_vfio_user(measured, load)}


_PARTS: Mapping[str, tuple[str, Callable[[argparse.Namespace], dict[str, object]]]] = {
    "accesses": ("accesses", _accesses),
    "lifecycle": ("creates and removes", _lifecycle),
    "management": ("many mdevs on many parents", _management),
    "authoring": ("declared and by hand", _authoring),
    "vfio-user": ("users over vfio-user", _vfio_user),
    "moving": ("an mdev that moves", _moving),
    "uapi": ("programs under `run`", _uapi),
    "gpu": ("a GPU that is shared", _gpu),
}
"""What it says while it measures, and what does it."""


def _machine() -> dict[str, object]:
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "when": f"{datetime.now(UTC):%Y-%m-%dT%H:%MZ}",
        "version": __version__,
        "cores": len(os.sched_getaffinity(0)),
        "processor": model[1] if model else platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "python_library": "shared" if "/libpython" in Path("/proc/self/maps").read_text() else "static",
        "loop": chosen().name,
        "run_directory": "in memory" if memory_folder() else "on disk",
        "load": round(os.getloadavg()[0], 2),
    }


def _options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parts = tuple(_PARTS)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="rounds of accesses (default %(default)s)")
    parser.add_argument("--accesses", type=int, default=3000, help="of each kind in a round (default %(default)s)")
    parser.add_argument(
        "--authoring-accesses", type=int, default=500, help="of each kind of register in a round (default %(default)s)"
    )
    parser.add_argument("--mdevs", type=int, default=1000, help="to create and remove (default %(default)s)")
    parser.add_argument("--many", type=int, default=10_000, help="to create by many writers (default %(default)s)")
    parser.add_argument("--parents", type=int, default=100, help="on which they are created (default %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="of creates and removes (default %(default)s)")
    parser.add_argument("--moves", type=int, default=12, help="of an mdev to another daemon (default %(default)s)")
    parser.add_argument("--vfio-user-rounds", type=int, default=12, help="of those (default %(default)s)")
    parser.add_argument("--interrupts", type=int, default=1000, help="in a round (default %(default)s)")
    parser.add_argument("--gpu-rounds", type=int, default=8, help="of those (default %(default)s)")
    parser.add_argument("--updates", type=int, default=60, help="of a full screen in a round (default %(default)s)")
    parser.add_argument("--phase", type=float, default=1.5, help="seconds between changes (default %(default)s)")
    parser.add_argument("--connected", type=int, default=256, help="mdevs in use at once (default %(default)s)")
    parser.add_argument(
        "--libvfio-user",
        type=Path,
        default=os.environ.get(peer.VARIABLE),
        metavar="PATH",
        help=f"a libvfio-user server to measure beside ours, see peer.py (default: ${peer.VARIABLE})",
    )
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, help="what to measure (default: all)")
    parser.add_argument(
        "--out",
        type=Path,
        help="the JSON file (default: bench/results/DATE-spine.json; of one part alone, DATE-PART.json)",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
