"""Says in one sentence per quantized stage whether it lost anything against fp32, and how certain that is.

The report, the terminal and the paragraph for a mail print the same sentences.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo_core.comparison.stages import BASELINE, OPTIMIZED, is_optimized, is_plain, simulation_of
from zoo_core.display import page_points

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zoo_core.runs.lenient import ReadableMetrics
    from zoo_core.runs.parts import ChangeRecord, StageScores
    from zoo_core.runs.record import MetricsRecord


def verdict(metrics: ReadableMetrics | MetricsRecord) -> list[str]:
    """Describe the plain and the optimized quantized stages, a sentence each; of a run with neither, every one.

    Empty where the run has no quantized stage, or none with a score.
    """
    quantized = {
        name: stage
        for name, stage in metrics.stages.items()
        if stage.quantized and stage.same_as is None and stage.scores
    }
    if quantized and BASELINE not in metrics.stages:
        return [f"The run has no {BASELINE} stage, so it does not show what quantization changes."]
    names = [
        name for name in quantized if is_plain(name) or is_optimized(name) or simulation_of(name) is not None
    ] or list(quantized)
    where = f"on {metrics.num_images} images{' (limited run)' if metrics.limited else ''}"
    return [
        _recovery(name, quantized, where) or _sentence(name, quantized[name], where)
        for name in sorted(names, key=lambda name: (simulation_of(name) is not None, is_optimized(name)))
    ]


def change_cell(stage: StageScores) -> str:
    """The change with its interval for a table, e.g. ``-2.03 (-2.61 to -1.40)``; a dash where it is not known."""
    change = stage.change
    if change is None:
        return page_points(None if stage.drop_points is None else -stage.drop_points)
    return points_cell(change)


def points_cell(change: ChangeRecord) -> str:
    """A change with its interval for a table."""
    if change.low is None or change.high is None:
        return f"{page_points(change.points)} (too few images)"
    return f"{page_points(change.points)} ({page_points(change.low)} to {page_points(change.high)})"


def _sentence(name: str, stage: StageScores, where: str) -> str:
    change = stage.change
    if change is None:
        if stage.drop_points is None:
            return f"{name} cannot be compared with {BASELINE}: one of the two values is undefined."
        points = page_points(-stage.drop_points)
        return f"{name}: {points} points against {BASELINE} {where}; the run recorded no interval."
    if change.low is None or change.high is None:
        return f"{name}: {page_points(change.points)} points against {BASELINE} {where}, too few for an interval."
    if change.low == change.high == 0.0:
        return (
            f"{name} loses nothing: the value of {BASELINE} {where}, and in each of {change.num_resamples} resamples."
        )
    if change.low <= 0.0 <= change.high:
        return (
            f"{name} loses nothing measurable: {page_points(change.points)} points, {_interval(change)}, {where}; a "
            f"difference below about {_coarse(change.resolution_points)} points could not be seen here."
        )
    verb = "loses" if change.high < 0.0 else "gains"
    return f"{name} {verb} {abs(change.points):.2f} points ({_interval(change)}) {where}."


def _recovery(name: str, stages: Mapping[str, StageScores], where: str) -> str | None:
    """Compare an optimized stage with the plain one of its bit widths, where that one lost something measurable."""
    plain = stages.get(name.removeprefix(OPTIMIZED))
    after, before = stages[name].change, plain.change if plain is not None else None
    if not is_optimized(name) or after is None or before is None:
        return None
    if after.low is None or after.high is None or before.high is None or before.high >= 0.0:
        return None
    if after.low <= before.high:  # overlapping intervals do not show a recovery
        return f"{_sentence(name, stages[name], where)} Its interval overlaps that of {name.removeprefix(OPTIMIZED)}."
    recovered = after.points - before.points
    amount = "all" if after.points >= 0.0 else f"{recovered:.2f}"
    left = "; what is left is not measurable" if after.points < 0.0 <= after.high else ""
    return (
        f"{name} recovers {amount} of these {-before.points:.2f} points: {page_points(after.points)} points, "
        f"{_interval(after)}{left}."
    )


def _interval(change: ChangeRecord) -> str:
    return f"95 % interval {page_points(change.low)} to {page_points(change.high)}"


def _coarse(value: float | None) -> str:
    """One decimal, or one significant digit of a smaller value."""
    return "?" if value is None else f"{value:.1f}" if value >= 0.1 else f"{value:.1g}"
