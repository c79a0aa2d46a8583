"""The toy plugin with one part exchanged, so that it has exactly one fault."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from toy_detector import hooks as toy
from zoo_core import defaults
from zoo_core.datatypes import (
    Checkpoint,
    ConformanceKit,
    DatasetRequest,
    EvalDataset,
    Metric,
    ModelBundle,
    ModelEntry,
    Recipe,
    RecipeStep,
)
from zoo_core.hookspecs import hookimpl

T = TypeVar("T")


def _answer(default: T | None) -> T:
    assert default is not None
    return default


def as_it_is(part: Any) -> Any:
    return part


class FaultyToy:
    """Each argument takes what the healthy toy's hook gives and returns what this one gives."""

    def __init__(
        self,
        *,
        bundle: Callable[[ModelBundle], ModelBundle] = as_it_is,
        recipe: Callable[[Recipe], Recipe] = as_it_is,
        dataset: Callable[[Any], Any] = as_it_is,
        metric: Callable[[Any], Any] = as_it_is,
        kit: Callable[[ConformanceKit], ConformanceKit] = as_it_is,
        registry: Callable[[Path], Path] = as_it_is,
    ) -> None:
        self.bundle, self.recipe, self.dataset = bundle, recipe, dataset
        self.metric, self.kit, self.registry = metric, kit, registry

    @hookimpl
    def zoo_registry(self) -> Path:
        return self.registry(toy.zoo_registry())

    @hookimpl
    def zoo_load_model(
        self, entry: ModelEntry, checkpoint: Checkpoint | None, class_names: Sequence[str], device: str
    ) -> ModelBundle:
        return self.bundle(toy.zoo_load_model(entry, checkpoint, class_names, device))

    @hookimpl
    def zoo_recipe(self, entry: ModelEntry, name: str) -> Recipe:
        return self.recipe(_answer(defaults.zoo_recipe(entry, name)))

    @hookimpl
    def zoo_dataset(self, entry: ModelEntry, request: DatasetRequest) -> EvalDataset:
        dataset: EvalDataset = self.dataset(toy.zoo_dataset(entry, request))
        return dataset

    @hookimpl
    def zoo_metric(self, entry: ModelEntry, class_names: Sequence[str]) -> Metric:
        metric: Metric = self.metric(_answer(defaults.zoo_metric(entry, class_names)))
        return metric

    @hookimpl
    def zoo_recipe_steps(self) -> Sequence[RecipeStep]:
        return toy.zoo_recipe_steps()

    @hookimpl
    def zoo_conformance(self, entry: ModelEntry, directory: Path) -> ConformanceKit:
        return self.kit(toy.zoo_conformance(entry, directory))
