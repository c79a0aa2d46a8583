"""The model that is checked: its parts, each made once and when first asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from zoo_core import artifacts
from zoo_core.conformance.outcomes import CheckFailedError, NotCheckedError
from zoo_core.datatypes import DatasetRequest, ImageSize
from zoo_core.errors import ZooError
from zoo_core.inference import CalibrationSet, InferenceSettings, run_batch
from zoo_core.quantization import pipeline

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from typing_extensions import Self

    from zoo_core.datatypes import (
        ConformanceKit,
        EvalDataset,
        Metric,
        ModelBundle,
        ModelEntry,
        Prediction,
        Scene,
        StepContext,
        Task,
    )
    from zoo_core.plugins import PluginHost
    from zoo_core.quantization.aimet.simulation import Simulation
    from zoo_core.quantization.pipeline import Plan

T = TypeVar("T")

CPU = "cpu"
NUM_IMAGES = 3
"""Pictures that the network is run on: enough to see a batch differ from its images."""
NUM_CALIBRATION_IMAGES = 4
_INVENTED_CLASSES = ("first", "second", "third")
_IMPLEMENT = "there are no pictures: declare dataset.layout in the entry, or implement zoo_conformance"


class Subject:
    """A model under check. Use it as a context manager: it keeps a temporary folder.

    Args:
        host: The plugins.
        model: Registry name, or the name of a plugin that owns one model.
    """

    def __init__(self, host: PluginHost, model: str) -> None:
        self.host = host
        self.model = model
        self.simulation: Simulation | None = None
        """The quantized network, once the recipe has been run."""
        self._parts: dict[str, Any] = {}
        self._failed: set[str] = set()
        self._folder = tempfile.TemporaryDirectory(prefix="zoo-eval-check-")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the temporary folder."""
        self._folder.cleanup()

    def _part(self, name: str, make: Callable[[], T]) -> T:
        """Make a part once; where making it fails, the first to ask sees the error, and nobody else is blamed."""
        if name in self._failed:
            raise NotCheckedError(f"{name} failed, see the check above")
        if name not in self._parts:
            try:
                self._parts[name] = make()
            except NotCheckedError:
                raise
            except Exception:
                self._failed.add(name)
                raise
        return cast("T", self._parts[name])

    # ------------------------------------------------------------------ what the hooks give

    @property
    def entry(self) -> ModelEntry:
        """The model's entry in the registry."""
        return self._part("the registry entry", lambda: self.host.model(self.model))

    @property
    def task(self) -> Task:
        """The entry's task."""
        return self._part("the task", lambda: self.host.task(self.entry))

    @property
    def plan(self) -> Plan:
        """The entry's recipe, checked."""

        def make() -> Plan:
            recipe = self.host.recipe(self.entry, self.entry.recipe)
            return pipeline.plan(recipe, self.host.recipe_steps())

        return self._part("the recipe", make)

    @property
    def kit(self) -> ConformanceKit:
        """The plugin's material for the checks."""
        kit = self._part("zoo_conformance", self._make_kit)
        if kit is None:
            raise NotCheckedError(_IMPLEMENT)
        return kit

    def _make_kit(self) -> ConformanceKit | None:
        entry = self.entry
        kit = self.host.conformance_kit(entry, self.folder("kit"))
        needed = {entry.dataset.split, entry.dataset.calibration_split}
        missing = sorted(split for split in needed if kit is not None and not kit.scenes.get(split))
        if missing:
            raise CheckFailedError(
                f"zoo_conformance gave no scenes for the split {missing[0]!r} of {entry.dataset.name!r}.",
                fix="write pictures for the evaluated and for the calibration split of the registry entry.",
            )
        return kit

    def dataset(self, split: str) -> EvalDataset:
        """The split of the kit's data."""
        kit = self.kit
        request = DatasetRequest(root=kit.root, split=split, label_file=kit.label_file)
        return self._part(f"zoo_dataset for the split {split!r}", lambda: self.host.dataset(self.entry, request))

    @property
    def evaluated(self) -> EvalDataset:
        """The evaluated split."""
        return self.dataset(self.entry.dataset.split)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The dataset's classes; invented ones where the plugin writes no data."""
        if self._part("zoo_conformance", self._make_kit) is None:
            return _INVENTED_CLASSES
        return self.evaluated.class_names

    @property
    def bundle(self) -> ModelBundle:
        """The network with the kit's weights, or untrained."""
        return self._part("zoo_load_model", self.load_bundle)

    def load_bundle(self) -> ModelBundle:
        """Ask the plugin for the network again."""
        kit = self._part("zoo_conformance", self._make_kit)
        given = kit.checkpoint if kit is not None else None
        checkpoint = artifacts.local_checkpoint(given) if given is not None else None
        try:
            return self.host.load_model(self.entry, checkpoint, self.class_names, CPU)
        except ZooError as error:
            if kit is None and error.exit_code == ZooError.exit_code:  # it may rightly refuse the invented classes
                raise NotCheckedError(f"{_IMPLEMENT}, and the network refuses other classes: {error.fact}") from error
            raise

    def metric(self) -> Metric:
        """A new accumulator for the dataset's classes."""
        return self.host.metric(self.entry, self.class_names)

    # ------------------------------------------------------------------ what follows from it

    @property
    def scenes(self) -> Sequence[Scene]:
        """The evaluated split's pictures."""
        return self.kit.scenes[self.entry.dataset.split]

    @property
    def sizes(self) -> list[ImageSize]:
        """Of the pictures that ``inputs`` holds."""
        return [size_of(scene.image) for scene in self.scenes[:NUM_IMAGES]]

    @property
    def inputs(self) -> list[NDArray[np.float32]]:
        """The first pictures, preprocessed; random inputs where the plugin writes no data."""

        def make() -> list[NDArray[np.float32]]:
            if self._part("zoo_conformance", self._make_kit) is None:
                import numpy as np

                rng = np.random.default_rng(0)
                shape = tuple(self.bundle.example_input.shape[1:])
                return [rng.standard_normal(shape, dtype=np.float32) for _ in range(NUM_IMAGES)]
            return [self.bundle.preprocess(scene.image) for scene in self.scenes[:NUM_IMAGES]]

        return self._part("preprocess", make)

    @property
    def outputs(self) -> tuple[torch.Tensor, ...]:
        """Run the network on ``inputs`` as one batch."""
        return self._part("the network's forward pass", lambda: run_batch(self.bundle.network, self.inputs, CPU))

    def decode(self, outputs: tuple[torch.Tensor, ...], sizes: Sequence[ImageSize]) -> Sequence[Prediction]:
        """The plugin's ``decode``, which must give one prediction an image."""
        found = self.bundle.decode(outputs, sizes)
        if len(found) != len(sizes):
            raise CheckFailedError(
                f"decode returned {len(found)} predictions for {len(sizes)} images.",
                fix="return one prediction per image, an empty one where nothing was found.",
            )
        return found

    def step_context(self) -> StepContext:
        """Context of a recipe step: a few calibration images and the recipe's bit widths."""
        from zoo_core.datatypes import StepContext

        dataset = self.dataset(self.entry.dataset.calibration_split)
        settings = InferenceSettings(batch_size=1, workers=0, device=CPU)
        ids = dataset.ids[:NUM_CALIBRATION_IMAGES]
        calibration = CalibrationSet(dataset, ids, self.bundle.preprocess, settings, lambda _: None)
        work_dir = Path(self._folder.name) / "steps"
        work_dir.mkdir(exist_ok=True)
        return StepContext(
            example_input=self.bundle.example_input,
            calibration=calibration,
            quant=self.plan.quant,
            seed=0,
            work_dir=work_dir,
            progress=lambda _done, _total, _what: None,
        )

    def folder(self, name: str) -> Path:
        """A new empty folder."""
        folder = Path(self._folder.name) / name
        folder.mkdir()
        return folder


def size_of(image: NDArray[np.uint8]) -> ImageSize:
    """Width and height of ``(H, W, 3)``."""
    return ImageSize(width_px=image.shape[1], height_px=image.shape[0])
