"""Reads of a register of one vgpu, while another mdev of the same parent draws all the time, and while none does.

Who draws does so from memory in single pages, as a guest's is, of which the host copies one after the other. The host
is where the kernel puts it; the client that reads and the one that draws have a core each.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from gpu_scene import PARENT, Mdev, busy, drawing, spread_over
from programs import Times, running
from served import Daemon

from mdev_user.units import PAGE

REGISTER = 4
"""Bytes of the registers that are read."""
REGISTERS: Mapping[str, tuple[int, int]] = {"plain": (2, 0x08), "banked": (0, 0x04)}
"""Region and offset of num_scanouts in the virtio configuration, and of device_feature, of which there are two."""


@dataclass(frozen=True)
class Measured:
    """One round, by `REGISTERS`."""

    idle: Mapping[str, Times]
    beside: Mapping[str, Times]


class RegisterRounds:
    """The programs that take part, started; `round` has each of them do its work."""

    def __init__(self, stack: ExitStack, daemon: Daemon, folder: Path, cores: Sequence[int]) -> None:
        """``folder`` has the programs."""
        self._readers = {}
        for name, register in REGISTERS.items():
            command = [str(folder / "client"), str(Mdev.created(daemon).socket), *map(str, register), "computed"]
            self._readers[name] = stack.enter_context(running(command, cores[0]))
        self._neighbour = stack.enter_context(drawing(Mdev.created(daemon), cores[-1], PAGE))
        spread_over(daemon.host_of(PARENT), cores)

    def round(self, accesses: int) -> Measured:
        idle = self._read(accesses)
        with busy(self._neighbour):
            return Measured(idle, self._read(accesses))

    def _read(self, accesses: int) -> Mapping[str, Times]:
        return {name: each.round(accesses)["read"] for name, each in self._readers.items()}
