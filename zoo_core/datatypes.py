"""Values that cross the border between the core and a plugin.

Importing this module loads neither numpy nor torch: a plugin's ``hooks.py`` imports it, and ``zoo-eval list``
imports every ``hooks.py``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, TypeAlias

from zoo_core.errors import PluginError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from pydantic import BaseModel

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


class ImageSize(NamedTuple):
    """Size of an image before preprocessing, in pixels."""

    width_px: int
    height_px: int


# --------------------------------------------------------------------------- predictions and targets


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """Prediction for one image: named arrays with a common first axis.

    A subclass declares its arrays as fields; the prediction store writes and reads them by field name, so a new
    task needs no change there.
    """

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the fields by name, not copied."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Detections(Prediction):
    """Detections in one image, highest score first.

    Attributes:
        boxes: ``(N, 4)`` float32, ``xyxy`` in absolute pixels of the original image, 0-based; not clipped.
        scores: ``(N,)`` float32 in ``[0, 1]``; float64, any finite number, where another program's file is read.
        labels: ``(N,)`` int64, 0-based class index; background is not a class.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.floating[Any]]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        shapes = (self.boxes.shape, self.scores.shape, self.labels.shape)
        num_detections = len(self.scores)
        if shapes != ((num_detections, 4), (num_detections,), (num_detections,)):
            raise PluginError(
                f"Detections have boxes, scores and labels of shapes {shapes}.",
                fix="return boxes (N, 4), scores (N,), labels (N,) of one N; N is 0 when empty.",
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Classification(Prediction):
    """Ranked classes of one image, most probable first.

    Attributes:
        labels: ``(N,)`` int64, 0-based class index, each at most once. Classes may be missing if they are less
            probable than every class in the list.
        scores: ``(N,)`` float64 probabilities in ``[0, 1]``, descending. In float64, so that two logits which differ
            in the last bit of a float32 do not become a tie; a protocol defines how ties are broken.
    """

    labels: NDArray[np.int64]
    scores: NDArray[np.float64]

    def __post_init__(self) -> None:
        shapes = (self.labels.shape, self.scores.shape)
        if shapes != ((len(self.scores),), (len(self.scores),)):
            raise PluginError(
                f"A classification has labels and scores of shapes {shapes}.",
                fix="return labels (N,) and scores (N,) of one N, the most probable class first.",
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Target:
    """Ground truth of one image; base class of a task's targets."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DetectionTarget(Target):
    """Annotated objects of one image.

    Attributes:
        boxes: ``(M, 4)`` float32, ``xyxy`` in absolute pixels, 0-based (VOC's 1-based corners minus one).
        labels: ``(M,)`` int64, 0-based class index.
        difficult: ``(M,)`` bool; such an object counts neither as found nor as missed.
        crowds: ``(M,)`` bool; the box encloses a group annotated as one, COCO's ``iscrowd``. Crowds are also
            difficult. None if there are no crowds.
        areas: ``(M,)`` float64, area of the object itself in square pixels, COCO's ``area``, which divides objects
            into small, medium and large. None uses the boxes' areas.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    difficult: NDArray[np.bool_]
    crowds: NDArray[np.bool_] | None = None
    areas: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassTarget(Target):
    """Annotated class of one image.

    Attributes:
        label: 0-based class index.
    """

    label: int


# --------------------------------------------------------------------------- the model


class Preprocess(Protocol):
    """Turns an image into the network's input; called in worker threads, so it keeps no state."""

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return ``(C, H, W)`` float32 for one ``(H, W, 3)`` uint8 RGB image."""
        ...


class Decode(Protocol):
    """Turns the network's raw outputs into predictions, on the CPU, outside the quantized graph."""

    def __call__(self, outputs: tuple[torch.Tensor, ...], sizes: Sequence[ImageSize]) -> Sequence[Prediction]:
        """Return one prediction per image of the batch.

        Args:
            outputs: The network's outputs on the CPU, batch axis first. Owned by the core; do not modify.
            sizes: The size of each original image, in the order of the batch.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelBundle:
    """Network with its preprocessing and decoding.

    Attributes:
        network: In eval mode, on the requested device; contains only what a device would run.
        example_input: ``(1, C, H, W)`` float32, accepted by ``network``.
        preprocess: Converts one image to one input.
        decode: Converts a batch of outputs to predictions.
        notes: Remarks for readers of the report, e.g. that ReLU6 was replaced.
    """

    network: torch.nn.Module
    example_input: torch.Tensor
    preprocess: Preprocess
    decode: Decode
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Weights file, hashed and, if a hash is declared, verified.

    Attributes:
        path: Read the file only through ``zoo_core.artifacts.load_state_dict``.
        sha256: Of the file's bytes, hexadecimal.
        optimized: Published as already equalized and rounded, with batch norms folded. Not set for files written by
            ``zoo-eval quantize``: the core loads those into the ordinary network itself.
    """

    path: Path
    sha256: str
    optimized: bool = False


# --------------------------------------------------------------------------- the dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetRequest:
    """Requested split and location of a dataset.

    Attributes:
        root: Folder given as ``--data``, or the unpacked archives. None if there is neither: the plugin then uses its
            own location, or raises an error that describes the required data.
        split: For example ``test`` or ``trainval``.
        label_file: One class name a line; None for the dataset's own classes.
    """

    root: Path | None
    split: str
    label_file: Path | None = None


class EvalDataset(Protocol):
    """One split of a dataset.

    ``image`` is called from several threads at once and must be thread-safe. ``numpy.load`` is not: it parses the
    header with ``ast``, which occasionally fails in threads on Python 3.11 (python/cpython issue 106905).

    Attributes:
        name: Display name, e.g. ``VOC2007``.
        split: As requested.
        root: Folder of the data.
        class_names: Index is the label; background is not a class.
        ids: Every image id of the split, in the split's own order.
        submission_format: Folder name for ``write_submission``, e.g. ``comp4``.
    """

    name: str
    split: str
    root: Path
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    submission_format: str

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """Return ``(H, W, 3)`` uint8 RGB. Raises DataError naming the file when it is missing or damaged."""
        ...

    def target(self, image_id: str) -> Target:
        """Return the image's ground truth. Raises DataError naming file and element."""
        ...

    def content_hash(self, image_id: str) -> str:
        """Return the SHA-256 of the image's and its annotation's bytes. Raises DataError."""
        ...

    def write_submission(self, directory: Path, predictions: Iterator[tuple[str, Prediction]]) -> None:
        """Write predictions in the dataset's published exchange format into an existing empty directory."""
        ...


# --------------------------------------------------------------------------- the metric


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolScore:
    """Scores of one stage under one protocol.

    Attributes:
        values: Named results in ``[0, 1]``, the headline first, e.g. ``{"map": 0.86}``; None when undefined.
        per_class: Headline value per class name; None when undefined, with the reason in ``notes``.
        num_images: Images scored.
        num_objects: Objects that count, per class name (difficult ones do not).
        definition: The protocol's exact rule in a few sentences.
        notes: Limitations of the score: classes without objects, classes not submitted.
    """

    values: Mapping[str, float | None]
    per_class: Mapping[str, float | None]
    num_images: int
    num_objects: Mapping[str, int]
    definition: str
    notes: tuple[str, ...] = ()

    @property
    def headline(self) -> float | None:
        """Return the first of ``values``."""
        return next(iter(self.values.values()))


class Metric(Protocol):
    """Computes every protocol of a task in one pass over the predictions.

    Attributes:
        prediction_type: The class that ``update`` takes and the prediction store rebuilds.
        protocol_ids: Keys of the result of ``compute``, the default headline first.
    """

    prediction_type: type[Prediction]
    protocol_ids: tuple[str, ...]

    def update(self, image_ids: Sequence[str], preds: Sequence[Prediction], targets: Sequence[Target]) -> None:
        """Add a chunk of images; the order of chunks and of images does not change the result."""
        ...

    def compute(self) -> Mapping[str, ProtocolScore]:
        """Return the score under each protocol id."""
        ...

    def suspects(self) -> Sequence[str]:
        """Return likely causes of a score near zero: label order, colour order, box units. May be empty."""
        ...


# --------------------------------------------------------------------------- the task


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """Display names of one value of a ``ProtocolScore``.

    Attributes:
        overall: Name of the value over all images, e.g. ``mAP``.
        per_class: Name of the value of one class, e.g. ``AP``.
        counted: Plural noun for the things that ``ProtocolScore.num_objects`` counts, e.g. ``objects``.
        class_mean: The overall value is the mean of the classes' values.
        valid_range: Least and greatest value; tables show values in percent.
    """

    overall: str
    per_class: str
    counted: str
    class_mean: bool = False
    valid_range: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskContext:
    """Settings for comparing and drawing predictions.

    Attributes:
        class_names: Index is the label.
        score_threshold: Rows with ``score >=`` this count; tasks without scores ignore it.
    """

    class_names: tuple[str, ...]
    score_threshold: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageChange:
    """Difference between two predictions of one image.

    Attributes:
        counts: By kind of change, in the order and with the names of ``Task.change_kinds``: ``(C,)`` int64 per class.
        magnitude: Size of the change, at least 0.0; images are sorted by it, and those with 0.0 are not displayed.
        summary: Short description of the change, e.g. ``1 lost, 0 gained, 2 moved``.
    """

    counts: Mapping[str, NDArray[np.int64]]
    magnitude: float
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Drawing:
    """Image with a prediction or a target drawn onto it.

    Attributes:
        pixels: ``(H, W, 3)`` uint8 RGB, any size with the image's proportions.
        caption: Short text, e.g. ``3 detections``; may be empty.
    """

    pixels: NDArray[np.uint8]
    caption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ResampledImages:
    """Images of a comparison with R weightings of them, for bootstrap intervals.

    Attributes:
        class_names: Index is the label; C in all.
        image_ids: Ids of the I images.
        targets: In the order of ``image_ids``.
        weights: ``(I, R)`` int32, how often each image counts; in the first column each counts once.
        protocol: Protocol id whose first value is compared.
    """

    class_names: tuple[str, ...]
    image_ids: tuple[str, ...]
    targets: Sequence[Target]
    weights: NDArray[np.int32]
    protocol: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ResampledValues:
    """Values of one stage under each of R weightings of the images.

    Attributes:
        classes: ``(C, R)`` float64, not-a-number where undefined.
        overall: ``(R,)`` float64, likewise.
    """

    classes: NDArray[np.float64]
    overall: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PredictionChecks:
    """Functions with which ``zoo-eval validate`` examines predictions; a check without its function is not applicable.

    Attributes:
        problems: Returns the problems of a prediction, e.g. ``scores do not descend``; empty if it is valid.
        labels: Returns the class indices in a prediction, ``(N,)`` int64.
        positions_px: Returns the coordinates in a prediction, in pixels of the original image; any shape.
        perfect: Returns the best prediction for a target.
    """

    problems: Callable[[Prediction], Sequence[str]] | None = None
    labels: Callable[[Prediction], NDArray[np.int64]] | None = None
    positions_px: Callable[[Prediction], NDArray[np.floating[Any]]] | None = None
    perfect: Callable[[Target], Prediction] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Task:
    """Properties and functions of a task that reports, comparisons and checks need.

    Attributes:
        task_id: As registry entries name it, e.g. ``detection``.
        prediction_type: Type that ``decode`` returns and the metric takes.
        target_type: Type of the dataset's targets.
        measures: Display names by key of ``ProtocolScore.values``.
        change_kinds: Names of the counts of ``compare``: unchanged predictions first, then the kinds of change.
        change_definition: Explains these kinds in one or two sentences.
        compare: Returns the change from a first prediction of an image to a second one, given the target, or None where
            the data is not available, and the context.
        draw: Returns a new picture of an image, ``(H, W, 3)`` uint8 RGB, with a prediction; changes against a baseline,
            the first stage's prediction or None, can be marked. Must not write into the pixels.
        draw_target: The same for the ground truth; None leaves it out.
        may_be_empty: A prediction is a list of rows along the first axis of its arrays, and the list may be empty.
            False for a prediction that covers the whole image, such as a mask; it counts as one.
        uses_scores: ``compare`` and ``draw`` apply ``TaskContext.score_threshold``.
        resample: Scores one stage, whose predictions it gets by image id, under many weightings of the images at once.
        resample_protocols: Protocols that ``resample`` knows; for others the metric is computed for each weighting.
        checks: Functions for ``zoo-eval validate``.
    """

    task_id: str
    prediction_type: type[Prediction]
    target_type: type[Target]
    measures: Mapping[str, Measure]
    change_kinds: tuple[str, ...]
    change_definition: str
    compare: Callable[[Prediction, Prediction, Target | None, TaskContext], ImageChange]
    draw: Callable[[NDArray[np.uint8], Prediction, Prediction | None, TaskContext], Drawing]
    draw_target: Callable[[NDArray[np.uint8], Target, TaskContext], Drawing] | None = None
    may_be_empty: bool = True
    uses_scores: bool = False
    resample: Callable[[Mapping[str, Prediction], ResampledImages], ResampledValues] | None = None
    resample_protocols: tuple[str, ...] = ()
    checks: PredictionChecks = PredictionChecks()


def measure(task: Task | None, key: str) -> Measure:
    """Return the task's display names of a value, or the key itself where the task or the value is unknown."""
    known = {} if task is None else task.measures
    return known.get(key, Measure(overall=key, per_class=key, counted="count"))


# --------------------------------------------------------------------------- checks of a plugin


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """Drawn picture with its exact ground truth.

    Attributes:
        image_id: Id that the dataset must use.
        image: ``(H, W, 3)`` uint8 RGB.
        target: Ground truth that the dataset must return.
    """

    image_id: str
    image: NDArray[np.uint8]
    target: Target


class Encode(Protocol):
    """Inverse of ``Decode``: returns the outputs of a perfect network."""

    def __call__(self, targets: Sequence[Target], sizes: Sequence[ImageSize]) -> tuple[torch.Tensor, ...]:
        """Return the outputs from which ``decode`` finds exactly ``targets``, shaped as the network's own."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ConformanceKit:
    """Drawn pictures and functions with which a model is checked without a download.

    Attributes:
        root: The dataset that was written, as a user would give it to ``--data``.
        scenes: The pictures by split; contains the entry's evaluated and calibration splits.
        label_file: As a user would give it to ``--labels``.
        encode: The inverse of ``decode``; None skips the checks that need a perfect network.
        perfect: Returns the best prediction for a target; None uses the task's function.
        channels: The network's colour order; images always come in RGB.
        checkpoint: Weights that ship with the plugin; None uses the untrained network.
        least_headline: Minimum score of these weights on the evaluated scenes, in ``[0, 1]``, under the entry's
            headline protocol; None if there is no expectation.
    """

    root: Path
    scenes: Mapping[str, Sequence[Scene]]
    label_file: Path | None = None
    encode: Encode | None = None
    perfect: Callable[[Target], Prediction] | None = None
    channels: Literal["rgb", "bgr"] = "rgb"
    checkpoint: Path | None = None
    least_headline: float | None = None


# --------------------------------------------------------------------------- the registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """File to download, or file of an installed package.

    Attributes:
        url: ``https://...``, or ``package:<import name>/<path>`` for a file inside an installed package.
        sha256: Hexadecimal; None if none is published: the first download then records it.
        sha256_prefix: The first digits of the SHA-256, 8 or more, if only these are published: file names of torch's
            hub end with them. Checked on every use, together with the hash that the first download records.
        md5: A published MD5, checked on download in addition to the SHA-256, never instead of it.
        size_bytes: None if unknown.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}
    url: str
    sha256: str | None = None
    sha256_prefix: str | None = None
    md5: str | None = None
    size_bytes: int | None = None


LAYOUTS: Mapping[str, str] = MappingProxyType(
    {
        "voc": "a folder with ImageSets/Main, Annotations and JPEGImages",
        "coco": "a folder with annotations/instances_<split>.json and the images in <split>",
        "image_folder": "a folder with <split>/<class>/*.jpg",
        "shapes_voc": "drawn shapes with boxes; zoo-eval draws them if --data is not given",
        "shapes_folder": "drawn shapes, one per picture, in a folder per class; zoo-eval draws these too",
    }
)
"""Data layouts that zoo-eval opens itself, each with a description of the files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetEntry:
    """Source of a model's dataset, and the splits for evaluation and calibration.

    Attributes:
        name: Display name, e.g. ``VOC2007``; also selects the folder of this name if the data has several.
        split: Evaluated by default.
        calibration_split: Calibration images are drawn from it, never from the evaluated split.
        archives: Unpacked into the cache by ``zoo-eval fetch``; empty for data from the user or the plugin.
        layout: One of ``LAYOUTS``: zoo-eval opens the data itself. None if the plugin implements ``zoo_dataset``.
        label_file: Default of ``--labels``, one class name per line: a path relative to the registry file, or
            ``package:<import name>/<path>``. None uses the dataset's own class names.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}
    name: str
    split: str
    calibration_split: str
    archives: tuple[Artifact, ...] = ()
    layout: str | None = None
    label_file: str | None = None


RECORDED_PACKAGES = (
    "zoo-eval",
    "torch",
    "torchvision",
    "aimet-torch",
    "numpy",
    "opencv-python",
    "pyarrow",
    "safetensors",
    "pluggy",
    "onnxruntime",
)
"""Libraries that can change a score; a run records their versions."""

ANY_RECIPE = "any"
"""Recipe name of a reference that applies to every recipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceVariant:
    """Value of a reference under certain versions of the libraries.

    Attributes:
        versions: Specifier by package, e.g. ``{"torch": ">=2.8,<2.12"}``; all must match.
        value: In ``[0, 1]``.
        tolerance: None uses the reference's.
        note: Known conditions of the measurement.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}
    versions: Mapping[str, str]
    value: float
    tolerance: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Published or recorded value, with the conditions of its measurement.

    Attributes:
        stage: The stage it belongs to, e.g. ``fp32``.
        protocol: Protocol id.
        value: In ``[0, 1]``.
        tolerance: Largest shortfall from ``value`` at which a result still counts as reproduced.
        source: Where it was published.
        key: Key of the value inside the protocol; None for the protocol's first value.
        note: Known conditions of the measurement.
        per_class: Values per class name, if published.
        recipe: Name of the recipe used; None for the model's default, ``any`` for a value that applies to every recipe.
            The stage fp32 depends on none.
        settings: ``STEP.PARAM=VALUE`` overrides of that recipe.
        variants: Values under certain versions of the libraries; the first that matches a run replaces ``value``.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}
    stage: str
    protocol: str
    value: float
    tolerance: float
    source: str
    key: str | None = None
    note: str = ""
    per_class: Mapping[str, float] = field(default_factory=dict)
    recipe: str | None = None
    settings: tuple[str, ...] = ()
    variants: tuple[ReferenceVariant, ...] = ()

    @property
    def value_name(self) -> str:
        """Return stage, protocol and, if given, key."""
        return " ".join(part for part in (self.stage, self.protocol, self.key) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """Registry entry of a model.

    Attributes:
        model_id: Its key in the registry file.
        plugin: The plugin that owns it: any that is installed.
        task: ``detection`` and ``classification`` are built in; a plugin may declare others.
        checkpoint: The original weights; None if the user must provide them.
        optimized_checkpoint: Weights published as already optimized, if any.
        recipe: Name of the default recipe.
        recipes: A folder of recipe files, or one recipe file: a path relative to the registry file, or
            ``package:<import name>/<path>``. The recipes that zoo-eval ships are available too.
        headline: Protocol id that tables show first.
        options: Options of the plugin, e.g. a width multiplier.
        source: Registry file with the entry.
    """

    model_id: str
    plugin: str
    task: str
    description: str
    dataset: DatasetEntry
    recipe: str
    headline: str
    checkpoint: Artifact | None = None
    recipes: str | None = None
    optimized_checkpoint: Artifact | None = None
    references: tuple[Reference, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    source: Path = Path()


# --------------------------------------------------------------------------- the recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSpec:
    """Entry of a recipe: a step's name and its parameters, not yet checked by the step."""

    step: str
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Ordered list of quantization steps.

    Attributes:
        name: As given in the file.
        steps: In order; the last one is ``quantsim``, with bit widths, scheme and config file.
        source: The file it was read from; paths inside the recipe are relative to it.
        sha256: Of the recipe's content as used: file bytes and overrides.
    """

    name: str
    description: str
    steps: tuple[StepSpec, ...]
    source: Path
    sha256: str


class CalibrationBatches(Protocol):
    """Preprocessed calibration images; may be iterated any number of times, always in the same order."""

    num_images: int

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yield ``(B, C, H, W)`` float32 batches on the run's device."""
        ...

    def __len__(self) -> int:
        """Return the number of batches."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantSettings:
    """Number formats: the recipe's ``quantsim`` parameters, which earlier steps must also use.

    Attributes:
        param_bw: Bits of a weight.
        output_bw: Bits of an activation.
        quant_scheme: ``tf_enhanced`` (SQNR range search) or ``tf`` (min-max).
        config_file: AIMET configuration: symmetry, per-channel, exceptions from quantization.
    """

    param_bw: int
    output_bw: int
    quant_scheme: Literal["tf", "tf_enhanced"]
    config_file: Path


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantNetwork:
    """Float network between two steps of a recipe.

    Attributes:
        network: In eval mode. Never modified: a step returns a new one.
        param_encodings: Encodings fixed by a step, by parameter name, in AIMET's exchange form; quantsim freezes them
            before it calibrates activations. Empty before a rounding step.
    """

    network: torch.nn.Module
    param_encodings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepContext:
    """Inputs that a step may use.

    Attributes:
        example_input: On the run's device.
        calibration: Preprocessed calibration images.
        quant: Bit widths and scheme that the network will be simulated with.
        seed: Seeds every random choice of the step.
        work_dir: An existing directory for temporary files, removed with the run's temporary data.
        progress: Call with (done, total, what) to update the step's progress bar.
        cache_dir: Directory in which a step may cache results across runs; it need not exist. None disables caching.
    """

    example_input: torch.Tensor
    calibration: CalibrationBatches
    quant: QuantSettings
    seed: int
    work_dir: Path
    progress: Callable[[int, int, str], None]
    cache_dir: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepResult:
    """Result of a step.

    Attributes:
        result: The new network.
        effect: Facts for the record, e.g. ``{"num_layer_sets": 33}``.
        summary: The effect in one line of text.
        name: Name of the step, filled in by the pipeline.
        seconds: Wall time, filled in by the pipeline.
    """

    result: QuantNetwork
    effect: Mapping[str, Json]
    summary: str
    name: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeStep:
    """Quantization step that recipes can name.

    Attributes:
        name: Unique among all plugins.
        params: Pydantic model of its parameters; forbids unknown keys and documents each.
        apply: Returns a new network for a network; must not modify its input.
        fixes_encodings: The step fixes weight encodings. A later step that changes weights would undo it, so that
            order is refused before the run.
    """

    name: str
    params: type[BaseModel]
    apply: Callable[[QuantNetwork, Any, StepContext], StepResult]
    fixes_encodings: bool = False
