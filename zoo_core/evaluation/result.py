"""Result of a run for notebooks and scripts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core.datatypes import measure
from zoo_core.display import percent, points
from zoo_core.evaluation.runtime_content import runtime_content
from zoo_core.runs.record import record_content

if TYPE_CHECKING:
    from zoo_core.datatypes import Task
    from zoo_core.runs.parts import StageScores
    from zoo_core.runs.record import MetricsRecord, RunRecord


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class EvaluationResult:
    """Complete run; its ``repr`` is a short table.

    Attributes:
        run_dir: The run directory.
        record: Content of ``run.json``.
        metrics: Content of ``metrics.json``; None when nothing was evaluated.
        headline_name: Display name of the headline value, e.g. ``mAP``.
    """

    run_dir: Path
    record: RunRecord
    metrics: MetricsRecord | None
    headline_name: str

    @property
    def stages(self) -> Mapping[str, StageScores]:
        """Return scores by stage: ``result.stages["w8a8"].scores["coco"].headline``; empty if nothing was evaluated."""
        return {} if self.metrics is None else self.metrics.stages

    def rows(self) -> list[dict[str, Any]]:
        """Return a flat row per stage for ``pandas.DataFrame``: conditions, cost, and values by ``protocol key``."""
        listed = []
        for name, stage in self.stages.items():
            cost = self.record.stages.get(stage.same_as or name)
            row: dict[str, Any] = {
                "model": self.record.model,
                "recipe": self.record.recipe.name,
                "stage": name,
                "quantized": stage.quantized,
                "num_images": stage.num_images,
                "headline": stage.scores[self.record.headline].headline,
                "drop_points": stage.drop_points,
                "images_per_second": None if cost is None else cost.images_per_second,
                "weights_bytes": None if cost is None else cost.weights_bytes,
            }
            for protocol, score in stage.scores.items():
                row.update({f"{protocol} {key}": value for key, value in score.values.items()})
            listed.append(row)
        return listed

    def runtimes(self) -> dict[str, dict[str, Any]]:
        """Return what was measured on each runtime: the output of ``zoo-eval deploy --json``."""
        return {
            cost.deployment.runtime: runtime_content(self.run_dir, name, self.stages[name], cost.deployment)
            for name, cost in self.record.stages.items()
            if cost.deployment is not None and name in self.stages
        }

    def as_json(self) -> dict[str, Any]:
        """Return the output of ``--json``: the run directory with each stage's scores, or the steps of ``quantize``."""
        if self.metrics is not None:
            return {"run_dir": str(self.run_dir), "stages": record_content(self.metrics)["stages"]}
        steps = record_content(self.record)["steps"]
        return {"run_dir": str(self.run_dir), "quantized": str(self.run_dir / "quantized"), "steps": steps}

    def __repr__(self) -> str:
        """Return a table of each stage's headline value in percent and drop in points."""
        lines = [f"{self.record.model}, {self.headline_name} under {self.record.headline}, run {self.run_dir}"]
        width = max(map(len, self.stages), default=0)
        lines += [
            f"  {row['stage']:<{width}}  {percent(row['headline']):>6}  drop {points(row['drop_points'])}"
            for row in self.rows()
        ]
        return "\n".join(lines)


def headline_name(metrics: MetricsRecord | None, task: Task | None) -> str:
    """Return the display name of the headline value; its key if the task is unknown."""
    stages = () if metrics is None else metrics.stages.values()
    return next((measure(task, stage.scores[metrics.headline].key).overall for stage in stages if metrics), "")
