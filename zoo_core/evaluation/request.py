"""The request for a run, and the interface that reports its progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from zoo_core.errors import DataError, RunError

if TYPE_CHECKING:
    from zoo_core.datatypes import Json

DEFAULT_CALIBRATION_SIZE = 500
"""Calibration images to draw; fewer if the split has fewer. AIMET's guides ask for 500 to 1000."""

DEFAULT_BATCH_SIZE = {"cpu": 1, "cuda": 64}
"""Images per forward pass by device kind; fixed so that two runs agree, and recorded.

Larger batches are slower on a CPU: docs/performance.md has the measurement."""

BACKENDS = ("torch", "onnxruntime")
"""Runtimes that can compute a float stage; ``onnxruntime`` is optional, and two to three times as fast on a CPU."""

DEFAULT_WORKERS = 2
"""Threads that decode images: at 2 ms per image two of them feed any network on a CPU."""


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

    @staticmethod
    def from_json(values: Mapping[str, Any], *, place: str) -> EvaluationRequest:
        """Return the request that ``as_json`` wrote; missing options get their defaults.

        Args:
            values: Read from JSON.
            place: Its place, for the error, e.g. ``run.json: request``.

        Raises:
            RunError: An option is unknown to this version, or its value has the wrong type.
        """
        from pydantic import TypeAdapter, ValidationError

        known = {own.name for own in fields(EvaluationRequest)}
        problems = [f"{name} is unknown" for name in values if name not in known]
        try:
            request = TypeAdapter(EvaluationRequest).validate_python(dict(values))
        except ValidationError as error:
            problems += [f"{'.'.join(map(str, item['loc']))} is {item['input']!r}" for item in error.errors()]
        if problems:
            raise RunError(
                f"{place} is not a request that this version can read: {'; '.join(problems)}.",
                fix="use the zoo-eval version that wrote it, or start a new run.",
            )
        return request


class Reporter(Protocol):
    """Receives progress: the command line draws bars, a notebook may stay silent."""

    def start(self, what: str, total: int | None) -> None:
        """Start a task of ``total`` units; None if the number is unknown."""
        ...

    def advance(self, num: int) -> None:
        """Report that ``num`` more units of the current task are done."""
        ...

    def finish(self) -> None:
        """Report that the current task is done."""
        ...

    def say(self, text: str) -> None:
        """Print one line, e.g. the result of a step."""
        ...

    def warn(self, text: str) -> None:
        """Print a caveat of the result; it is in the record too."""
        ...


class SilentReporter:
    """Reports nothing; the run's log still has every line."""

    def start(self, what: str, total: int | None) -> None:
        """Ignore a task."""

    def advance(self, num: int) -> None:
        """Ignore progress."""

    def finish(self) -> None:
        """Ignore a task's end."""

    def say(self, text: str) -> None:
        """Ignore a line."""

    def warn(self, text: str) -> None:
        """Ignore a warning."""


def read_ids(path: Path) -> Sequence[str]:
    """Read image ids, one per line; empty lines are skipped, order is kept, a repeated id counts once.

    Raises:
        DataError: The file cannot be read or holds no id.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"The id file {path} cannot be read: {error}", fix="name a text file with one id per line."
        ) from error
    ids = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not ids:
        raise DataError(f"The id file {path} holds no id.", fix="write one image id per line.")
    return ids
