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
    """What a network says about one image: named arrays whose first axis is the same N.

    A subclass declares its arrays as fields; the prediction store writes and reads them by field name, so a new
    task needs no change there.
    """

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The fields by name, not copied."""
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
    """The classes that a network gives one image, most probable first.

    Attributes:
        labels: ``(N,)`` int64, 0-based class index, each at most once. Not all classes need be there, but whatever is
            left out is less probable than what is there.
        scores: ``(N,)`` float64 probabilities in ``[0, 1]``, falling. In float64, so that two logits which differ by
            the last bit of a float32 stay different: equal scores are ties, and a protocol says who wins them.
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
    """What is true of one image; a task's targets derive from it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DetectionTarget(Target):
    """The objects in one image.

    Attributes:
        boxes: ``(M, 4)`` float32, ``xyxy`` in absolute pixels, 0-based (VOC's 1-based corners minus one).
        labels: ``(M,)`` int64, 0-based class index.
        difficult: ``(M,)`` bool; such an object counts neither as found nor as missed.
        crowds: ``(M,)`` bool; the box encloses a group that was not told apart, COCO's ``iscrowd``. Each of them is
            difficult too. None where nothing is a crowd.
        areas: ``(M,)`` float64, square pixels that the object itself covers, COCO's ``area``, which sorts objects into
            small, medium and large. None where only boxes are known: the boxes' areas.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    difficult: NDArray[np.bool_]
    crowds: NDArray[np.bool_] | None = None
    areas: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassTarget(Target):
    """The one class of an image.

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
    """A network, and how an image gets in and a prediction gets out.

    Attributes:
        network: In eval mode, on the device asked for; holds only what a device would run.
        example_input: ``(1, C, H, W)`` float32, accepted by ``network``.
        preprocess: One image to one input.
        decode: A batch of outputs to predictions.
        notes: What a reader of the report must know, e.g. that ReLU6 was replaced.
    """

    network: torch.nn.Module
    example_input: torch.Tensor
    preprocess: Preprocess
    decode: Decode
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A weights file whose content has been hashed, and checked where a hash was declared.

    Attributes:
        path: Where it lies; read it through ``zoo_core.artifacts.load_state_dict`` alone.
        sha256: Of the file's bytes, hexadecimal.
        optimized: Published as already equalized and rounded: batch norms are folded. What ``zoo-eval quantize`` wrote
            never reaches a plugin this way: the core loads it into the ordinary network.
    """

    path: Path
    sha256: str
    optimized: bool = False


# --------------------------------------------------------------------------- the dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetRequest:
    """Which part of which data a run asks for.

    Attributes:
        root: What the user gave as ``--data``, or where the archives were unpacked; None where neither is, and the
            plugin then uses a place of its own or says what to give.
        split: For example ``test`` or ``trainval``.
        label_file: One class name a line; None for the dataset's own classes.
    """

    root: Path | None
    split: str
    label_file: Path | None = None


class EvalDataset(Protocol):
    """One split of a dataset.

    ``image`` is called from several threads at once; read with functions that allow it. ``numpy.load`` does not: it
    parses the header with ``ast``, which fails in threads now and then on Python 3.11 (python/cpython issue 106905).

    Attributes:
        name: For people, e.g. ``VOC2007``.
        split: As requested.
        root: Where it was found.
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
        """Return what is true of the image. Raises DataError naming file and element."""
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
    """What one protocol says about one stage.

    Attributes:
        values: Named results in ``[0, 1]``, the headline first, e.g. ``{"map": 0.86}``; None when undefined.
        per_class: Headline value per class name; None when undefined, the reason then stands in ``notes``.
        num_images: Images scored.
        num_objects: Objects that count, per class name (difficult ones do not).
        definition: The protocol's exact rule in a few sentences.
        notes: What limits the number: classes without objects, classes not submitted.
    """

    values: Mapping[str, float | None]
    per_class: Mapping[str, float | None]
    num_images: int
    num_objects: Mapping[str, int]
    definition: str
    notes: tuple[str, ...] = ()

    @property
    def headline(self) -> float | None:
        """The first of ``values``."""
        return next(iter(self.values.values()))


class Metric(Protocol):
    """Every protocol of a task from one pass over the predictions.

    Attributes:
        prediction_type: The class that ``update`` takes and the prediction store rebuilds.
        protocol_ids: Keys of what ``compute`` returns, the default headline first.
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
        """Say what the data shows about a score near zero: label order, colour order, box units. May be empty."""
        ...


# --------------------------------------------------------------------------- the task


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """Display names of one value of a ``ProtocolScore``.

    Attributes:
        overall: Name of the value over all images, e.g. ``mAP``.
        per_class: Name of the value of one class, e.g. ``AP``.
        counted: Plural of what ``ProtocolScore.num_objects`` counts, e.g. ``objects``.
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
        magnitude: Size of the change, at least 0.0; 0.0 means that nothing worth showing changed. Orders images.
        summary: The change in a few words, e.g. ``1 lost, 0 gained, 2 moved``.
    """

    counts: Mapping[str, NDArray[np.int64]]
    magnitude: float
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Drawing:
    """A prediction or a target drawn onto its image.

    Attributes:
        pixels: ``(H, W, 3)`` uint8 RGB, of the image's proportions and any size.
        caption: A few words, e.g. ``3 detections``; may be empty.
    """

    pixels: NDArray[np.uint8]
    caption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ResampledImages:
    """Images of a comparison with R weightings of them, for bootstrap intervals.

    Attributes:
        class_names: Index is the label; C in all.
        image_ids: Of the I images.
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
        problems: Returns what is wrong with a prediction, e.g. ``scores do not descend``; empty for a sound one.
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
        change_kinds: Names of what ``compare`` counts: first what stayed the same, then the kinds of change.
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


# --------------------------------------------------------------------------- what the checks of a plugin need


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """A picture of which everything is known, because a program drew it.

    Attributes:
        image_id: As the dataset must name it.
        image: ``(H, W, 3)`` uint8 RGB.
        target: What the dataset must say of it.
    """

    image_id: str
    image: NDArray[np.uint8]
    target: Target


class Encode(Protocol):
    """The inverse of ``Decode``: what a network that is right would put out."""

    def __call__(self, targets: Sequence[Target], sizes: Sequence[ImageSize]) -> tuple[torch.Tensor, ...]:
        """Return the outputs from which ``decode`` finds exactly ``targets``, shaped as the network's own."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ConformanceKit:
    """What lets the checks of a model run on a few drawn pictures, without a download.

    Attributes:
        root: The data set that was written, as a user would give it to ``--data``.
        scenes: What was written: split to pictures. Holds the entry's evaluated and its calibration split.
        label_file: As a user would give it to ``--labels``.
        encode: The inverse of ``decode``; None leaves the checks with a perfect network out.
        perfect: The best prediction for a target; None uses the task's.
        channels: The order in which the network wants colours; images always come in RGB.
        checkpoint: Weights that the plugin carries; None is the untrained network.
        least_headline: What these weights reach at least in the evaluated scenes, in ``[0, 1]``, under the entry's
            headline protocol; None where nothing can be expected of them.
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
    """A file from elsewhere.

    Attributes:
        url: ``https://...``, or ``package:<import name>/<path>`` for a file inside an installed package.
        sha256: Hexadecimal; None where none is published, then the first download records it.
        sha256_prefix: The first digits of the SHA-256, 8 or more, where only these are published: file names of torch's
            hub end with them. Checked whenever the file is used, beside the hash that the first download records.
        md5: A published MD5, checked on download in addition; not trusted alone.
        size_bytes: None where unknown.
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
        "shapes_voc": "pictures of drawn shapes with boxes; zoo-eval draws them when --data is not given",
        "shapes_folder": "drawn shapes, one a picture, in a folder per class; zoo-eval draws them likewise",
    }
)
"""Data layouts that zoo-eval opens itself, and what each looks like on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetEntry:
    """Where a model's dataset comes from and which splits serve what.

    Attributes:
        name: For people, e.g. ``VOC2007``; picks the folder of this name where several lie side by side.
        split: Evaluated by default.
        calibration_split: Calibration images are drawn from it, never from the evaluated split.
        archives: Unpacked into the cache by ``zoo-eval fetch``; empty for data the user brings or the plugin draws.
        layout: One of ``LAYOUTS``: zoo-eval opens the data itself. None where the plugin implements ``zoo_dataset``.
        label_file: Names the classes, one a line, unless ``--labels`` does: a path relative to the registry file, or
            ``package:<import name>/<path>``. None for the classes that the data names.
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
"""Libraries that can move a number: a run's record holds their versions."""

