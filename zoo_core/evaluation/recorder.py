"""Builds the record of a run: writes ``run.json`` after every change, ``metrics.json`` last of all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from zoo_core.evaluation.scoring import metrics_record, points_above
from zoo_core.evaluation.sources import source_name
from zoo_core.evaluation.stages import ORIGINAL
from zoo_core.runs import provenance
from zoo_core.runs.coverage import simulation_warning
from zoo_core.runs.deployment import CostRecord, DeploymentRecord, ParityRecord
from zoo_core.runs.directory import PENDING_METRICS
from zoo_core.runs.hashes import IMAGE_IDS, METRICS, PREDICTIONS, file_hashes
from zoo_core.runs.parts import BatchSizeRecord, LayerRecord, SimulationRecord, StageRecord, Status, StepRecord
from zoo_core.runs.provenance import utc_now
from zoo_core.runs.record import MetricsRecord, RunRecord, record_text
from zoo_core.runs.request import DEFAULT_CALIBRATION_SIZE

if TYPE_CHECKING:
    import torch

    from zoo_core.datatypes import ProtocolScore, StepResult
    from zoo_core.evaluation.batch_sizes import BatchSizeEffect
    from zoo_core.evaluation.float_runtime import Exported
    from zoo_core.evaluation.prepare import Job
    from zoo_core.evaluation.scoring import StageChanges
    from zoo_core.evaluation.stages import Stage
    from zoo_core.inference import InferenceStats
    from zoo_core.quantization.aimet.simulation import Simulation
    from zoo_core.quantization.sqnr import LayerSqnr
    from zoo_core.runs.directory import RunDirectory


class Recorder:
    """Keeps ``run.json`` up to date and writes ``metrics.json``.

    Args:
        job: The job to run.
        run_dir: Directory of the run, locked.
        record: ``new_record``, or ``resumed_record`` of an interrupted run.

    Attributes:
        record: Content of ``run.json``.
        metrics: Content of ``metrics.json`` once the run is complete.
        initial_warnings: Warnings that apply from the start of the run.
    """

    def __init__(self, job: Job, run_dir: RunDirectory, record: RunRecord) -> None:
        self._job = job
        self._run_dir = run_dir
        self.initial_warnings = _initial_warnings(job)
        self.record = record
        self.metrics: MetricsRecord | None = None
        self._scores: dict[str, Mapping[str, ProtocolScore]] = {}
        self._late_warnings: list[str] = []
        run_dir.write_text(IMAGE_IDS, "".join(f"{image_id}\n" for image_id in job.data.image_ids))
        self.add_files(IMAGE_IDS)
        provenance.take_peak_memory_bytes()  # preparation does not count for any stage

    def _save(self, record: RunRecord) -> None:
        record = replace(record, warnings=self._warnings(record))
        self._run_dir.write_text("run.json", record_text(record))
        self.record = record  # not before: what cannot be written has not happened

    def _save_stage(self, stage: Stage, changed: StageRecord) -> None:
        self._save(replace(self.record, stages={**self.record.stages, stage.name: changed}))

    def _warnings(self, record: RunRecord) -> tuple[str, ...]:
        """List every warning in the order of an uninterrupted run, however often this one was resumed."""
        texts = [*self.initial_warnings]
        for entry in record.resumed:
            texts += entry.warnings
        for point in range(ORIGINAL, len(self._job.plan.steps)):
            texts += record.steps[point].warnings if 0 <= point < len(record.steps) else ()
            for stage in self._job.stages:
                if stage.point != point:
                    continue
                if stage.name in record.simulations:
                    texts.append(simulation_warning(stage.name, record.simulations[stage.name]) or "")
                if stage.name in record.stages:
                    texts += record.stages[stage.name].warnings
        return tuple(dict.fromkeys(text for text in [*texts, *self._late_warnings] if text))

    def warn(self, text: str, stage: Stage | None = None) -> None:
        """Add a warning to a stage, or to the run if ``stage`` is None."""
        if stage is None:
            self._late_warnings.append(text)
            self._save(self.record)
            return
        own = self.record.stages[stage.name]
        # A resumed run scores a complete stage again.
        self._save_stage(stage, replace(own, warnings=tuple(dict.fromkeys([*own.warnings, text]))))

    def add_step(self, index: int, outcome: StepResult) -> None:
        """Record the result of a recipe step, replacing one from before an interruption."""
        step = StepRecord(
            step=outcome.name,
            seconds=outcome.seconds,
            summary=outcome.summary,
            effect=dict(outcome.effect),
            short=outcome.effect.get("short") is True,
            peak_memory_bytes=provenance.take_peak_memory_bytes(),
            warnings=_step_warnings(outcome),
        )
        steps = self.record.steps
        self._save(replace(self.record, steps=(*steps[:index], step, *steps[index + 1 :])))

    def add_simulation(self, stage: Stage, simulation: Simulation, layers: Sequence[LayerSqnr]) -> None:
        """Record how a stage's encodings were computed, and the noise that they add to each layer."""
        simulation_record = SimulationRecord(
            coverage=simulation.coverage,
            seconds=simulation.seconds,
            summary=simulation.summary,
            effect=dict(simulation.effect),
            layers=tuple(
                LayerRecord(
                    layer=layer.layer,
                    kind=layer.kind,
                    weight_sqnr_db=layer.weight_sqnr_db,
                    output_sqnr_db=layer.output_sqnr_db,
                )
                for layer in layers
            ),
            peak_memory_bytes=provenance.take_peak_memory_bytes(),
        )
        self._save(replace(self.record, simulations={**self.record.simulations, stage.name: simulation_record}))

    def batch_size(self, stage: Stage) -> int:
        """Return the images per forward pass of a stage: as requested, or fewer after memory ran out.

        Exported networks take one image at a time: with a dynamic batch some runtimes leave their integer device.
        """
        if stage.runtime is not None:
            return 1
        own = self.record.stages.get(stage.name)
        return self._job.settings.batch_size if own is None else own.batch_size

    def unmeasured_batch_sizes(self, stage: Stage) -> list[int]:
        """Return the requested batch sizes that are neither the stage's own nor measured yet."""
        own = self.record.stages.get(stage.name)
        measured = own.batch_sizes if own is not None else {}
        asked = dict.fromkeys(self._job.request.batch_sizes if stage.runtime is None else ())
        return [size for size in asked if size != self.batch_size(stage) and str(size) not in measured]

    def add_batch_size(self, stage: Stage, batch_size: int, effect: BatchSizeEffect | str) -> None:
        """Record the effect of another batch size on a stage, or the reason why it could not be measured."""
        if isinstance(effect, str):
            measured = BatchSizeRecord(
                error=effect,
                headline=None,
                change_points=None,
                num_images=None,
                num_images_changed=None,
                num_predictions=None,
                num_predictions_changed=None,
                changes=None,
                seconds=None,
            )
        else:
            measured = BatchSizeRecord(
                error=None,
                headline=effect.headline,
                change_points=points_above(effect.headline, self._headline(self._scores.get(stage.name))),
                num_images=effect.num_images,
                num_images_changed=effect.num_images_changed,
                num_predictions=effect.num_predictions,
                num_predictions_changed=effect.num_predictions_changed,
                changes=effect.changes,
                seconds=effect.seconds,
            )
        own = self.record.stages[stage.name]
        self._save_stage(stage, replace(own, batch_sizes={**own.batch_sizes, str(batch_size): measured}))

    def has_other_network(self, stage: Stage, network_sha256: str) -> bool:
        """Return True if the stage has predictions of another network than the given one."""
        own = self.record.stages.get(stage.name)
        return own is not None and own.network_sha256 != network_sha256

    def start_stage(self, stage: Stage, size_bytes: int, batch_size: int, network_sha256: str, *warnings: str) -> None:
        """Record that a stage starts, with its settings and their limitations."""
        own = self.record.stages.get(stage.name)
        if own is None:
            own = StageRecord(
                warnings=(),
                quantized=stage.quantized,
                batch_size=batch_size,
                weights_bytes=size_bytes,
                network_sha256=network_sha256,
                runtime=None,
                runtime_reason=None,
                deployment=None,
                agreement=None,
                export_seconds=None,
                num_images_timed=None,
                num_nonfinite_images=None,
                seconds=None,
                network_seconds=None,
                images_per_second=None,
                peak_memory_bytes=None,
                scoring_seconds=None,
                batch_sizes={},
            )
        if own.network_sha256 != network_sha256:
            own = replace(own, runtime=None, runtime_reason=None)
        own = replace(
            own,
            warnings=tuple(dict.fromkeys([*own.warnings, *warnings])),
            batch_size=batch_size,
            weights_bytes=size_bytes,
            network_sha256=network_sha256,
        )
        files = self._files_outside(f"{PREDICTIONS}/{stage.name}")
        self._save(replace(self.record, stages={**self.record.stages, stage.name: own}, files=files))

    def runtime(self, stage: Stage) -> str | None:
        """Return the runtime that a stage's predictions were started with; None for a new stage."""
        own = self.record.stages.get(stage.name)
        return None if own is None else own.runtime

    def runtime_reason(self, stage: Stage) -> str | None:
        """Return why a stage's predictions were started in torch although ``auto`` was requested."""
        own = self.record.stages.get(stage.name)
        return None if own is None else own.runtime_reason

    def add_runtime(
        self, stage: Stage, name: str, *, exported: Exported | None = None, reason: str | None = None
    ) -> None:
        """Record the runtime of a stage, with its agreement with torch, or the reason why it is torch."""
        own = self.record.stages[stage.name]
        own = replace(own, runtime=name, runtime_reason=reason, agreement=None, export_seconds=None)
        if exported is not None:
            own = replace(own, agreement=exported.agreement, export_seconds=exported.seconds)
        self._save_stage(stage, own)

    def add_deployment(self, stage: Stage, deployment: DeploymentRecord) -> None:
        """Record what a runtime makes of the exported network."""
        self._save_stage(stage, replace(self.record.stages[stage.name], deployment=deployment))

    def add_parity(self, stage: Stage, parity: ParityRecord) -> None:
        """Record the comparison of a deployed stage with the simulation."""
        self.add_deployment(stage, replace(self._deployment(stage), parity=parity))

    def add_cost(self, stage: Stage, cost: CostRecord) -> None:
        """Record the cost of a deployed stage."""
        self.add_deployment(stage, replace(self._deployment(stage), cost=cost))

    def _deployment(self, stage: Stage) -> DeploymentRecord:
        deployment = self.record.stages[stage.name].deployment
        assert deployment is not None  # noqa: S101  # parity and cost are measured after it was recorded
        return deployment

    def add_inference(self, stage: Stage, stats: InferenceStats) -> None:
        """Record the cost of running a stage; that of an earlier start stays where nothing was left to run."""
        if not stats.num_images:
            return
        self._save_stage(
            stage,
            replace(
                self.record.stages[stage.name],
                num_images_timed=stats.num_images,
                seconds=stats.seconds,
                network_seconds=stats.network_seconds,
                images_per_second=stats.num_images / stats.seconds if stats.seconds else None,
                peak_memory_bytes=provenance.take_peak_memory_bytes(),
            ),
        )

    def add_scores(
        self, stage: Stage, scores: Mapping[str, ProtocolScore], *, seconds: float, num_nonfinite_images: int
    ) -> None:
        """Record a stage's scores, the time that scoring took, and how many images had outputs that are not finite."""
        self._scores[stage.name] = scores
        own = self.record.stages[stage.name]
        self._save_stage(stage, replace(own, scoring_seconds=seconds, num_nonfinite_images=num_nonfinite_images))

    def add_files(self, *folders: str) -> None:
        """Record the hashes of all files in complete folders; names are paths in the run directory.

        Raises:
            RunError: A file cannot be read.
        """
        hashes = file_hashes(self._run_dir.path, folders)
        own = {name: digest for name, digest in hashes.items() if not _is_foreign(name)}
        self._save(replace(self.record, files=dict(sorted({**self._files_outside(*folders), **own}.items()))))

    def _files_outside(self, *folders: str) -> dict[str, str]:
        prefixes = tuple(f"{folder}/" for folder in folders)
        return {name: digest for name, digest in (self.record.files or {}).items() if not name.startswith(prefixes)}

    def complete(self, changes: StageChanges) -> None:
        """Record that the run is complete, and write ``metrics.json`` if stages were evaluated.

        The file gets its name last: a run with the file is complete, and a run killed before has all that is needed to
        finish.

        Args:
            changes: Of the stages with predictions of their own.
        """
        files = dict(self.record.files or {})
        if self.record.evaluate:
            self.metrics = metrics_record(self.record, self._job.stages, self._scores, changes, self.record.warnings)
            text = record_text(self.metrics)
            self._run_dir.write_text(PENDING_METRICS, text)
            files[METRICS] = hashlib.sha256(text.encode()).hexdigest()
        self._save(replace(self.record, status="complete", finished=utc_now(), files=dict(sorted(files.items()))))
        if self.record.evaluate:
            self._run_dir.publish_metrics()

    def _headline(self, scores: Mapping[str, ProtocolScore] | None) -> float | None:
        return None if scores is None else scores[self._job.entry.headline].headline

    def plugins_notified(self) -> None:
        """Record that plugins were notified of the finished run."""
        self._save(replace(self.record, plugins_notified=True))

    def finish(self, status: Status, *, error: str | None = None) -> None:
        """Record that the run failed or was interrupted; a complete run stays complete."""
        if self.record.status != "complete":
            self._save(replace(self.record, status=status, finished=utc_now(), error=error))


