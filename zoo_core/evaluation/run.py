"""The whole job: a prepared request becomes stages, predictions, scores and a record."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_core.datatypes import QuantNetwork, StepContext
from zoo_core.errors import PluginCrashError, RunCrashError, RunError, ZooError
from zoo_core.evaluation.prepare import Job, prepare, step_context
from zoo_core.evaluation.record import Record, model_size_bytes
from zoo_core.evaluation.request import EvaluationRequest, Reporter, SilentReporter
from zoo_core.evaluation.stages import ORIGINAL, Stage
from zoo_core.inference import InferenceStats, predict
from zoo_core.plugins import PluginHost
from zoo_core.predictions import PredictionStore
from zoo_core.quantization import pipeline
from zoo_core.quantization.sqnr import layer_sqnr
from zoo_core.runs import RunDirectory

if TYPE_CHECKING:
    import torch

    from zoo_core.datatypes import Metric, ModelBundle
    from zoo_core.evaluation.onnx_backend import Exported
    from zoo_core.quantization.pipeline import Simulation

logger = logging.getLogger("zoo_eval")

LOG = "log.txt"

NEAR_ZERO = 0.02
"""A headline value below this is more often a wiring fault than a bad network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """What a run found.

    Attributes:
        run_dir: The complete run directory.
        record: Content of ``run.json``.
        metrics: Content of ``metrics.json``; empty when nothing was evaluated.
    """

    run_dir: Path
    record: dict[str, Any]
    metrics: dict[str, Any]


def evaluate_request(
    request: EvaluationRequest, *, host: PluginHost | None = None, reporter: Reporter | None = None
) -> EvaluationResult:
    """Quantize and evaluate as asked, and leave a complete run directory.

    Raises:
        ZooError: Something the user can mend. Found before the run starts, it leaves nothing behind; found on the
            way, it names the run directory, in which complete chunks stay.
    """
    return _execute(request, host or PluginHost(), reporter or SilentReporter(), evaluate=True)


def quantize_request(
    request: EvaluationRequest, *, host: PluginHost | None = None, reporter: Reporter | None = None
) -> EvaluationResult:
    """Run the recipe and save the optimized network with its encodings, without evaluating anything.

    Raises:
        ZooError: As ``evaluate_request``.
    """
    return _execute(request, host or PluginHost(), reporter or SilentReporter(), evaluate=False)


def _execute(request: EvaluationRequest, host: PluginHost, reporter: Reporter, *, evaluate: bool) -> EvaluationResult:
    started = time.perf_counter()
    job = prepare(request, host, reporter, evaluate=evaluate)
    run_dir = RunDirectory.create(request.out, job.entry.model_id)
    run = _Run(job, run_dir, reporter, host, prepare_seconds=time.perf_counter() - started)
    with _log_into(run_dir.path / LOG), _stopping(run):
        run.execute(evaluate=evaluate)
    return EvaluationResult(run_dir=run_dir.path, record=run.record.content, metrics=run.record.metrics)


@contextmanager
def _stopping(run: _Run) -> Iterator[None]:
    """Record how a run ended, and let the error say where what was complete lies."""
    try:
        yield
    except KeyboardInterrupt:
        run.record.finish("interrupted")
        raise
    except Exception as error:
        fact = error.fact if isinstance(error, ZooError) else f"{type(error).__name__}: {error}"
        logger.error("The run failed: %s", fact, exc_info=True)
        run.record.finish("failed", error=fact)
        stopped = f"The run stopped{run.place}; what was complete stays in {run.run_dir.path}"
        if isinstance(error, ZooError) and not isinstance(error, PluginCrashError):
            kind = type(error)
            raise kind(f"{fact}\n{stopped}", fix=error.fix) from error
        raise RunCrashError(
            f"{fact}\n{stopped}", fix=f"read the traceback in {run.run_dir.path / LOG} and report it."
        ) from error


