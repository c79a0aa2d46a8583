"""What a run writes down: ``run.json`` (what was done) and ``metrics.json`` (what came of it)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core import __version__, provenance
from zoo_core.evaluation.prepare import Job, recipe_facts
from zoo_core.evaluation.request import DEFAULT_CALIBRATION_SIZE
from zoo_core.runs import SCHEMA, RunDirectory

if TYPE_CHECKING:
    import torch

    from zoo_core.datatypes import Checkpoint, ProtocolScore
    from zoo_core.evaluation.onnx_backend import Exported
    from zoo_core.evaluation.stages import Stage
    from zoo_core.inference import InferenceStats
    from zoo_core.quantization.pipeline import Simulation, StepOutcome
    from zoo_core.quantization.sqnr import LayerSqnr


class Record:
    """Collects the facts of a run and keeps ``run.json`` up to date while it goes on.

    Attributes:
        content: What ``run.json`` holds.
        metrics: What ``metrics.json`` holds once the run is complete.
    """

    def __init__(self, job: Job, run_dir: RunDirectory, *, prepare_seconds: float) -> None:
        self._job = job
        self._run_dir = run_dir
        self.warnings = _standing_warnings(job)
        self.content: dict[str, Any] = {
            "schema": SCHEMA,
            "zoo_eval": __version__,
            "status": "running",
            "started": _now(),
            "finished": None,
            "model": job.entry.model_id,
            "plugin": job.entry.plugin,
            "task": job.entry.task,
            "registry": str(job.entry.source),
            "headline": job.entry.headline,
            "request": job.request.as_json(),
            "settings": {
                "batch_size": job.settings.batch_size,
                "workers": job.settings.workers,
                "device": job.settings.device,
                "backend": job.request.backend,
                "seed": job.request.seed,
                "stages": [stage.name for stage in job.stages],
            },
            "recipe": recipe_facts(job),
            "checkpoint": _checkpoint_facts(job.checkpoint),
            "optimized_checkpoint": _checkpoint_facts(job.optimized_checkpoint),
            "dataset": _dataset_facts(job),
            "calibration": _calibration_facts(job),
            "environment": provenance.environment(job.settings.device),
            "git": provenance.git_state(Path(__file__)),
            "steps": [],
            "simulations": {},
            "stages": {},
            "seconds": {"prepare": prepare_seconds},
            "warnings": [],
        }
        self.metrics: dict[str, Any] = {}
        self._scores: dict[str, Any] = {}
        self._protocols: dict[str, Any] = {}
        run_dir.write_text("image_ids.txt", "".join(f"{image_id}\n" for image_id in job.data.image_ids))
        self._save()
        provenance.take_peak_memory_bytes()  # what preparation needed is no stage's

    def _save(self) -> None:
        self._run_dir.write_json("run.json", self.content)

    def warn(self, text: str) -> None:
        """Add a warning to the record."""
        self.content["warnings"].append(text)

    def add_step(self, outcome: StepOutcome) -> None:
        """Record what a recipe step did."""
        self.content["steps"].append(
            {
                "step": outcome.name,
                "seconds": outcome.seconds,
                "summary": outcome.summary,
                "effect": dict(outcome.effect),
                "peak_memory_bytes": provenance.take_peak_memory_bytes(),
            }
        )
        if outcome.effect.get("short"):
            self.warn(f"{outcome.name}: {outcome.summary}")
        self._save()

    def add_simulation(self, stage: Stage, simulation: Simulation, layers: Sequence[LayerSqnr]) -> None:
        """Record how a stage's encodings were computed, and the noise that they bring to each layer."""
        self.content["simulations"][stage.name] = {
            "seconds": simulation.seconds,
            "summary": simulation.summary,
            "effect": dict(simulation.effect),
            "layers": [layer.as_json() for layer in layers],
            "peak_memory_bytes": provenance.take_peak_memory_bytes(),
        }
        self._save()

    def add_stage(
        self,
        stage: Stage,
        scores: Mapping[str, ProtocolScore],
        stats: InferenceStats,
        size_bytes: int,
        *,
        scoring_seconds: float,
        exported: Exported | None,
    ) -> None:
        """Record a stage's scores, what computed it (torch unless it was exported), and what it cost."""
        self.content["stages"][stage.name] = {
            "quantized": stage.quantized,
            "backend": "torch" if exported is None else "onnxruntime",
            "agreement": None if exported is None else exported.agreement.as_json(),
            "export_seconds": None if exported is None else exported.seconds,
            "seconds": stats.seconds,
            "network_seconds": stats.network_seconds,
            "scoring_seconds": scoring_seconds,
            "images_per_second": stats.num_images / stats.seconds if stats.seconds else None,
            "weights_bytes": size_bytes,
            "peak_memory_bytes": provenance.take_peak_memory_bytes(),
        }
        self._scores[stage.name] = {
            "quantized": stage.quantized,
            "num_images": stats.num_images,
            "metrics": {
                protocol: {**score.values, "per_class": dict(score.per_class)} for protocol, score in scores.items()
            },
        }
        for protocol, score in scores.items():
            self._protocols.setdefault(
                protocol,
                {
                    "definition": score.definition,
                    "num_images": score.num_images,
                    "num_objects": dict(score.num_objects),
                    "notes": list(score.notes),
                },
            )
        self._save()

    def write_metrics(self) -> None:
        """Write ``metrics.json``; only a complete run has one."""
        job = self._job
        stages = {
            stage.name: {**self._scores[stage.same_as or stage.name], "same_as": stage.same_as} for stage in job.stages
        }
        baseline = _headline(stages.get("fp32"), job.entry.headline)
        for scores in stages.values():
            value = _headline(scores, job.entry.headline)
            known = baseline is not None and value is not None
            scores["drop_points"] = 100.0 * (baseline - value) if known else None  # type: ignore[operator]
        self.metrics = {
            "schema": SCHEMA,
            "model": job.entry.model_id,
            "headline": job.entry.headline,
            "num_images": len(job.data.image_ids),
            "limited": job.data.limited,
            "fingerprint": job.data.fingerprint,
            "stages": stages,
            "protocols": self._protocols,
            "warnings": self.content["warnings"],
        }
        self._run_dir.write_json("metrics.json", self.metrics)

    def finish(self, status: str, *, error: str | None = None) -> None:
        """Record how the run ended."""
        self.content["status"] = status
        self.content["finished"] = _now()
        if error is not None:
            self.content["error"] = error
        self._save()


