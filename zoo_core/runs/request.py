"""The options of a run, as a user gives them and as ``run.json`` keeps them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from zoo_core.datatypes import Json

DEFAULT_CALIBRATION_SIZE = 500
"""Calibration images drawn where there are as many; AIMET's guides ask for 500 to 1000."""

DEFAULT_WORKERS = 2
"""Threads that decode images: at 2 ms an image two of them feed any network on a CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRequest:
    """One evaluation as requested; None means the model's or the tool's default.

    Attributes:
        model: Registry name, or the name of a plugin that owns one model.
        data: Root of the dataset; None uses the downloaded archives in the cache.
        checkpoint: Original weights instead of the registry's.
        optimized_checkpoint: Weights that a published recipe already optimized; equalization and AdaRound are skipped.
        labels: One class name per line, background first or absent; sets the number of classes.
        recipe: Name of one of the plugin's recipes, or path of a recipe file.
        settings: ``STEP.PARAM=VALUE`` overrides of the recipe.
        stages: Comma-separated stage names, or ``all``; None for the four corners.
        split: Evaluated split.
        ids_file: Evaluate these image ids of the split, one per line.
        limit: Evaluate only the first ``limit`` ids.
        calibration_split: Split to draw calibration images from.
        calibration_size: Images to calibrate on; fewer if the split has fewer.
        allow_calibration_overlap: Calibrate on evaluated images, and stamp the result as such.
        batch_size: Images per forward pass.
        batch_sizes: More batch sizes at which every stage runs again, to measure their effect.
        workers: Threads that decode images.
        device: ``auto``, ``cpu`` or ``cuda[:N]``.
        backend: Runtime of the float stages, one of BACKENDS; quantized stages always run in torch.
        seed: Draws the calibration set and seeds every step.
        out: Run directory; None for ``runs/<model>/<UTC time>-<short id>``.
        cache: Reuse results of slow steps from the user's content-addressed cache, and store new ones there.
        offline: Use only files that are already on this machine.
        command: The command line to record.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "strict": True}
    model: str
    data: Path | None = None
    checkpoint: Path | None = None
    optimized_checkpoint: Path | None = None
    labels: Path | None = None
    recipe: str | None = None
    settings: tuple[str, ...] = ()
    stages: str | None = None
    split: str | None = None
    ids_file: Path | None = None
    limit: int | None = None
    calibration_split: str | None = None
    calibration_size: int = DEFAULT_CALIBRATION_SIZE
    allow_calibration_overlap: bool = False
    batch_size: int | None = None
    batch_sizes: tuple[int, ...] = ()
    workers: int = DEFAULT_WORKERS
    device: str = "auto"
    backend: str = "torch"
    seed: int = 0
    out: Path | None = None
    cache: bool = True
    offline: bool = False
    command: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, Json]:
        """The request with paths as absolute text, for the record."""
        values = asdict(self)
        return {
            name: str(value.absolute())
            if isinstance(value, Path)
            else list(value)
            if isinstance(value, tuple)
            else value
            for name, value in values.items()
        }