@contextmanager
def _log_into(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("zoo_eval")
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()


class _Run:
    """One job on its way; holds what its parts share.

    Attributes:
        place: Where it is, as an error says it, e.g. " at stage 'fp32'"; empty before the first stage.
    """

    def __init__(
        self, job: Job, run_dir: RunDirectory, reporter: Reporter, host: PluginHost, *, prepare_seconds: float
    ) -> None:
        self.job = job
        self.run_dir = run_dir
        self.reporter = reporter
        self.host = host
        self.record = Record(job, run_dir, prepare_seconds=prepare_seconds)
        self.place = ""
        self._context: StepContext | None = None
        self._progress = _StepProgress(reporter)
        self._unrounded: torch.nn.Module | None = None

    def execute(self, *, evaluate: bool) -> None:
        """Run steps and stages in the order in which networks come to be."""
        job = self.job
        for text in self.record.warnings:
            self._warn(text)
        for note in (*job.bundle.notes, *(job.optimized_bundle.notes if job.optimized_bundle else ())):
            self.reporter.say(note)
        work_dir = Path(tempfile.mkdtemp(prefix=".work-", dir=self.run_dir.path))
        try:
            if not evaluate or any(stage.quantized or stage.point > ORIGINAL for stage in job.stages):
                self._context = step_context(job, work_dir, self.reporter, self._progress)
            self._walk(evaluate=evaluate)
        finally:
            shutil.rmtree(work_dir, ignore_errors=True)
        self._finish(evaluate=evaluate)

    def _finish(self, *, evaluate: bool) -> None:
        if evaluate:
            self.record.write_metrics()
        self.record.finish("complete")
        failed = self.host.evaluation_finished(
            self.run_dir.path, {**self.record.content, "metrics": self.record.metrics}
        )
        for plugin in failed:
            self._warn(f"Plugin {plugin.plugin_id!r} failed after the evaluation: {plugin.cause}")
        if failed:
            self.record.finish("complete")

    def _warn(self, text: str) -> None:
        logger.warning(text)
        self.record.warn(text)
        self.reporter.warn(text)

    # ------------------------------------------------------------------ networks

    def _walk(self, *, evaluate: bool) -> None:
        """Take the network through the recipe and evaluate at the points asked for."""
        job = self.job
        made = [stage for stage in job.stages if not (stage.optimized and job.optimized_bundle)]
        last = max((stage.point for stage in made), default=ORIGINAL)
        network = QuantNetwork(network=job.bundle.network)
        self._evaluate_point(network, [stage for stage in made if stage.point == ORIGINAL], job.bundle, evaluate)
        for index, bound in enumerate(job.plan.steps[: last + 1]):
            if self._context is None:
                raise RunError("A step needs calibration, but none was prepared.", fix="report this as a fault.")
            self.place = f" at step {bound.step.name!r}"
            self._progress.begin(bound.step.name)
            outcome = pipeline.run_step(bound, network, self._context)
            self._progress.end()
            self.reporter.say(f"{bound.step.name}: {outcome.summary} ({outcome.seconds:.1f} s)")
            self.record.add_step(outcome)
            if outcome.result.param_encodings and not network.param_encodings:
                self._unrounded = network.network
            network = outcome.result
            self._evaluate_point(network, [stage for stage in made if stage.point == index], job.bundle, evaluate)
        if job.optimized_bundle is not None:
            stages = [stage for stage in job.stages if stage.optimized]
            optimized = QuantNetwork(network=job.optimized_bundle.network)
            self._evaluate_point(optimized, stages, job.optimized_bundle, evaluate)

    def _evaluate_point(self, network: QuantNetwork, stages: list[Stage], bundle: ModelBundle, evaluate: bool) -> None:
        """Evaluate one network in float and, where asked for, simulated."""
        simulation: Simulation | None = None
        for stage in stages:
            if stage.same_as is not None:
                continue  # one network under two names is run once
            size = model_size_bytes(network.network, self.job.plan.quant.param_bw if stage.quantized else None)
            runs = network.network
            if stage.quantized:
                simulation = self._simulate(network, stage)
                runs = simulation.network
            if evaluate:
                self._evaluate_stage(stage, runs, bundle, size)
        if any(stage.optimized for stage in stages):
            folder = self.run_dir.folder("quantized")
            loaded = self.job.optimized_bundle is not None
            pipeline.save_quantized(folder, network, simulation, self.job.plan, loaded=loaded)

    def _simulate(self, network: QuantNetwork, stage: Stage) -> Simulation:
        if self._context is None:
            raise RunError("A stage needs calibration, but none was prepared.", fix="report this as a fault.")
        self.place = f" calibrating stage {stage.name!r}"
        self._progress.begin(f"calibrating {stage.name}")
        simulation = pipeline.simulate(network, self._context)
        self._progress.end()
        self.reporter.say(f"quantsim for {stage.name}: {simulation.summary} ({simulation.seconds:.1f} s)")
        # Rounding's own noise shows only against the network before it: weights on their grids have none left.
        reference = self._unrounded if network.param_encodings and self._unrounded is not None else network.network
        layers = layer_sqnr(reference, simulation.network, self._context.calibration)
        self.record.add_simulation(stage, simulation, layers)
        return simulation

    # ------------------------------------------------------------------ one stage

    def _evaluate_stage(self, stage: Stage, network: torch.nn.Module, bundle: ModelBundle, size_bytes: int) -> None:
        job = self.job
        self.place = f" at stage {stage.name!r}"
        metric = self.host.metric(job.entry, job.data.dataset.class_names)
        store = PredictionStore(self.run_dir.folder("predictions", stage.name), metric.prediction_type)
        exported = self._export(stage, network, bundle)
        self.reporter.start(stage.name, len(job.data.image_ids))
        stats = predict(
            network if exported is None else exported.network,
            bundle,
            job.data.dataset,
            job.data.image_ids,
            store,
            job.settings,
            self.reporter.advance,
        )
        self.reporter.finish()
        self._score(stage, metric, store, stats, size_bytes, exported)
        submission = self.run_dir.folder(job.data.dataset.submission_format, stage.name)
        predictions = (pair for chunk in store for pair in zip(chunk.image_ids, chunk.predictions, strict=True))
        job.data.dataset.write_submission(submission, predictions)

    def _export(self, stage: Stage, network: torch.nn.Module, bundle: ModelBundle) -> Exported | None:
        """The network for ONNX Runtime, where that was asked for and the stage is float."""
        job = self.job
        if job.request.backend != "onnxruntime" or stage.quantized:
            return None
        from zoo_core.evaluation.onnx_backend import export_checked

        exported = export_checked(network, bundle, job.data.dataset, job.data.image_ids, job.settings)
        self.reporter.say(f"{stage.name}: {exported.summary}")
        return exported

    def _score(
        self,
        stage: Stage,
        metric: Metric,
        store: PredictionStore,
        stats: InferenceStats,
        size_bytes: int,
        exported: Exported | None,
    ) -> None:
        started = time.perf_counter()
        for chunk in store:
            targets = [self.job.data.targets[image_id] for image_id in chunk.image_ids]
            metric.update(chunk.image_ids, chunk.predictions, targets)
        scores = metric.compute()
        self.record.add_stage(
            stage, scores, stats, size_bytes, scoring_seconds=time.perf_counter() - started, exported=exported
        )
        headline = scores[self.job.entry.headline].headline
        if headline is not None and headline < NEAR_ZERO:
            self._warn(f"{stage.name}: {self.job.entry.headline} is {headline:.4f}, near zero. The usual suspects:")
            for text in metric.suspects():
                self._warn(f"{stage.name}: {text}")


class _StepProgress:
    """Turns a step's (done, total, what) into one task of the reporter, whatever the parts are called."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._what = ""
        self._done: int | None = None

    def begin(self, what: str) -> None:
        """A step starts; its bar appears with the first progress that it reports."""
        self._what, self._done = what, None
        self._reporter.start(what, None)

    def __call__(self, done: int, total: int, _part: str) -> None:
        if self._done is None:
            self._reporter.finish()
            self._reporter.start(self._what, total)
            self._done = 0
        self._reporter.advance(max(done - self._done, 0))
        self._done = max(done, self._done)

    def end(self) -> None:
        """The step is done."""
        self._reporter.finish()
