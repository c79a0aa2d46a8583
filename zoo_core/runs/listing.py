"""Lists the run directories below a folder, newest first, with their headline values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from zoo_core.errors import RunError
from zoo_core.runs.directory import RunDirectory
from zoo_core.runs.hashes import METRICS, metrics_problem
from zoo_core.runs.rows import Row, text_table

_DEPTH = 3
"""Levels of folders to search: ``runs/<model>/<time>-<id>`` needs two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRun:
    """Entry of the list of runs.

    Attributes:
        path: The run directory.
        model: Model id; ``?`` if it is not recorded.
        started: UTC time, ISO 8601; empty if it is not recorded.
        status: As recorded, but ``interrupted`` if the process of a running run has died; ``unreadable`` if
            ``run.json`` cannot be read; ``altered`` if ``metrics.json`` is not the file that the run wrote.
        dataset: Name and split.
        num_images: Evaluated images.
        limited: Not all images of the split were evaluated.
        recipe: Name of the recipe.
        headline: Protocol id.
        values: Headline value by stage; empty if the run is not complete, or altered.
    """

    path: Path
    model: str
    started: str
    status: str
    dataset: str = ""
    num_images: int | None = None
    limited: bool = False
    recipe: str = ""
    headline: str = ""
    values: Mapping[str, float | None] = field(default_factory=dict)


class RunList(list[ListedRun]):
    """Runs, newest first."""

    def rows(self) -> list[Row]:
        """Return one row per run and stage, or per run without values, for ``pandas.DataFrame``."""
        return [
            {
                "run": str(run.path),
                "model": run.model,
                "started": run.started,
                "status": run.status,
                "dataset": run.dataset,
                "num_images": run.num_images,
                "limited": run.limited,
                "recipe": run.recipe,
                "headline": run.headline,
                "stage": stage,
                "value": value,
            }
            for run in self
            for stage, value in (run.values or {"": None}).items()
        ]

    def __repr__(self) -> str:
        return text_table(f"{len(self)} runs", self.rows(), ("run", "model", "status", "stage", "value"))


def list_runs(folder: Path, model: str | None = None) -> RunList:
    """List the runs in a folder and three levels below it, newest first.

    Args:
        folder: A run directory, or a folder of run directories; links are not followed.
        model: Only runs of this model.

    Raises:
        RunError: The folder does not exist.
    """
    if not folder.is_dir():
        raise RunError(f"{folder} is not a directory.", fix="name a folder of run directories.")
    runs = [read_listed(path) for path in _run_directories(folder, _DEPTH)]
    kept = [run for run in runs if model is None or run.model == model]
    return RunList(sorted(kept, key=lambda run: (run.started, str(run.path)), reverse=True))


def _run_directories(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / "run.json").is_file():
        yield folder
        return  # runs are not nested
    if depth == 0:
        return
    try:
        below = sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return  # not readable, so not a run of this user
    for path in below:
        yield from _run_directories(path, depth - 1)


def read_listed(path: Path) -> ListedRun:
    """Return the entry of a run, as far as its directory can be read."""
    from zoo_core.runs.lenient import ReadableMetrics, ReadableRecord, read_leniently

    gaps: list[str] = []  # the report shows them; a list has no room
    record = read_leniently(path / "run.json", gaps, ReadableRecord)
    if record is None:
        return ListedRun(path=path, model="?", started="", status="unreadable")
    status = RunDirectory(path).true_status(record.status or "?")
    if status == "complete" and metrics_problem(path, record.files) is not None:
        status = "altered"
    metrics = read_leniently(path / METRICS, gaps, ReadableMetrics) if status != "altered" else None
    metrics = metrics or ReadableMetrics()
    dataset, headline = record.dataset, record.headline or ""
    return ListedRun(
        path=path,
        model=record.model or "?",
        started=record.started or "",
        status=status,
        dataset=f"{dataset.name} {dataset.split}" if dataset else "?",
        num_images=dataset.num_images if dataset else None,
        limited=dataset.limited if dataset else False,
        recipe=record.recipe.name if record.recipe else "",
        headline=headline,
        values={
            name: stage.scores[headline].headline if headline in stage.scores else None
            for name, stage in metrics.stages.items()
        },
    )