ANY_RECIPE = "any"
"""Stands for a recipe's name in a reference that runs with every recipe are held against."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceVariant:
    """What a reference is under some versions of the libraries.

    Attributes:
        versions: Specifier by package, e.g. ``{"torch": ">=2.8,<2.12"}``; all must hold.
        value: In ``[0, 1]``.
        tolerance: None for the reference's.
        note: What is known about its conditions.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}
    versions: Mapping[str, str]
    value: float
    tolerance: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A published or recorded value, with the conditions under which it was obtained.

    Attributes:
        stage: The stage it belongs to, e.g. ``fp32``.
        protocol: Protocol id.
        value: In ``[0, 1]``.
        tolerance: How far below ``value`` a result may lie and still count as reproduced.
        source: Where it was published.
        key: Key of the value inside the protocol; None for the protocol's first value.
        note: What is known about its conditions.
        per_class: Values per class name, where published.
        recipe: Name of the recipe it was obtained with; None for the model's own, ``any`` for a value that every recipe
            is held against. The stage fp32 depends on none.
        settings: ``STEP.PARAM=VALUE`` overrides of that recipe.
        variants: Its value under some versions of the libraries; the first that holds for a run replaces ``value``.
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
        """Stage, protocol and, where it is given, key."""
        return " ".join(part for part in (self.stage, self.protocol, self.key) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """One model of the catalogue.

    Attributes:
        model_id: Its key in the registry file.
        plugin: The plugin that owns it: any that is installed.
        task: ``detection`` and ``classification`` have metrics of zoo-eval's; a plugin may bring another.
        checkpoint: The original weights; None when the user must bring them.
        optimized_checkpoint: Weights published as already optimized, if any.
        recipe: Name of the default recipe.
        recipes: A folder of recipe files, or one recipe file: a path relative to the registry file, or
            ``package:<import name>/<path>``. The recipes that zoo-eval ships can be named besides.
        headline: Protocol id that tables show first.
        options: What only the plugin understands, e.g. a width multiplier.
        source: Registry file that holds the entry.
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
    """One entry of a recipe: a step's name and the parameters written for it, not yet checked by the step."""

    step: str
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """An ordered list of quantization steps, as data.

    Attributes:
        name: Stated in the file.
        steps: In order; the last one is ``quantsim`` and holds bit widths, scheme and config file.
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
        """Number of batches."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantSettings:
    """How values are represented: the recipe's ``quantsim`` parameters, which earlier steps must agree with.

    Attributes:
        param_bw: Bits of a weight.
        output_bw: Bits of an activation.
        quant_scheme: ``tf_enhanced`` (SQNR range search) or ``tf`` (min-max).
        config_file: AIMET configuration: symmetry, per-channel, what is not quantized.
    """

    param_bw: int
    output_bw: int
    quant_scheme: Literal["tf", "tf_enhanced"]
    config_file: Path


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantNetwork:
    """A float network on its way through a recipe.

    Attributes:
        network: In eval mode. Never modified: a step returns a new one.
        param_encodings: Encodings that a step has fixed, by parameter name, in AIMET's exchange form; quantsim
            freezes them before it calibrates activations. Empty until a rounding step ran.
    """

    network: torch.nn.Module
    param_encodings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepContext:
    """What a step may use.

    Attributes:
        example_input: On the run's device.
        calibration: Preprocessed calibration images.
        quant: Bit widths and scheme that the network will be simulated with.
        seed: Seeds every random choice of the step.
        work_dir: An existing directory for temporary files, removed with the run's temporary data.
        progress: Call with (done, total, what) to move the step's progress bar.
        cache_dir: Where a step may keep results by content from run to run; it need not exist. None: keep nothing.
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
    """What a step did.

    Attributes:
        result: The new network.
        effect: Facts for the record, e.g. ``{"num_layer_sets": 33}``.
        summary: The effect in one line for people.
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
    """A quantization step that recipes can name.

    Attributes:
        name: Unique among all plugins.
        params: Pydantic model of its parameters; forbids unknown keys and documents each.
        apply: A function from one network to a new one; must not modify its input.
        fixes_encodings: It fixes weight encodings, so that a later step which changes weights would undo it; such an
            order is an error before the run.
    """

    name: str
    params: type[BaseModel]
    apply: Callable[[QuantNetwork, Any, StepContext], StepResult]
    fixes_encodings: bool = False
