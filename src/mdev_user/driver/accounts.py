"""Accounts: what an operator is told of one mdev's share of an engine."""

from dataclasses import dataclass


@dataclass(slots=True)
class Accounts:
    """What one mdev had of an engine so far."""

    given: float = 0.0
    """Cost, in the engine's unit."""
    seconds: float = 0.0
    """That its turns were held, by the clock of its jobs."""
    turns: int = 0
    frames: int = 0
    waited: float = 0.0
    """Seconds for others."""
    held_back: float = 0.0
    """Seconds for its own limits."""
