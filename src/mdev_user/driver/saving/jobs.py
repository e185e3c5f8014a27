# ruff: noqa: SLF001 - declarations know each other's underscored names; all others are left to the author
"""The jobs under way, saved as their names, arguments and the time that they have slept."""

from collections import Counter
from collections.abc import Container, Iterable
from math import isfinite
from typing import Any

import msgspec

from mdev_user.driver.jobs import Job, PendingJob, Worker
from mdev_user.driver.saving.kinds import encoded
from mdev_user.driver.saving.naming import Units, meant, prefix_of
from mdev_user.driver.saving.snapshot import JobStream
from mdev_user.driver.stepping import Slept
from mdev_user.driver.unit import AnyUnit
from mdev_user.errors import StateError

MOST_SLEPT = 1e12
"""Seconds. A number that can be added to a clock."""

Loaded = tuple[AnyUnit, "Job[Any]", PendingJob, bool]  # Any: of whatever parameters
"""A job of a unit, and whether it runs once more when it has ended."""


def jobs_of(jobs: Iterable[PendingJob], again: Container[PendingJob], now: float) -> list[JobStream]:
    """``again`` are those that will run once more when they have ended."""
    return [
        JobStream(
            each.unit,
            each.name,
            {name: msgspec.Raw(encoded(value)) for name, value in each.arguments.items()},
            each.slept.seconds(now),
            each in again,
        )
        for each in jobs
    ]


def checked_jobs(units: Units, saved: Iterable[JobStream]) -> list[Loaded]:
    """The jobs to start; StateError for those that cannot be under way."""
    jobs = [_checked_job(units, each) for each in saved]
    under_way = Counter((unit._name, job) for unit, job, _work, _again in jobs)
    for (unit, job), count in under_way.items():
        if count > job._limit:
            raise StateError(f"{prefix_of(unit)}{job._name}: expected at most {job._limit} under way, given {count}")
    return jobs


def _checked_job(units: Units, saved: JobStream) -> Loaded:
    if saved.unit not in units:
        raise StateError(f"saved job: there is no {saved.unit!r:.80}{meant(saved.unit, units)}")
    unit = units[saved.unit]
    jobs = unit._plan.jobs
    if saved.name not in jobs:
        raise StateError(f"saved state: there is no job {saved.name!r:.80}{meant(saved.name, jobs)}")
    if not (isfinite(saved.slept) and 0 <= saved.slept <= MOST_SLEPT):
        raise StateError(f"{saved.name}: slept: expected seconds from 0 to {MOST_SLEPT:g}, given {saved.slept}")
    job = jobs[saved.name]
    arguments = job._parameters.decode(saved.arguments)
    if saved.again and not isinstance(job, Worker):
        raise StateError(f"{saved.name}: again: only a worker runs once more, and it is none")
    return unit, job, PendingJob(saved.unit, saved.name, arguments, Slept(saved.slept)), saved.again
