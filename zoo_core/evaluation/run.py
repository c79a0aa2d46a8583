"""Runs a prepared request: quantizes, predicts, scores and records every stage."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from zoo_core.datatypes import Prediction, QuantNetwork, StepContext
from zoo_core.display import nonfinite_text
from zoo_core.errors import RecipeError
from zoo_core.evaluation.batch_sizes import BatchSizeEffect, compare_batch_sizes
from zoo_core.evaluation.memory import out_of_memory, with_less_memory
from zoo_core.evaluation.notifying import notify_plugins
from zoo_core.evaluation.prepare import Job, prepare, step_context
from zoo_core.evaluation.recorder import Recorder, model_size_bytes
from zoo_core.evaluation.replay import keep_inputs
from zoo_core.evaluation.request import Reporter, SilentReporter
from zoo_core.evaluation.result import EvaluationResult, headline_name
from zoo_core.evaluation.scoring import stage_changes
from zoo_core.evaluation.sources import source_name, sources_here
from zoo_core.evaluation.stages import ORIGINAL, Stage
from zoo_core.evaluation.starting import new_record
from zoo_core.evaluation.step_progress import StepProgress
from zoo_core.evaluation.stopping import LOG, log_into, stopping
from zoo_core.evaluation.stored_files import discard_changed, refuse_other_inputs
from zoo_core.inference import InferenceStats, chunk_ids, predict
from zoo_core.plugins import PluginHost
from zoo_core.quantization import pipeline, saved
from zoo_core.quantization.digest import network_sha256
from zoo_core.quantization.sqnr import layer_sqnr
from zoo_core.runs.binding import stage_binding
from zoo_core.runs.coverage import FULL_QUANTIZATION_FIX, simulation_warning
from zoo_core.runs.directory import RunDirectory
from zoo_core.runs.hashes import INPUTS, PREDICTIONS, QUANTIZED
from zoo_core.runs.predictions import PredictionsById, PredictionStore
from zoo_core.runs.provenance import fixed_threads
from zoo_core.runs.request import EvaluationRequest

if TYPE_CHECKING:
    import torch

    from zoo_core.datatypes import ModelBundle
    from zoo_core.evaluation.onnx_backend import Exported
    from zoo_core.inference import InferenceSettings
    from zoo_core.quantization.aimet.simulation import Simulation
    from zoo_core.quantization.pipeline import RecipePoint
    from zoo_core.runs.parts import ChangeRecord
    from zoo_core.runs.record import RunRecord

logger = logging.getLogger("zoo_eval")

WriteReport: TypeAlias = Callable[[Path], None]

NEAR_ZERO = 0.02
"""Headline values below this are usually caused by a wiring mistake, not by a bad network."""


def evaluate_request(
    request: EvaluationRequest,
    *,
    host: PluginHost | None = None,
    reporter: Reporter | None = None,
    write_report: WriteReport | None = None,
) -> EvaluationResult:
    """Quantize and evaluate a model, and write a complete run directory.

    Args:
        request: Options of the run.
        host: Plugins to use; None for the installed ones.
        reporter: Receives progress; None prints nothing.
        write_report: Called with the complete run directory before plugins are notified, so that a tracker finds the
            report there; must not raise.

    Raises:
        ZooError: A problem that the user can fix. Before the run starts nothing is written; later errors name the run
            directory, which keeps the complete chunks.
    """
    host, reporter = host or PluginHost(), reporter or SilentReporter()
    return _execute(request, host, reporter, evaluate=True, write_report=write_report)


def quantize_request(
    request: EvaluationRequest, *, host: PluginHost | None = None, reporter: Reporter | None = None
) -> EvaluationResult:
    """Run the recipe and save the optimized network with its encodings, without evaluating anything.

    Raises:
        ZooError: As ``evaluate_request``.
    """
    return _execute(request, host or PluginHost(), reporter or SilentReporter(), evaluate=False)


def _execute(
    request: EvaluationRequest,
    host: PluginHost,
    reporter: Reporter,
    *,
    evaluate: bool,
    write_report: WriteReport | None = None,
) -> EvaluationResult:
    started = time.perf_counter()
    job = prepare(request, host, reporter, evaluate=evaluate)
    run_dir = RunDirectory.create(request.out, job.entry.model_id)
    with run_dir.locked():
        run_dir.refuse_a_record()
        record = new_record(job, evaluate=evaluate, prepare_seconds=time.perf_counter() - started)
        return execute(job, run_dir, record, host, reporter, write_report=write_report)


def execute(
    job: Job,
    run_dir: RunDirectory,
    record: RunRecord,
    host: PluginHost,
    reporter: Reporter,
    *,
    write_report: WriteReport | None = None,
) -> EvaluationResult:
    """Run the missing parts of a new or resumed run.

    Args:
        job: The job to run.
        run_dir: Directory of the run, locked.
        record: Of a new or a resumed run, see ``evaluation.starting``.
        host: The plugins.
        reporter: Receives progress.
        write_report: See ``evaluate_request``.

    Raises:
        ZooError: A problem that the user can fix; it names the run directory, which keeps the complete results.
        RunInterruptedError: Ctrl-C.
    """
    run_dir.sweep()
    rebuilt = discard_changed(run_dir, record)
    run = _Run(job, run_dir, Recorder(job, run_dir, record), reporter, host)
    stops = stopping(run_dir, run.recorder.finish, lambda: run.place, lambda: run.is_complete)
    with log_into(run_dir.path / LOG), stops, fixed_threads():
        for text in rebuilt:
            logger.warning(text)
            reporter.warn(text)
        run.execute(write_report)
    metrics = run.recorder.metrics
    name = headline_name(metrics, job.task)
    return EvaluationResult(run_dir=run_dir.path, record=run.recorder.record, metrics=metrics, headline_name=name)


class _Run:
    """State of a run in progress.

    Attributes:
        place: Current place for error messages, e.g. " at stage 'fp32'"; empty before the first stage.
        is_complete: True once the record says so.
    """

    def __init__(
        self, job: Job, run_dir: RunDirectory, recorder: Recorder, reporter: Reporter, host: PluginHost
    ) -> None:
        self.job = job
        self.run_dir = run_dir
        self.reporter = reporter
        self.host = host
        self.recorder = recorder
        self.place = ""
        self.is_complete = False
        self._evaluate = recorder.record.evaluate
        self._unsaved = not (run_dir.path / QUANTIZED).exists()
        self._open: frozenset[str] = frozenset()
        self._progress = StepProgress(reporter)

    def execute(self, write_report: WriteReport | None) -> None:
        """Run steps and stages in the order in which the recipe produces their networks; skip complete stages."""
        job = self.job
        keep_inputs(self.run_dir, job.request, job.plan)
        refuse_other_inputs(self.run_dir, self.recorder.record)
        self.recorder.add_files(INPUTS)
        for text in self.recorder.initial_warnings:
            logger.warning(text)
            self.reporter.warn(text)
        for note in (*job.bundle.notes, *(job.optimized_bundle.notes if job.optimized_bundle else ())):
            self.reporter.say(note)
        self._open = self._open_stages()
        for stage in job.stages:
            if self._evaluate and stage.same_as is None and stage.name not in self._open:
                self.reporter.say(f"{stage.name}: its predictions are complete")
                self._close_stage(stage)
        with self.run_dir.work_folder() as work_dir:
            context = functools.cache(lambda: step_context(job, work_dir, self.reporter, self._progress))
            if any(self._needs_network(stage) and (stage.quantized or stage.point > ORIGINAL) for stage in job.stages):
                context()  # before the first stage, so that an image that cannot be read stops the run at once
            self._walk(context)
        self._finish(write_report)

    def _finish(self, write_report: WriteReport | None) -> None:
        self.place = ""
        before = self.job.program.sources
        here = sources_here(self.host, before, self.job.entry)
        for name in [name for name in before if here.get(name) != before[name]]:
            self._warn(f"The sources of {source_name(name)} changed while the run was computing; it may mix both.")
        self.recorder.complete(self._changes() if self._evaluate else {})
        self.is_complete = True
        self.run_dir.remove_lock()
        if write_report is not None:
            write_report(self.run_dir.path)
        for text in notify_plugins(self.host, self.run_dir, self.recorder.record, self.recorder.metrics):
            self._warn(text)
        self.recorder.plugins_notified()

    def _warn(self, text: str, stage: Stage | None = None) -> None:
        logger.warning(text)
        self.recorder.warn(text, stage)
        self.reporter.warn(text)

    # ------------------------------------------------------------------ remaining work

    def _open_stages(self) -> frozenset[str]:
        """Return the stages that must run, because predictions of some images are missing."""
        own = [stage for stage in self.job.stages if stage.same_as is None]
        if not self._evaluate:
            return frozenset(stage.name for stage in own) if self._unsaved else frozenset()
        return frozenset(stage.name for stage in own if self._is_open(stage))

    def _is_open(self, stage: Stage) -> bool:
        if stage.name not in self.recorder.record.stages or self.recorder.unmeasured_batch_sizes(stage):
            return True
        chunks = chunk_ids(self.job.data.image_ids, self.recorder.batch_size(stage))
        return bool(self._store(stage).missing(chunks))

    def _needs_network(self, stage: Stage) -> bool:
        return stage.name in self._open or (stage.optimized and self._unsaved)

    def _store(self, stage: Stage) -> PredictionStore:
        folder = self.run_dir.folder(PREDICTIONS, stage.name)
        binding = stage_binding(self.recorder.record, stage.name)
        return PredictionStore(folder, self.job.task.prediction_type, binding=binding)

    # ------------------------------------------------------------------ networks

    def _changes(self) -> dict[str, ChangeRecord]:
        """Compute the change of each stage against fp32 from the stored predictions."""
        job = self.job
        stages = {stage.name: stage for stage in job.stages if stage.same_as is None}

        def predictions(name: str) -> PredictionsById:
            return PredictionsById(self._store(stages[name]))

        targets = {image_id: job.data.targets[image_id] for image_id in job.data.image_ids}
        return stage_changes(
            job.task, job.data.dataset.class_names, targets, list(stages), predictions, job.entry.headline
        )

    def _walk(self, context: Callable[[], StepContext]) -> None:
        """Take the network through the recipe and evaluate the stages at each point."""
        job = self.job
        from_recipe = [stage for stage in job.stages if not (stage.optimized and job.optimized_bundle)]
        last = max((stage.point for stage in from_recipe if self._needs_network(stage)), default=ORIGINAL)

        def before_step(name: str) -> None:
            self.place = f" at step {name!r}"
            self._progress.begin(name)

        original = QuantNetwork(network=job.bundle.network)
        for point in pipeline.walk(job.plan, original, context, last=last, before_step=before_step):
            if point.step is not None:
                self._progress.end()
                self.reporter.say(f"{point.step.name}: {point.step.summary} ({point.step.seconds:.1f} s)")
                self.recorder.add_step(point.index, point.step)
            stages = [stage for stage in from_recipe if stage.point == point.index]
            self._evaluate_point(point, stages, job.bundle, context)
        if job.optimized_bundle is not None and job.optimized_checkpoint is not None:
            stages = [stage for stage in job.stages if stage.optimized]
            encodings = saved.fixed_encodings(job.optimized_checkpoint.path, job.plan.quant)
            optimized = QuantNetwork(network=job.optimized_bundle.network, param_encodings=encodings)
            (loaded,) = pipeline.walk(job.plan, optimized, context, last=ORIGINAL)
            self._evaluate_point(loaded, stages, job.optimized_bundle, context)

    def _evaluate_point(
        self, point: RecipePoint, stages: list[Stage], bundle: ModelBundle, context: Callable[[], StepContext]
    ) -> None:
        """Evaluate one network in float and, if requested, simulated."""
        network = point.network
        simulation: Simulation | None = None
        for stage in stages:
            if stage.same_as is not None or not self._needs_network(stage):
                continue  # one network under two names is run once
            runs, size, digest = network.network, model_size_bytes(network.network), network_sha256(network.network)
            if stage.quantized:
                simulation = self._simulate(point, stage, context())
                runs, size = simulation.network, simulation.weights_bytes
                digest = network_sha256(runs, simulation.encodings)
            # The network of a complete stage is only computed again to be saved; it must be that of the predictions.
            if self._evaluate and (stage.name in self._open or self.recorder.has_other_network(stage, digest)):
                self._evaluate_stage(stage, runs, bundle, size, digest)
        if self._unsaved and any(stage.optimized for stage in stages):
            loaded = self.job.optimized_bundle is not None
            with self.run_dir.whole_folder(QUANTIZED) as folder:
                problem = saved.save_quantized(
                    folder, network, simulation, self.job.plan, self.job.bundle.example_input, loaded=loaded
                )
            self.recorder.add_files(QUANTIZED)
            if problem is not None:
                logger.warning(problem)
                self.reporter.warn(problem)

    def _simulate(self, point: RecipePoint, stage: Stage, context: StepContext) -> Simulation:
        self.place = f" calibrating stage {stage.name!r}"
        self._progress.begin(f"calibrating {stage.name}")
        simulation = pipeline.simulate(point.network, context)
        self._progress.end()
        self.reporter.say(f"quantsim for {stage.name}: {simulation.summary} ({simulation.seconds:.1f} s)")
        # The reference is the network before rounding: rounded weights would hide the noise of rounding.
        layers = layer_sqnr(point.unrounded, simulation.network, context.calibration)
        self.recorder.add_simulation(stage, simulation, layers)
        self._report_coverage(stage)
        return simulation

    def _report_coverage(self, stage: Stage) -> None:
        """Warn of what a quantized stage computes in float; the recorder keeps the warning.

        Raises:
            RecipeError: The request requires full quantization.
        """
        text = simulation_warning(stage.name, self.recorder.record.simulations[stage.name])
        if text is None:
            return
        if self.job.request.require_full_quantization:
            raise RecipeError(text, fix=FULL_QUANTIZATION_FIX)
        logger.warning(text)
        self.reporter.warn(text)

    # ------------------------------------------------------------------ one stage

    def _evaluate_stage(
        self, stage: Stage, network: torch.nn.Module, bundle: ModelBundle, size_bytes: int, network_digest: str
    ) -> None:
        job = self.job
        self.place = f" at stage {stage.name!r}"

        def run(batch_size: int, single_lane: bool) -> InferenceStats:
            settings = replace(job.settings, batch_size=batch_size)
            if single_lane:
                self.reporter.finish()
                settings = replace(settings, max_lanes=1)
            exported = self._export(stage, network, bundle, settings)
            self.recorder.add_backend(stage, exported)
            runs = network if exported is None else exported.network
            store = self._store(stage)  # not before: its binding has batch size, backend and network
            chunks = chunk_ids(job.data.image_ids, batch_size)
            num_left = sum(len(chunks[index]) for index in store.missing(chunks))
            if num_left < len(job.data.image_ids):
                self.reporter.say(f"{stage.name}: {len(job.data.image_ids) - num_left} images are complete already")
            self.reporter.start(stage.name, num_left)
            return predict(runs, bundle, job.data.dataset, job.data.image_ids, store, settings, self.reporter.advance)

        def restart(too_large: int, batch_size: int) -> None:
            self.reporter.finish()
            self._store(stage).clear()  # first: every chunk of a stage must have the recorded batch size
            text = (
                f"{stage.name}: there was not enough memory for {too_large} images at a time; the stage was run with "
                f"{batch_size}. Its predictions may differ from those of another batch size by rounding."
            )
            self.recorder.start_stage(stage, size_bytes, batch_size, network_digest, text)
            logger.warning(text)
            self.reporter.warn(text)

        batch_size = self.recorder.batch_size(stage)
        warnings = self._discard_other_network(stage, network_digest)
        self.recorder.start_stage(stage, size_bytes, batch_size, network_digest, *warnings)
        self.recorder.add_inference(stage, with_less_memory(batch_size, run, restart))
        self.reporter.finish()
        self._close_stage(stage)
        for size in self.recorder.unmeasured_batch_sizes(stage):
            self.place = f" at stage {stage.name!r} with batch size {size}"
            try:
                self.recorder.add_batch_size(stage, size, self._at_batch_size(stage, network, bundle, size))
            except Exception as error:
                message = out_of_memory(error)
                if message is None:
                    raise
                self.reporter.finish()
                self.recorder.add_batch_size(stage, size, f"not enough memory ({message})")

    def _discard_other_network(self, stage: Stage, network_digest: str) -> list[str]:
        """Remove a stage's chunks if another network computed them, and return a warning that says so."""
        if not self.recorder.has_other_network(stage, network_digest):
            return []
        self._store(stage).clear()
        text = (
            f"{stage.name}: the resumed run computed another network than the interrupted one, as another processor "
            "does; the stage was started again."
        )
        logger.warning(text)
        self.reporter.warn(text)
        return [text]

    def _at_batch_size(
        self, stage: Stage, network: torch.nn.Module, bundle: ModelBundle, batch_size: int
    ) -> BatchSizeEffect:
        """Run a stage again at another batch size; its predictions are compared, then discarded."""
        job, started = self.job, time.perf_counter()
        settings = replace(job.settings, batch_size=batch_size)
        exported = self._export(stage, network, bundle, settings)
        runs = network if exported is None else exported.network
        with self.run_dir.work_folder() as folder:
            other = PredictionStore(folder, job.task.prediction_type)
            self.reporter.start(f"{stage.name}, batch size {batch_size}", len(job.data.image_ids))
            predict(runs, bundle, job.data.dataset, job.data.image_ids, other, settings, self.reporter.advance)
            self.reporter.finish()
            metric = self.host.metric(job.entry, job.data.dataset.class_names)
            return compare_batch_sizes(self._store(stage), other, metric, job, started=started)

    def _export(
        self, stage: Stage, network: torch.nn.Module, bundle: ModelBundle, settings: InferenceSettings
    ) -> Exported | None:
        """Export a float stage for ONNX Runtime if that backend was requested."""
        if self.job.request.backend != "onnxruntime" or stage.quantized:
            return None
        from zoo_core.evaluation.onnx_backend import export_checked

        exported = export_checked(network, bundle, self.job.data.dataset, self.job.data.image_ids, settings)
        self.reporter.say(f"{stage.name}: {exported.summary}")
        return exported

    def _close_stage(self, stage: Stage) -> None:
        """Score complete predictions and write them in the dataset's exchange format."""
        dataset, store = self.job.data.dataset, self._store(stage)
        self.place = f" at stage {stage.name!r}"
        metric = self.host.metric(self.job.entry, dataset.class_names)
        started = time.perf_counter()
        num_nonfinite = 0
        for chunk in store:
            num_nonfinite += len(chunk.nonfinite_ids)
            targets = [self.job.data.targets[image_id] for image_id in chunk.image_ids]
            metric.update(chunk.image_ids, chunk.predictions, targets)
        scores = metric.compute()
        seconds = time.perf_counter() - started
        self.recorder.add_scores(stage, scores, seconds=seconds, num_nonfinite_images=num_nonfinite)
        if num_nonfinite:
            as_zeros = metric.prediction_type.without_rows is Prediction.without_rows
            text = nonfinite_text(num_nonfinite, len(self.job.data.image_ids), as_zeros=as_zeros)
            self._warn(f"{stage.name}: {text}", stage)
        headline = scores[self.job.entry.headline].headline
        if headline is not None and headline < NEAR_ZERO:
            suspects = metric.suspects()
            likely = " The usual suspects:" if suspects else ""
            for text in (f"{self.job.entry.headline} is {headline:.4f}, near zero.{likely}", *suspects):
                self._warn(f"{stage.name}: {text}", stage)
        predictions = (pair for chunk in store for pair in zip(chunk.image_ids, chunk.predictions, strict=True))
        with self.run_dir.whole_folder(dataset.submission_format, stage.name) as folder:
            dataset.write_submission(folder, predictions)
        self.recorder.add_files(f"{PREDICTIONS}/{stage.name}", f"{dataset.submission_format}/{stage.name}")
