"""From measurements of moving an mdev to figures, and the target."""

from collections.abc import Sequence

from figures import spread
from moving import SIZE, Measured

from mdev_user.units import MiB

TARGETS = (("moving.downtime_ratio", f"downtime of {SIZE // MiB} MiB of which 1 % changes / comparing them", "x", 2.0),)
"""As `report._TARGETS`."""
OTHERS = (
    ("moving.downtime_ms", "downtime", "ms"),
    ("moving.compare_ms", "  comparing the memory once", "ms"),
    ("moving.seconds", "moving it", "s"),
    ("moving.passes", "  passes while it runs", ""),
    ("moving.mib", "  MiB in all", ""),
    ("moving.rest_mib", "  MiB when it had stopped", ""),
)


def of_moving(rounds: Sequence[Measured]) -> dict[str, object]:
    """Medians over the rounds, with the smallest and the largest."""
    downtimes = [each.moved.downtime or 0.0 for each in rounds]
    return {
        "rounds": len(rounds),
        "downtime_ratio": spread(
            downtime / each.compare_seconds for downtime, each in zip(downtimes, rounds, strict=True)
        ),
        "downtime_ms": spread(downtime * 1e3 for downtime in downtimes),
        "compare_ms": spread(each.compare_seconds * 1e3 for each in rounds),
        "seconds": spread(each.moved.seconds for each in rounds),
        "passes": spread(len(each.moved.passes) for each in rounds),
        "mib": spread(each.moved.bytes / MiB for each in rounds),
        "rest_mib": spread(each.moved.rest / MiB for each in rounds),
    }
