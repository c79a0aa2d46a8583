"""What a run writes down: ``run.json`` (what was done) and ``metrics.json`` (what came of it)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core import __version__, provenance
from zoo_core.evaluation.prepare import Job, recipe_facts
from zoo_core.evaluation.stages import ORIGINAL
from zoo_core.runs.directory import SCHEMA, RunDirectory
from zoo_core.runs.request import DEFAULT_CALIBRATION_SIZE

if TYPE_CHECKING:
    import torch

    from zoo_core.datatypes import Checkpoint, ProtocolScore
    from zoo_core.evaluation.batch_sizes import Moved
    from zoo_core.evaluation.onnx_backend import Exported
    from zoo_core.evaluation.stages import Stage
    from zoo_core.inference import InferenceStats
    from zoo_core.quantization.pipeline import Simulation, StepOutcome
    from zoo_core.quantization.sqnr import LayerSqnr
    from zoo_core.runs.parts import ChangeRecord


def given_facts(job: Job) -> dict[str, Any]:
    """What ``run.json`` says before anything was done: what was asked for, with what, and on which machine."""
    return {
        "schema": SCHEMA,
        "zoo_eval": __version__,
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
            "recipe": job.request.recipe or job.entry.recipe,
            "stages": [stage.name for stage in job.stages],
        },
        "recipe": recipe_facts(job),
        "checkpoint": _checkpoint_facts(job.checkpoint),
        "optimized_checkpoint": _checkpoint_facts(job.optimized_checkpoint),
        "dataset": _dataset_facts(job),
        "calibration": _calibration_facts(job),
        "environment": provenance.environment(job.settings.device),
        "git": provenance.git_state(Path(__file__)),
    }


class Record:
    """Collects the facts of a run and keeps ``run.json`` up to date while it goes on.

    Args:
        job: What is run.
        run_dir: Where; its lock is held.
        content: What ``run.json`` is to hold at first: ``begun``, or ``gone_on`` with what an interrupted run left.

    Attributes:
        content: What ``run.json`` holds.
        metrics: What ``metrics.json`` holds once the run is complete.
        standing: Warnings that hold before anything was done.
    """

    def __init__(self, job: Job, run_dir: RunDirectory, content: dict[str, Any]) -> None:
        self._job = job
        self._run_dir = run_dir
        self.standing = _standing_warnings(job)
        self.content = content
        self.metrics: dict[str, Any] = {}
        self._scores: dict[str, Any] = {}
        self._protocols: dict[str, Any] = {}
        self._late: list[str] = []
        run_dir.write_text("image_ids.txt", "".join(f"{image_id}\n" for image_id in job.data.image_ids))
        self._save()
        provenance.take_peak_memory_bytes()  # what preparation needed is no stage's

    @staticmethod
    def begun(job: Job, *, evaluate: bool, prepare_seconds: float) -> dict[str, Any]:
        """The content of a run that begins."""
        return {
            **given_facts(job),
            "evaluate": evaluate,
            "status": "running",
            "started": _now(),
            "finished": None,
            "resumed": [],
            "steps": [],
            "simulations": {},
            "stages": {},
            "seconds": {"prepare": prepare_seconds},
            "warnings": [],
            "plugins_told": False,
        }

    @staticmethod
    def gone_on(content: dict[str, Any], status: str, *, warnings: Sequence[str]) -> dict[str, Any]:
        """The content of a run that goes on.

        Args:
            content: What ``run.json`` holds.
            status: What became of the run: ``interrupted`` or ``failed``.
            warnings: What going on changes about the number.
        """
        entry = {"at": _now(), "after": status, "stopped": content.get("finished"), "error": content.get("error")}
        entry["warnings"] = list(warnings)
        going = {key: value for key, value in content.items() if key != "error"}
        return {**going, "status": "running", "finished": None, "resumed": [*content.get("resumed", []), entry]}

    def _save(self) -> None:
        self.content["warnings"] = self._warnings()
        self._run_dir.write_json("run.json", self.content)

    def _warnings(self) -> list[str]:
        """Every warning, in the order of an uninterrupted run, however often this one was resumed."""
        made, stages = self.content["steps"], self.content["stages"]
        texts = list(self.standing)
        for entry in self.content["resumed"]:
            texts += entry["warnings"]
        for point in range(ORIGINAL, len(self._job.plan.steps)):
            texts += made[point]["warnings"] if 0 <= point < len(made) else []
            for stage in self._job.stages:
                if stage.point == point and stage.name in stages:
                    texts += stages[stage.name]["warnings"]
        return list(dict.fromkeys([*texts, *self._late]))

    def warn(self, text: str) -> None:
        """Add a warning that belongs to no step and no stage."""
        self._late.append(text)
        self._save()

    def warn_of(self, stage: Stage, text: str) -> None:
        """Add a warning to a stage."""
        warnings = self.content["stages"][stage.name]["warnings"]
        if text not in warnings:  # scored again when resumed
            warnings.append(text)
        self._save()

    def add_step(self, index: int, outcome: StepOutcome) -> None:
        """Record what a recipe step did, in place of what it did before the run was interrupted."""
        self.content["steps"][index:] = [
            {
                "step": outcome.name,
                "seconds": outcome.seconds,
                "summary": outcome.summary,
                "effect": dict(outcome.effect),
                "peak_memory_bytes": provenance.take_peak_memory_bytes(),
                "warnings": _step_warnings(outcome),
            },
            *self.content["steps"][index + 1 :],
        ]
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

    def batch_size(self, stage: Stage) -> int:
        """Images per forward pass of a stage: as asked for, or fewer where memory did not suffice."""
        begun = self.content["stages"].get(stage.name, {})
        return int(begun.get("batch_size", self._job.settings.batch_size))

    def add_batch_size(self, stage: Stage, batch_size: int, found: Moved | str) -> None:
        """Record what another batch size moved, or why that could not be measured."""
        own = _headline(self._scores[stage.name], self._job.entry.headline)
        facts: dict[str, Any] = {"error": found} if isinstance(found, str) else found.as_json()
        if not isinstance(found, str):
            known = own is not None and found.headline is not None
            facts["difference_points"] = 100.0 * (found.headline - own) if known else None  # type: ignore[operator]
        measured = self.content["stages"][stage.name].setdefault("batch_sizes", {})
        measured[str(batch_size)] = facts
        self._save()

    def unmeasured_batch_sizes(self, stage: Stage) -> list[int]:
        """The batch sizes asked for that are neither the stage's own nor measured yet."""
        measured = self.content["stages"].get(stage.name, {}).get("batch_sizes", {})
        asked = dict.fromkeys(self._job.request.batch_sizes)
        return [size for size in asked if size != self.batch_size(stage) and str(size) not in measured]

    def begin_stage(self, stage: Stage, size_bytes: int, batch_size: int, *warnings: str) -> None:
        """Record that a stage is run from now on, how, and what that limits."""
        begun = self.content["stages"].get(stage.name, {})
        self.content["stages"][stage.name] = {
            **begun,
            "warnings": [*begun.get("warnings", []), *warnings],
            "quantized": stage.quantized,
            "batch_size": batch_size,
            "weights_bytes": size_bytes,
        }
        self._save()

    def add_backend(self, stage: Stage, exported: Exported | None) -> None:
        """Record what computes a stage: torch, unless it was exported."""
        self.content["stages"][stage.name] |= {
            "backend": "torch" if exported is None else "onnxruntime",
            "agreement": None if exported is None else exported.agreement.as_json(),
            "export_seconds": None if exported is None else exported.seconds,
        }
        self._save()

    def add_inference(self, stage: Stage, stats: InferenceStats) -> None:
        """Record what running a stage cost."""
        self.content["stages"][stage.name] |= {
            "num_images_timed": stats.num_images,
            "seconds": stats.seconds,
            "network_seconds": stats.network_seconds,
            "images_per_second": stats.num_images / stats.seconds if stats.seconds else None,
            "peak_memory_bytes": provenance.take_peak_memory_bytes(),
        }
        self._save()

    def add_scores(self, stage: Stage, scores: Mapping[str, ProtocolScore], *, seconds: float) -> None:
        """Record a stage's scores and the time that scoring took."""
        self.content["stages"][stage.name]["scoring_seconds"] = seconds
        self._scores[stage.name] = {
            "quantized": stage.quantized,
            "num_images": len(self._job.data.image_ids),
            "metrics": {
                protocol: {**score.values, "per_class": dict(score.per_class)} for protocol, score in scores.items()
            },
        }
        self._protocols[stage.name] = {
            protocol: {
                "definition": score.definition,
                "num_images": score.num_images,
                "num_objects": dict(score.num_objects),
                "notes": list(score.notes),
            }
            for protocol, score in scores.items()
        }
        self._save()

    def write_metrics(self, changes: Mapping[str, ChangeRecord]) -> None:
        """Write ``metrics.json``; only a complete run has one.

        Args:
            changes: By stage, those that share another's predictions left out.
        """
        job = self._job
        stages = {
            stage.name: {**self._scores[stage.same_as or stage.name], "same_as": stage.same_as} for stage in job.stages
        }
        baseline = _headline(stages.get("fp32"), job.entry.headline)
        for scores in stages.values():
            value = _headline(scores, job.entry.headline)
            known = baseline is not None and value is not None
            scores["drop_points"] = 100.0 * (baseline - value) if known else None  # type: ignore[operator]
        for stage in job.stages:
            change = changes.get(stage.same_as or stage.name)
            stages[stage.name]["change"] = asdict(change) if change is not None else None
        self.metrics = {
            "schema": SCHEMA,
            "model": job.entry.model_id,
            "headline": job.entry.headline,
            "num_images": len(job.data.image_ids),
            "limited": job.data.limited,
            "fingerprint": job.data.fingerprint,
            "stages": stages,
            "protocols": next(self._protocols[stage.same_as or stage.name] for stage in job.stages),
            "warnings": self.content["warnings"],
        }
        self._run_dir.write_json("metrics.json", self.metrics)

    def told(self) -> None:
        """Record that plugins know of the finished run."""
        self.content["plugins_told"] = True
        self._save()

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


def _step_warnings(outcome: StepOutcome) -> list[str]:
    """Without what the summary says of caches: a resumed run must warn in the words of an undisturbed one."""
    if not outcome.effect.get("short"):
        return []
    return [
        f"{outcome.name}: {outcome.effect.get('num_iterations')} iterations a layer are fewer than AIMET's default."
    ]


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
        "fingerprint": job.calibration_fingerprint,
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
