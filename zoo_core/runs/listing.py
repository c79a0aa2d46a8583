"""What has been run: the run directories below a folder, newest first, with their headline numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_core.errors import RunError
from zoo_core.runs.directory import RunDirectory
from zoo_core.runs.facts import Facts, read_facts

if TYPE_CHECKING:
    from collections.abc import Sequence

_DEPTH = 3
"""Folders looked into below the one given: ``runs/<model>/<time>-<id>`` needs two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRun:
    """One run directory.

    Attributes:
        path: The directory.
        model: Its model; ``?`` where the record does not say.
        started: UTC time, ISO 8601; empty where the record does not say.
        status: As recorded, but ``interrupted`` where the process of a running run has died; ``unreadable`` where
            ``run.json`` cannot be read.
        dataset: Name and split.
        num_images: Evaluated images.
        limited: Fewer than the split has.
        recipe: Its name.
        headline: Protocol id.
        values: Headline value by stage; empty where the run is not complete.
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


def list_runs(folder: Path, model: str | None = None) -> Sequence[ListedRun]:
    """List the runs in a folder and three levels below it, newest first.

    Args:
        folder: A run directory, or a folder that holds some; links are not followed.
        model: Only runs of this model.

    Raises:
        RunError: The folder does not exist.
    """
    if not folder.is_dir():
        raise RunError(f"{folder} is not a directory.", fix="name the folder that holds run directories.")
    found = [read_listed(path) for path in _run_directories(folder, _DEPTH)]
    kept = [run for run in found if model is None or run.model == model]
    return sorted(kept, key=lambda run: (run.started, str(run.path)), reverse=True)


def _run_directories(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / "run.json").is_file():
        yield folder
        return  # a run holds no runs
    if depth == 0:
        return
    try:
        below = sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return  # somebody else's folder is no run of ours
    for path in below:
        yield from _run_directories(path, depth - 1)


def read_listed(path: Path) -> ListedRun:
    """One line of the list, as far as the directory can be read."""
    gaps: list[str] = []
    record = read_facts(path / "run.json", gaps)
    if record is None:
        return ListedRun(path=path, model="?", started="", status="unreadable")
    metrics = read_facts(path / "metrics.json", gaps) or Facts({}, "metrics.json", [])
    dataset, headline = record.object("dataset"), record.text("headline") or ""
    num_images = dataset.number("num_images")
    return ListedRun(
        path=path,
        model=record.text("model") or "?",
        started=record.text("started") or "",
        status=RunDirectory(path).true_status(record.text("status") or "?"),
        dataset=f"{dataset.text('name') or '?'} {dataset.text('split') or '?'}",
        num_images=None if num_images is None else int(num_images),
        limited=dataset.flag("limited"),
        recipe=record.object("recipe").text("name") or "",
        headline=headline,
        values={
            name: _first(stage.object("metrics").object(headline)) for name, stage in metrics.objects("stages").items()
        },
    )


def _first(values: Facts) -> float | None:
    key = next((name for name in values if name != "per_class"), None)
    return None if key is None else values.number(key)
