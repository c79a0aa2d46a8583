"""Evaluates one stage of a run: chooses its runtime, predicts, measures further batch sizes, and scores."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from zoo_core.datatypes import Prediction
from zoo_core.display import nonfinite_text
from zoo_core.errors import RunError
from zoo_core.evaluation.batch_sizes import BatchSizeEffect, compare_batch_sizes
from zoo_core.evaluation.memory import out_of_memory, with_less_memory
from zoo_core.inference import InferenceStats, chunk_ids, predict
from zoo_core.runs.binding import stage_binding
from zoo_core.runs.hashes import PREDICTIONS
from zoo_core.runs.predictions import PredictionStore
from zoo_core.runs.request import AUTO
from zoo_core.runtimes import TORCH

if TYPE_CHECKING:
    import torch

    from zoo_core.datatypes import ModelBundle
    from zoo_core.evaluation.float_runtime import Exported
    from zoo_core.evaluation.prepare import Job
    from zoo_core.evaluation.recorder import Recorder
    from zoo_core.evaluation.request import Reporter
    from zoo_core.evaluation.stages import Stage
    from zoo_core.inference import InferenceSettings
    from zoo_core.plugins import PluginHost
    from zoo_core.runs.directory import RunDirectory

logger = logging.getLogger("zoo_eval")

NEAR_ZERO = 0.02
"""Headline values below this are usually caused by a wiring mistake, not by a bad network."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StageNetwork:
    """Network of a stage, ready to run.

    Attributes:
        network: Called with ``(B, C, H, W)`` float32.
        bundle: Provides ``preprocess`` and ``decode``.
        size_bytes: Of its weights; of a deployed stage, of its file.
        digest: Of structure, weights and encodings, or of the file.
        device: Torch device string.
    """

    network: torch.nn.Module
    bundle: ModelBundle
    size_bytes: int
    digest: str
    device: str