def _is_foreign(name: str) -> bool:
    """Return True for a file among the predictions that is not a chunk."""
    return name.startswith(f"{PREDICTIONS}/") and not PurePosixPath(name).match("chunk-*.parquet")


def _initial_warnings(job: Job) -> tuple[str, ...]:
    texts = []
    if job.data.limited and job.data.image_ids:
        texts.append(
            f"Limited run: {len(job.data.image_ids)} of the {len(job.data.dataset.ids)} images of "
            f"{job.data.dataset.split}; scored on these only, not comparable with a full run."
        )
    draw = job.calibration
    if draw is not None and draw.overlap:
        texts.append(f"Calibration overlap: {len(draw.overlap)} calibration images belong to the evaluated split.")
    if draw is not None and draw.alike:
        texts.append(
            f"{len(draw.alike)} calibration images look like evaluated ones ({', '.join(draw.alike[:5])}): if they are "
            "copies, quantized stages are scored on what they were fitted to."
        )
    if draw is not None and len(draw.ids) < min(DEFAULT_CALIBRATION_SIZE, draw.available):
        texts.append(
            f"Calibration uses {len(draw.ids)} images of {draw.available}, fewer than the default of "
            f"{DEFAULT_CALIBRATION_SIZE}; quantized stages may score worse than they could."
        )
    if job.data.num_unread:
        texts.append(
            f"Calibration images were not compared with {job.data.num_unread} of the {len(job.data.dataset.ids)} "
            f"images of {job.data.dataset.split}, which cannot be read."
        )
    if draw is not None and len(draw.ids) < draw.requested != DEFAULT_CALIBRATION_SIZE:
        texts.append(f"Calibration uses {len(draw.ids)} images, the whole split; {draw.requested} were requested.")
    texts += [
        f"The sources of {source_name(name)} cannot be read: a change of them would go unnoticed."
        for name, source in job.program.sources.items()
        if source.sha256 is None
    ]
    if job.optimized_bundle is not None:
        texts.append("The optimized network was loaded: cross-layer equalization and AdaRound were skipped.")
    return tuple(texts)


def _step_warnings(outcome: StepResult) -> tuple[str, ...]:
    """Return warnings without mention of caches, so that a resumed run has those of an uninterrupted one."""
    if not outcome.effect.get("short"):
        return ()
    return (
        f"{outcome.name}: {outcome.effect.get('num_iterations')} iterations a layer are fewer than AIMET's default.",
    )


def model_size_bytes(network: torch.nn.Module) -> int:
    """Bytes of a float network's parameters; buffers such as batch-norm statistics are not counted."""
    return sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
