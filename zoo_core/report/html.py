"""A run directory as one self-contained page."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
from markupsafe import Markup

from zoo_core.comparison import MATCH_IOU, MOVED_IOU, SCORE_THRESHOLD
from zoo_core.errors import RunError
from zoo_core.plugins import PluginHost
from zoo_core.report import origin, plots, sections
from zoo_core.report.against import Comparison, compare_runs
from zoo_core.report.changed import change_table, find_changes
from zoo_core.report.curves import Curves, compute_curves
from zoo_core.report.gallery import GalleryImage, build_gallery
from zoo_core.report.layers import layer_groups
from zoo_core.report.loading import LoadedRun, load_detections, load_run, open_dataset
from zoo_core.runs import RunDirectory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoo_core.report.plots import Plot
    from zoo_core.report.sections import ClassScore

REPORT = "report.html"

MAX_CLASS_PLOTS = 60
"""Classes with plots of their own; beyond them the page would take more than 5 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _ClassPlots:
    name: str
    plots: Sequence[Plot]


def write_report(
    run_dir: Path, *, host: PluginHost | None = None, against: Path | None = None, out: Path | None = None
) -> Path:
    """Write the page of a run and return its path.

    Built from the run directory alone, and from the data where it still lies in its place. What is missing, damaged or
    of another version is named on the page, and the rest is shown.

    Args:
        run_dir: A run directory, complete or not.
        host: Plugins to open the data with; None for the installed ones.
        against: Another run directory to put beside this one.
        out: The file to write; None for ``report.html`` in the run directory.

    Raises:
        RunError: ``run_dir`` or ``against`` holds nothing that can be reported, or the file cannot be written.
    """
    target = out if out is not None else run_dir / REPORT
    if target.is_dir():
        raise RunError(f"{target} is a directory.", fix="name a file, e.g. report.html, with --out.")
    if out is not None and not (out.parent.is_dir() and os.access(out.parent, os.W_OK)):
        raise RunError(f"{out} cannot be written: no such directory, or no right to.", fix="name another with --out.")
    page = render_report(run_dir, host=host, against=against)
    return RunDirectory(target.parent).write_text(target.name, page)


def render_report(run_dir: Path, *, host: PluginHost | None = None, against: Path | None = None) -> str:
    """The page of a run as text; see ``write_report``."""
    run = load_run(run_dir)
    comparison = _comparison(run, against) if against is not None else None
    load_detections(run)
    open_dataset(run, host or PluginHost())
    scores = sections.class_scores(run)
    curves = compute_curves(run, scores)
    changed = find_changes(run)
    gallery = build_gallery(run, changed.changes) if changed is not None else []
    context = {
        "title": _title(run),
        "summary": sections.summary(run),
        "warnings": sections.all_warnings(run),
        "comparison": comparison,
        "stages": sections.stage_table(run),
        "protocols": sections.protocol_table(run),
        "definitions": sections.definitions(run),
        "classes": sections.class_table(scores, run.pair),
        "drops": _drops(scores, run.pair),
        "class_plots": _class_plots(scores, curves),
        "num_classes": len(scores),
        "curve_protocol": curves.protocol,
        "pair": run.pair,
        "changes": change_table(run, changed) if changed is not None else None,
        "num_changed": sum(found.any for found in changed.changes.images.values()) if changed is not None else 0,
        "num_compared": len(changed.changes.images) if changed is not None else 0,
        "gallery": gallery,
        "gallery_classes": _gallery_classes(gallery, run.class_names),
        "layers": layer_groups(run),
        "origin": origin.provenance(run),
        "command": sections.reproducing_command(run),
        "recorded_command": sections.recorded_command(run),
        "score_threshold": SCORE_THRESHOLD,
        "match_iou": MATCH_IOU,
        "moved_iou": MOVED_IOU,
        "path": str(run.path.absolute()),
        "gaps": run.gaps,  # last: everything above may have added to it
    }
    return _environment().get_template("report.html.j2").render(context)


def _comparison(run: LoadedRun, against: Path) -> Comparison:
    return compare_runs(run, load_run(against))


def _title(run: LoadedRun) -> str:
    model = run.metrics.text("model") or run.record.text("model") or run.path.name
    dataset = run.record.object("dataset")
    where = " ".join(part for part in (dataset.text("name"), dataset.text("split")) if part)
    return f"{model} on {where}" if where else model


def _drops(scores: list[ClassScore], pair: tuple[str, str] | None) -> Plot | None:
    known = [(score.name, score.drop_points) for score in scores if score.drop_points is not None]
    return plots.drop_plot(known[:MAX_CLASS_PLOTS], pair) if known and pair is not None else None


def _class_plots(scores: list[ClassScore], curves: Curves) -> list[_ClassPlots]:
    found = []
    for score in scores[:MAX_CLASS_PLOTS]:
        numbers = curves.classes.get(score.name)
        if numbers is None:
            continue
        drawn = []
        if any(len(points) for points in numbers.recall_precision.values()):
            drawn.append(plots.precision_recall(score.name, numbers, score.values))
        if any(counts.any() for counts in numbers.histograms.values()):
            drawn.append(plots.score_histogram(score.name, numbers))
        if drawn:
            found.append(_ClassPlots(name=score.name, plots=drawn))
    return found


def _gallery_classes(gallery: list[GalleryImage], class_names: Sequence[str]) -> list[tuple[int, str]]:
    """Label and name of the classes that the gallery's filter offers, by name."""
    labels = {int(token.rpartition(":")[2]) for image in gallery for token in image.tokens}
    return sorted(
        ((label, class_names[label]) for label in labels if 0 <= label < len(class_names)), key=lambda pair: pair[1]
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("zoo_core.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates = resources.files("zoo_core.report") / "templates"
    # Ours, and neither holds a closing tag: it may stand in the page as it is.
    environment.globals["style"] = Markup((templates / "style.css").read_text(encoding="utf-8"))  # noqa: S704
    environment.globals["script"] = Markup((templates / "script.js").read_text(encoding="utf-8"))  # noqa: S704
    return environment
