"""Figures: what is made of measurements. A ratio is of two measurements of one round."""

from collections.abc import Iterable, Sequence
from statistics import median, quantiles

Figure = dict[str, float]
"""The median of the rounds, the least and the most."""


def spread(values: Iterable[float]) -> Figure:
    known = sorted(values)
    return {"median": round(median(known), 3), "least": round(known[0], 3), "most": round(known[-1], 3)}


def one(value: float) -> Figure:
    return spread([value])


def percentile(values: Sequence[float], percent: int) -> float:
    return quantiles(values, n=100)[percent - 1]
