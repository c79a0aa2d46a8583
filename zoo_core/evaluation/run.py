"""Runs a prepared request: quantizes, predicts, scores and records every stage."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from zoo_core.comparison.deployed import coverage_text
from zoo_core.datatypes import QuantNetwork, StepContext
from zoo_core.errors import RecipeError, RuntimeUnsupportedError
from zoo_core.evaluation.notifying import notify_plugins
from zoo_core.evaluation.prepare import Job, prepare, step_context
from zoo_core.evaluation.recorder import Recorder, model_size_bytes
from zoo_core.evaluation.replay import keep_inputs
from zoo_core.evaluation.request import Reporter, SilentReporter
from zoo_core.evaluation.result import EvaluationResult, headline_name
from zoo_core.evaluation.scoring import StageChanges, stage_changes
from zoo_core.evaluation.sources import source_name, sources_here
from zoo_core.evaluation.stage_runner import StageNetwork, StageRunner
from zoo_core.evaluation.stages import ORIGINAL, Stage
from zoo_core.evaluation.starting import new_record
from zoo_core.evaluation.step_progress import StepProgress
from zoo_core.evaluation.stopping import LOG, log_into, stopping
from zoo_core.evaluation.stored_files import discard_changed, refuse_other_inputs
from zoo_core.plugins import PluginHost
from zoo_core.quantization import pipeline, saved
from zoo_core.quantization.digest import network_sha256
from zoo_core.quantization.sqnr import layer_sqnr
from zoo_core.runs.coverage import FULL_QUANTIZATION_FIX, simulation_warning
from zoo_core.runs.directory import RunDirectory
from zoo_core.runs.hashes import INPUTS, QUANTIZED
from zoo_core.runs.predictions import PredictionsById
from zoo_core.runs.provenance import fixed_threads
from zoo_core.runs.request import EvaluationRequest

if TYPE_CHECKING:
    from zoo_core.datatypes import ModelBundle
    from zoo_core.quantization.aimet.simulation import Simulation
    from zoo_core.quantization.pipeline import RecipePoint
    from zoo_core.runs.record import RunRecord

logger = logging.getLogger("zoo_eval")

WriteReport: TypeAlias = Callable[[Path], None]


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
        self._stages = StageRunner(job, run_dir, recorder, reporter, host)
        self.is_complete = False
        self._evaluate = recorder.record.evaluate
        self._unsaved = not (run_dir.path / QUANTIZED).exists()
        self._open: frozenset[str] = frozenset()
        self._progress = StepProgress(reporter)

    @property
    def place(self) -> str:
        """Return the current place for error messages, e.g. " at stage 'fp32'"; empty before the first stage."""
        return self._stages.place

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
                self._stages.close(stage)
        with self.run_dir.work_folder() as work_dir:
            context = functools.cache(lambda: step_context(job, work_dir, self.reporter, self._progress))
            in_torch = [stage for stage in job.stages if stage.runtime is None]
            if any(self._needs_network(stage) and (stage.quantized or stage.point > ORIGINAL) for stage in in_torch):
                context()  # before the first stage, so that an image that cannot be read stops the run at once
            self._walk(in_torch, context)
            self._deploy(work_dir)
        self._finish(write_report)

    def _finish(self, write_report: WriteReport | None) -> None:
        self._stages.place = ""
        before = self.job.program.sources
        here = sources_here(self.host, before, self.job.entry)
        for name in [name for name in before if here.get(name) != before[name]]:
            self._stages.warn(
                f"The sources of {source_name(name)} changed while the run was computing; it may mix both."
            )
        self.recorder.complete(self._changes() if self._evaluate else StageChanges())
        self.is_complete = True
        self.run_dir.remove_lock()
        if write_report is not None:
            write_report(self.run_dir.path)
        for text in notify_plugins(self.host, self.run_dir, self.recorder.record, self.recorder.metrics):
            self._stages.warn(text)
        self.recorder.plugins_notified()

    # ------------------------------------------------------------------ remaining work

    def _open_stages(self) -> frozenset[str]:
        """Return the stages that must run, because predictions of some images are missing."""
        own = [stage for stage in self.job.stages if stage.same_as is None]
        if not self._evaluate:
            return frozenset(stage.name for stage in own) if self._unsaved else frozenset()
        return frozenset(stage.name for stage in own if self._stages.is_open(stage))

    def _needs_network(self, stage: Stage) -> bool:
        return stage.name in self._open or (self._unsaved and self._holds_optimized(stage))

    def _holds_optimized(self, stage: Stage) -> bool:
        """Return True if a stage is the optimized network, perhaps under another name."""
        return any(one.optimized and stage.name in (one.name, one.same_as) for one in self.job.stages)

    # ------------------------------------------------------------------ networks

    def _changes(self) -> StageChanges:
        """Compute the changes of each stage from the stored predictions."""
        job = self.job
        stages = {stage.name: stage for stage in job.stages if stage.same_as is None}

        def predictions(name: str) -> PredictionsById:
            return PredictionsById(self._stages.store(stages[name]))

        targets = {image_id: job.data.targets[image_id] for image_id in job.data.image_ids}
        return stage_changes(
            job.task,
            job.data.dataset.class_names,
            targets,
            list(stages),
            predictions,
            job.entry.headline,
            aliases={stage.name: stage.same_as for stage in job.stages if stage.same_as is not None},
        )

    def _walk(self, in_torch: Sequence[Stage], context: Callable[[], StepContext]) -> None:
        """Take the network through the recipe and evaluate the stages at each point."""
        job = self.job
        from_recipe = [stage for stage in in_torch if not (stage.optimized and job.optimized_bundle)]
        last = max((stage.point for stage in from_recipe if self._needs_network(stage)), default=ORIGINAL)

        def before_step(name: str) -> None:
            self._stages.place = f" at step {name!r}"
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
            stages = [stage for stage in in_torch if stage.optimized]
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
                device = self.job.settings.device
                own = StageNetwork(network=runs, bundle=bundle, size_bytes=size, digest=digest, device=device)
                self._stages.start(stage, own)
                self._stages.evaluate(stage, own)
        if self._unsaved and any(stage.optimized for stage in stages):
            loaded = self.job.optimized_bundle is not None
            with self.run_dir.whole_folder(QUANTIZED) as folder:
                problem = saved.save_quantized(
                    folder, network, simulation, self.job.plan, self.job.bundle.example_input, loaded=loaded
                )
            if problem is not None and self.job.runtimes:  # not recorded, so that a resumed run says the same
                raise RuntimeUnsupportedError(
                    f"No runtime can execute the quantized network: {problem}", fix="leave out --runtimes."
                )
            self.recorder.add_files(QUANTIZED)
            if problem is not None:
                logger.warning(problem)
                self.reporter.warn(problem)

    def _deploy(self, work_dir: Path) -> None:
        """Evaluate the exported network on each runtime; the network and its simulation are complete."""
        stages = [stage for stage in self.job.stages if stage.runtime is not None and stage.name in self._open]
        if not stages:
            return
        from zoo_core.evaluation.deploying import Deployment

        deployment = Deployment(self.job, self.run_dir, self.host, work_dir)
        for stage in stages:
            self._stages.place = f" at stage {stage.name!r}"
            loaded = deployment.load(stage)
            self._stages.start(stage, loaded.own)
            self.recorder.add_deployment(stage, loaded.record)
            self.reporter.say(f"{stage.name}: {coverage_text(loaded.record)}")
            self.recorder.add_parity(stage, deployment.parity(loaded))
            self._stages.evaluate(stage, loaded.own)
            self._stages.place = f" measuring stage {stage.name!r}"
            self.recorder.add_cost(stage, deployment.cost(loaded))

    def _simulate(self, point: RecipePoint, stage: Stage, context: StepContext) -> Simulation:
        self._stages.place = f" calibrating stage {stage.name!r}"
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
