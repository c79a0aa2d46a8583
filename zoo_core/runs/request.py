"""Options of a run, as the user gives them and as ``run.json`` stores them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from zoo_core.datatypes import Json

DEFAULT_CALIBRATION_SIZE = 500
"""Calibration images to draw if the split has as many; AIMET's guides ask for 500 to 1000."""

DEFAULT_WORKERS = 2
"""Threads that decode images: at 2 ms per image, two of them can feed any network on a CPU."""


AUTO = "auto"
"""Runtime of float stages: ONNX Runtime where it agrees with torch, else torch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRequest:
    """Options of one evaluation; ``zoo_core.api.evaluate`` documents them.

    ``stages`` is comma-separated text; None means the default of the model or of the tool.
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
    require_full_quantization: bool = False
    batch_size: int | None = None
    batch_sizes: tuple[int, ...] = ()
    workers: int = DEFAULT_WORKERS
    device: str = "auto"
    runtime: str = AUTO
    runtimes: tuple[str, ...] = ()
    allow_fallback: bool = False
    seed: int = 0
    out: Path | None = None
    cache: bool = True
    offline: bool = False
    command: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, Json]:
        """Return the request with paths as absolute text, for the record."""
        values = asdict(self)
        return {
            name: str(value.absolute())
            if isinstance(value, Path)
            else list(value)
            if isinstance(value, tuple)
            else value
            for name, value in values.items()
        }