def _headline(stage: Mapping[str, Any] | None, protocol: str) -> float | None:
    """First value of the headline protocol, or None."""
    if stage is None:
        return None
    value = next(iter(stage["metrics"][protocol].values()))
    return value if isinstance(value, float) else None


def _standing_warnings(job: Job) -> tuple[str, ...]:
    texts = []
    if job.data.limited and job.data.image_ids:
        texts.append(
            f"Limited run: {len(job.data.image_ids)} of the {len(job.data.dataset.ids)} images of "
            f"{job.data.dataset.split}; scored on these alone, not comparable with a full run."
        )
    draw = job.calibration
    if draw is not None and draw.overlap:
        texts.append(f"Calibration overlap: {len(draw.overlap)} calibration images belong to the evaluated split.")
    if draw is not None and len(draw.ids) < draw.requested != DEFAULT_CALIBRATION_SIZE:
        texts.append(f"Calibration uses {len(draw.ids)} images, all there are; {draw.requested} were asked for.")
    if job.optimized_bundle is not None:
        texts.append("The optimized network was loaded: cross-layer equalization and AdaRound were skipped.")
    return tuple(texts)


def _checkpoint_facts(checkpoint: Checkpoint | None) -> dict[str, Any] | None:
    if checkpoint is None:
        return None
    return {"path": str(checkpoint.path), "sha256": checkpoint.sha256, "optimized": checkpoint.optimized}


def _dataset_facts(job: Job) -> dict[str, Any]:
    data = job.data
    return {
        "name": data.dataset.name,
        "root": str(data.dataset.root.absolute()),
        "split": data.dataset.split,
        "num_images": len(data.image_ids),
        "num_images_in_split": len(data.dataset.ids),
        "limited": data.limited,
        "fingerprint": data.fingerprint,
        "image_ids_sha256": hashlib.sha256("\n".join(data.image_ids).encode()).hexdigest(),
        "class_names": list(data.dataset.class_names),
    }


def _calibration_facts(job: Job) -> dict[str, Any] | None:
    draw, dataset = job.calibration, job.calibration_dataset
    if draw is None or dataset is None:
        return None
    return {
        "split": dataset.split,
        "seed": job.request.seed,
        "requested": draw.requested,
        "num_images": len(draw.ids),
        "num_available": draw.available,
        "overlap": list(draw.overlap),
        "ids": list(draw.ids),
    }


def model_size_bytes(network: torch.nn.Module, param_bw: int | None) -> int:
    """Bytes of a network's parameters: 4 each in float; with ``param_bw``, weights at that width and biases at 4.

    Parameters of two or more dimensions are weights; buffers such as batch-norm statistics are not counted.
    """
    total = 0.0
    for parameter in network.parameters():
        bits = param_bw if param_bw is not None and parameter.dim() >= 2 else 32
        total += parameter.numel() * bits / 8
    return round(total)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
