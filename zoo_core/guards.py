"""Wraps plugin objects so that unexpected errors name the plugin and the hook."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from zoo_core.errors import PluginCrashError, ZooError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from zoo_core.datatypes import (
        ConformanceKit,
        EvalDataset,
        Metric,
        ModelBundle,
        Prediction,
        ProtocolScore,
        QuantNetwork,
        RecipeStep,
        StepContext,
        StepResult,
        Target,
        Task,
    )

F = TypeVar("F", bound="Callable[..., Any] | None")


@dataclass(frozen=True, slots=True)
class Naming:
    """Converts exceptions from a hook, or from an object it returned, to errors that name both; ZooErrors pass.

    Attributes:
        plugin_id: The plugin that is called.
        place: The hook, e.g. ``zoo_metric``, or a method of its result, e.g. ``update of zoo_metric``.
    """

    plugin_id: str
    place: str

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # A plugin that calls sys.exit would otherwise end the program silently with its own exit code.
        if isinstance(error, (Exception, SystemExit)) and not isinstance(error, ZooError):
            raise PluginCrashError(
                f"Plugin {self.plugin_id!r} failed in {self.place}: {type(error).__name__}: {error}",
                fix="report it to the plugin's authors with the traceback (`--verbose` shows it).",
            ) from error


@dataclass(frozen=True, slots=True)
class _Guarded:
    """Calls a function under a guard; an object, not a closure, so that it can be pickled if the function can."""

    function: Callable[..., Any]
    naming: Naming

    def __call__(self, *arguments: Any) -> Any:
        with self.naming:
            return self.function(*arguments)


def _guarded(function: F, plugin_id: str, place: str) -> F:
    return function if function is None else cast("F", _Guarded(function, Naming(plugin_id, place)))


def guarded_bundle(bundle: ModelBundle, plugin_id: str) -> ModelBundle:
    """Return the bundle with ``preprocess`` and ``decode`` wrapped; the network is the same object."""
    return dataclasses.replace(
        bundle,
        preprocess=_guarded(bundle.preprocess, plugin_id, "preprocess of zoo_load_model"),
        decode=_guarded(bundle.decode, plugin_id, "decode of zoo_load_model"),
    )


def guarded_kit(kit: ConformanceKit, plugin_id: str) -> ConformanceKit:
    """Return the kit with its functions wrapped."""
    return dataclasses.replace(
        kit,
        encode=_guarded(kit.encode, plugin_id, "encode of zoo_conformance"),
        perfect=_guarded(kit.perfect, plugin_id, "perfect of zoo_conformance"),
    )


def guarded_step(step: RecipeStep, plugin_id: str) -> RecipeStep:
    """Return the step with ``apply`` wrapped; the wrapper keeps its name and module."""
    naming = Naming(plugin_id, f"step {step.name!r} of zoo_recipe_steps")

    @functools.wraps(step.apply)
    def apply(network: QuantNetwork, params: Any, context: StepContext) -> StepResult:
        with naming:
            return step.apply(network, params, context)

    return dataclasses.replace(step, apply=apply)


def guarded_task(task: Task, plugin_id: str) -> Task:
    """Return the task with its functions wrapped."""

    def guarded(part: str) -> Any:
        return _guarded(getattr(task, part), plugin_id, f"{part} of zoo_task")

    checks = {
        part.name: _guarded(getattr(task.checks, part.name), plugin_id, f"checks.{part.name} of zoo_task")
        for part in dataclasses.fields(task.checks)
    }
    return dataclasses.replace(
        task,
        compare=guarded("compare"),
        draw=guarded("draw"),
        draw_target=guarded("draw_target"),
        resample=guarded("resample"),
        checks=dataclasses.replace(task.checks, **checks),
    )


class GuardedDataset:
    """Wraps a plugin's ``EvalDataset``."""

    def __init__(self, dataset: EvalDataset, plugin_id: str) -> None:
        self._dataset = dataset
        self._plugin_id = plugin_id
        with self._naming("attributes"):
            self.name = dataset.name
            self.split = dataset.split
            self.root = dataset.root
            self.class_names = dataset.class_names
            self.ids = dataset.ids
            self.submission_format = dataset.submission_format

    def _naming(self, part: str) -> Naming:
        return Naming(self._plugin_id, f"{part} of zoo_dataset")

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """See ``EvalDataset``; a crash names the image."""
        with self._naming(f"image({image_id!r})"):
            return self._dataset.image(image_id)

    def target(self, image_id: str) -> Target:
        """See ``EvalDataset``; a crash names the image."""
        with self._naming(f"target({image_id!r})"):
            return self._dataset.target(image_id)

    def content_hash(self, image_id: str) -> str:
        """See ``EvalDataset``; a crash names the image."""
        with self._naming(f"content_hash({image_id!r})"):
            return self._dataset.content_hash(image_id)

    def write_submission(self, directory: Path, predictions: Iterator[tuple[str, Prediction]]) -> None:
        """See ``EvalDataset``."""
        with self._naming("write_submission"):
            self._dataset.write_submission(directory, predictions)


class GuardedMetric:
    """Wraps a plugin's ``Metric``."""

    def __init__(self, metric: Metric, plugin_id: str) -> None:
        self._metric = metric
        self._plugin_id = plugin_id
        with self._naming("attributes"):
            self.prediction_type = metric.prediction_type
            self.protocol_ids = metric.protocol_ids

    def _naming(self, part: str) -> Naming:
        return Naming(self._plugin_id, f"{part} of zoo_metric")

    def update(self, image_ids: Sequence[str], preds: Sequence[Prediction], targets: Sequence[Target]) -> None:
        """See ``Metric``."""
        with self._naming("update"):
            self._metric.update(image_ids, preds, targets)

    def compute(self) -> Mapping[str, ProtocolScore]:
        """See ``Metric``."""
        with self._naming("compute"):
            scores: Mapping[str, ProtocolScore] = self._metric.compute()
            return scores

    def suspects(self) -> Sequence[str]:
        """See ``Metric``."""
        with self._naming("suspects"):
            suspects: Sequence[str] = self._metric.suspects()
            return suspects
