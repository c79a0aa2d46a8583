"""Shared parts of the benchmarks: alternating repeats, their spread, and the conditions of a figure."""

from __future__ import annotations

import dataclasses
import datetime
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from zoo_core.runs import provenance

Clock: TypeAlias = Callable[[], float]
"""``time.perf_counter``, or ``time.process_time``: the time of all cores used, which a busy machine changes less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A figure of several repeats, in any unit."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    def __str__(self) -> str:
        return f"{self.median:8.2f} (from {min(self.values):.2f} to {max(self.values):.2f})"

    def as_json(self) -> dict[str, Any]:
        """Return least, middle and largest value, and all values in the order taken."""
        return {
            "min": min(self.values),
            "median": self.median,
            "max": max(self.values),
            "values": list(self.values),
        }


def in_turn(
    sides: Mapping[str, Callable[[], object]], repeats: int, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Measure the seconds of each side's repeats; sides alternate, so that a busy moment of the machine affects all."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, work in sides.items():
            seconds[name].append(timed(work, clock))
    return seconds


def timed(work: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    """Seconds that one call takes."""
    start = clock()
    work()
    return clock() - start


def ratios(slow: Sequence[float], fast: Sequence[float]) -> Spread:
    """Compute the speed ratio of two sides, repeat by repeat."""
    return Spread(values=tuple(one / other for one, other in zip(slow, fast, strict=True)))


def conditions() -> dict[str, Any]:
    """Return date, machine, versions and load: above the number of cores, other work distorts the times."""
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    return {"date": today, "load_average": os.getloadavg(), **dataclasses.asdict(provenance.environment("cpu"))}