class StageRunner:
    """Evaluates the stages of a run, one after the other.

    Attributes:
        place: Current place for error messages, e.g. " at stage 'fp32'"; empty before the first stage.
    """

    def __init__(
        self, job: Job, run_dir: RunDirectory, recorder: Recorder, reporter: Reporter, host: PluginHost
    ) -> None:
        self.place = ""
        self._job = job
        self._run_dir = run_dir
        self._recorder = recorder
        self._reporter = reporter
        self._host = host

    def store(self, stage: Stage) -> PredictionStore:
        """Return the predictions of a stage; new chunks are bound to what the record now says of it."""
        folder = self._run_dir.folder(PREDICTIONS, stage.name)
        binding = stage_binding(self._recorder.record, stage.name)
        return PredictionStore(folder, self._job.task.prediction_type, binding=binding)

    def is_open(self, stage: Stage) -> bool:
        """Return True if predictions of some images, or measurements, are missing."""
        own = self._recorder.record.stages.get(stage.name)
        if own is None or self._recorder.unmeasured_batch_sizes(stage):
            return True
        deployed = own.deployment
        if stage.runtime is not None and (deployed is None or deployed.parity is None or deployed.cost is None):
            return True
        chunks = chunk_ids(self._job.data.image_ids, self._recorder.batch_size(stage))
        return bool(self.store(stage).missing(chunks))

    def warn(self, text: str, stage: Stage | None = None) -> None:
        """Log, record and print a warning."""
        logger.warning(text)
        self._recorder.warn(text, stage)
        self._reporter.warn(text)

    def start(self, stage: Stage, own: StageNetwork) -> None:
        """Record that a stage starts; chunks that another network computed are removed."""
        self.place = f" at stage {stage.name!r}"
        warnings = self._discard_other_network(stage, own.digest)
        self._recorder.start_stage(stage, own.size_bytes, self._recorder.batch_size(stage), own.digest, *warnings)

    def evaluate(self, stage: Stage, own: StageNetwork) -> None:
        """Predict what is missing, then score; ``start`` was called."""
        recorder, job = self._recorder, self._job

        def run(batch_size: int, single_lane: bool) -> InferenceStats:
            settings = self._settings(own, batch_size)
            if single_lane:
                self._reporter.finish()
                settings = replace(settings, max_lanes=1)
            runs = self._on_runtime(stage, own, settings)
            store = self.store(stage)  # not before: its binding has batch size, runtime and network
            chunks = chunk_ids(job.data.image_ids, batch_size)
            num_left = sum(len(chunks[index]) for index in store.missing(chunks))
            if num_left < len(job.data.image_ids):
                self._reporter.say(f"{stage.name}: {len(job.data.image_ids) - num_left} images are complete already")
            self._reporter.start(stage.name, num_left)
            return predict(
                runs, own.bundle, job.data.dataset, job.data.image_ids, store, settings, self._reporter.advance
            )

        def restart(too_large: int, batch_size: int) -> None:
            self._reporter.finish()
            self.store(stage).clear()  # first: every chunk of a stage must have the recorded batch size
            text = (
                f"{stage.name}: there was not enough memory for {too_large} images at a time; the stage was run with "
                f"{batch_size}. Its predictions may differ from those of another batch size by rounding."
            )
            recorder.start_stage(stage, own.size_bytes, batch_size, own.digest, text)
            logger.warning(text)
            self._reporter.warn(text)

        recorder.add_inference(stage, with_less_memory(recorder.batch_size(stage), run, restart))
        self._reporter.finish()
        self.close(stage)
        for size in recorder.unmeasured_batch_sizes(stage):
            self.place = f" at stage {stage.name!r} with batch size {size}"
            try:
                recorder.add_batch_size(stage, size, self._at_batch_size(stage, own, size))
            except Exception as error:
                message = out_of_memory(error)
                if message is None:
                    raise
                self._reporter.finish()
                recorder.add_batch_size(stage, size, f"not enough memory ({message})")

    def close(self, stage: Stage) -> None:
        """Score complete predictions and write them in the dataset's exchange format."""
        job, store = self._job, self.store(stage)
        dataset = job.data.dataset
        self.place = f" at stage {stage.name!r}"
        metric = self._host.metric(job.entry, dataset.class_names)
        started = time.perf_counter()
        num_nonfinite = 0
        for chunk in store:
            num_nonfinite += len(chunk.nonfinite_ids)
            targets = [job.data.targets[image_id] for image_id in chunk.image_ids]
            metric.update(chunk.image_ids, chunk.predictions, targets)
        scores = metric.compute()
        seconds = time.perf_counter() - started
        self._recorder.add_scores(stage, scores, seconds=seconds, num_nonfinite_images=num_nonfinite)
        if num_nonfinite:
            as_zeros = metric.prediction_type.without_rows is Prediction.without_rows
            text = nonfinite_text(num_nonfinite, len(job.data.image_ids), as_zeros=as_zeros)
            self.warn(f"{stage.name}: {text}", stage)
        headline = scores[job.entry.headline].headline
        if headline is not None and headline < NEAR_ZERO:
            suspects = metric.suspects()
            likely = " The usual suspects:" if suspects else ""
            for text in (f"{job.entry.headline} is {headline:.4f}, near zero.{likely}", *suspects):
                self.warn(f"{stage.name}: {text}", stage)
        predictions = (pair for chunk in store for pair in zip(chunk.image_ids, chunk.predictions, strict=True))
        with self._run_dir.whole_folder(dataset.submission_format, stage.name) as folder:
            dataset.write_submission(folder, predictions)
        self._recorder.add_files(f"{PREDICTIONS}/{stage.name}", f"{dataset.submission_format}/{stage.name}")

    # ------------------------------------------------------------------ parts

    def _settings(self, own: StageNetwork, batch_size: int) -> InferenceSettings:
        return replace(self._job.settings, batch_size=batch_size, device=own.device)

    def _discard_other_network(self, stage: Stage, network_digest: str) -> list[str]:
        """Remove a stage's chunks if another network computed them, and return a warning that says so."""
        if not self._recorder.has_other_network(stage, network_digest):
            return []
        self.store(stage).clear()
        text = (
            f"{stage.name}: the resumed run computed another network than the interrupted one, as another processor "
            "does; the stage was started again."
        )
        logger.warning(text)
        self._reporter.warn(text)
        return [text]

    def _at_batch_size(self, stage: Stage, own: StageNetwork, batch_size: int) -> BatchSizeEffect:
        """Run a stage again at another batch size; its predictions are compared, then discarded."""
        job, started = self._job, time.perf_counter()
        settings = self._settings(own, batch_size)
        runs = self._on_runtime(stage, own, settings)
        with self._run_dir.work_folder() as folder:
            other = PredictionStore(folder, job.task.prediction_type)
            self._reporter.start(f"{stage.name}, batch size {batch_size}", len(job.data.image_ids))
            predict(runs, own.bundle, job.data.dataset, job.data.image_ids, other, settings, self._reporter.advance)
            self._reporter.finish()
            metric = self._host.metric(job.entry, job.data.dataset.class_names)
            return compare_batch_sizes(self.store(stage), other, metric, job, started=started)

    def _on_runtime(self, stage: Stage, own: StageNetwork, settings: InferenceSettings) -> torch.nn.Module:
        """Return the network that computes a stage, and record its runtime: the recorded one where there is one."""
        if stage.quantized:
            self._recorder.add_runtime(stage, stage.runtime or TORCH)
            return own.network
        name = self._recorder.runtime(stage) or self._job.request.runtime
        if name == TORCH or (name == AUTO and settings.device != "cpu"):
            self._recorder.add_runtime(stage, TORCH, reason=self._recorder.runtime_reason(stage))
            return own.network
        try:
            exported = self._exported(stage, own, settings)
        except RunError as error:
            if name != AUTO:
                raise
            self._reporter.say(f"{stage.name}: computed in torch, because {error.fact}")
            self._recorder.add_runtime(stage, TORCH, reason=error.fact)
            return own.network
        self._recorder.add_runtime(stage, exported.runtime, exported=exported)
        return exported.network

    def _exported(self, stage: Stage, own: StageNetwork, settings: InferenceSettings) -> Exported:
        from zoo_core.evaluation.float_runtime import export_checked

        job = self._job
        exported = export_checked(own.network, own.bundle, job.data.dataset, job.data.image_ids, settings)
        self._reporter.say(f"{stage.name}: {exported.summary}")
        return exported
