"""Policy: who may have the time of an engine."""

from enum import Enum


class Policy(Enum):
    """Who may have the engine's time, in NVIDIA's words for time-sliced vGPUs."""

    BEST_EFFORT = "by weight among those that want it; what somebody leaves is the others'"
    EQUAL_SHARE = "each mdev in use the same part, whatever its weight, and no more, whether others use theirs or not"
    FIXED_SHARE = "each mdev its weight's part of the whole and no more, whether others use theirs, or exist, or not"
