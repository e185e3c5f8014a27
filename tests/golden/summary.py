"""How much of a transcript is the same: one text, told at the end of the test run."""

from collections.abc import Callable, Mapping, Sequence

from golden.differences import Difference
from golden.normal import Skipped, skipped
from golden.transcript import Step

TOLD = "replay"
"""The property of a test's report that has it: reports come back from the processes that run the tests."""


def summary(
    steps: Sequence[Step],
    found: Mapping[str, Sequence[str]],
    rows: Sequence[Difference],
    skips: Callable[[Step], Skipped | None] = skipped,
) -> str:
    """Counts of steps; ``found`` is what differs, by step, of all that were compared."""
    differ = {name for name, parts in found.items() if parts}
    told = {name for row in rows for name in row.steps}
    left_out = [step.name for step in steps if skips(step) is not None]
    return (
        f"{len(steps)} steps: {len(found) - len(differ)} same, {len(differ & told)} differing with a row, "
        f"{len(differ - told)} without, {len(left_out)} skipped ({', '.join(left_out)})"
    )
