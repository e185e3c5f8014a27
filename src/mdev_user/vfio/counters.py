"""What is counted of a device while it is used: plain integers, each written under the device's step lock."""

from mdev_user.vfio.plain import NoTable, PlainTable

SLOW_STEP_NS = 1_000_000
"""A guest's virtual processor waits for a step: one that takes longer than this is counted and named."""


class Counters:
    """Counts since the mdev was created."""

    __slots__ = (
        "dma_read_bytes",
        "dma_write_bytes",
        "guest_errors",
        "interrupts",
        "last_guest_error",
        "opens",
        "performed_reads",
        "performed_writes",
        "plain",
        "slow_steps",
        "slowest_step",
        "slowest_step_ns",
    )

    def __init__(self) -> None:
        self.opens = 0
        self.performed_reads = 0
        """Those that the device performed; others were answered from `plain`."""
        self.performed_writes = 0
        self.plain: PlainTable = NoTable()
        self.interrupts = 0
        self.dma_read_bytes = 0
        self.dma_write_bytes = 0
        self.guest_errors = 0
        self.last_guest_error = ""
        self.slow_steps = 0
        self.slowest_step = ""
        self.slowest_step_ns = 0

    @property
    def reads(self) -> int:
        return self.performed_reads + self.plain.reads

    @property
    def writes(self) -> int:
        return self.performed_writes + self.plain.writes

    def guest_error(self, error: Exception) -> None:
        self.guest_errors += 1
        self.last_guest_error = str(error)

    def slow_step(self, name: str, duration_ns: int) -> None:
        self.slow_steps += 1
        if duration_ns > self.slowest_step_ns:
            self.slowest_step_ns = duration_ns
            self.slowest_step = name

    def values(self) -> dict[str, int | str]:
        return {name: getattr(self, name) for name in _SHOWN}


_SHOWN = (
    "dma_read_bytes",
    "dma_write_bytes",
    "guest_errors",
    "interrupts",
    "last_guest_error",
    "opens",
    "reads",
    "slow_steps",
    "slowest_step",
    "slowest_step_ns",
    "writes",
)
