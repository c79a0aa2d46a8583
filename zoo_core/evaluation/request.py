"""What a user asks of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from zoo_core.errors import DataError, RunError

if TYPE_CHECKING:
    from zoo_core.datatypes import Json

DEFAULT_CALIBRATION_SIZE = 500
"""Calibration images drawn where there are as many; AIMET's guides ask for 500 to 1000."""

DEFAULT_BATCH_SIZE = {"cpu": 1, "cuda": 64}
"""Images per forward pass by device kind; fixed so that two runs agree, and recorded.

Larger batches are slower on a CPU: docs/performance.md has the measurement."""

BACKENDS = ("torch", "onnxruntime")
"""What can compute a float stage; ``onnxruntime`` is an optional extra, two to three times as fast on a CPU."""

DEFAULT_WORKERS = 2
"""Threads that decode images: at 2 ms an image two of them feed any network on a CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRequest:
    """One evaluation; the fields are the parameters of ``zoo_core.api.evaluate``, which documents them.

    ``stages`` is comma-separated text; None stands for the default of the model or the tool.
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

    @staticmethod
    def from_json(values: Mapping[str, Any], *, place: str) -> EvaluationRequest:
        """The request that ``as_json`` wrote down; options that it lacks have their defaults.

        Args:
            values: Read from JSON.
            place: Where it stands, for the error, e.g. ``run.json: request``.

        Raises:
            RunError: An option is unknown here, or its value is of the wrong kind.
        """
        from pydantic import TypeAdapter, ValidationError

        known = {own.name for own in fields(EvaluationRequest)}
        problems = [f"{name} is unknown here" for name in values if name not in known]
        try:
            found = TypeAdapter(EvaluationRequest).validate_python(dict(values))
        except ValidationError as error:
            problems += [f"{'.'.join(map(str, item['loc']))} is {item['input']!r}" for item in error.errors()]
        if problems:
            raise RunError(
                f"{place} holds no request that this version understands: {'; '.join(problems)}.",
                fix="use the zoo-eval version that wrote it, or start a new run.",
            )
        return found


class Reporter(Protocol):
    """Where progress goes: the command line draws bars, a notebook may stay silent."""

    def start(self, what: str, total: int | None) -> None:
        """Begin a task of ``total`` units; None where the number is not known."""
        ...

    def advance(self, num: int) -> None:
        """``num`` more units of the current task are done."""
        ...

    def finish(self) -> None:
        """The current task is done."""
        ...

    def say(self, text: str) -> None:
        """One line for people, e.g. what a step did."""
        ...

    def warn(self, text: str) -> None:
        """Something that limits the number; it is in the record too."""
        ...


class SilentReporter:
    """Reports nothing; what is said still goes to the run's log."""

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
    """Read image ids, one a line; empty lines are skipped, order is kept, a repeated id counts once.

    Raises:
        DataError: The file cannot be read or holds no id.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"The id file {path} cannot be read: {error}", fix="name a text file with one id a line."
        ) from error
    ids = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not ids:
        raise DataError(f"The id file {path} holds no id.", fix="write one image id a line.")
    return ids
