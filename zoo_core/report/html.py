"""Writes a run directory as one self-contained page."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
from markupsafe import Markup

from zoo_core.comparison.verdict import verdict
from zoo_core.errors import RunError
from zoo_core.plugins import PluginHost
from zoo_core.report import command, origin, plots, sections, views
from zoo_core.report.against import compare_runs
from zoo_core.report.coverage import coverage_table, unquantized_table
from zoo_core.report.layers import layer_groups
from zoo_core.report.loading import LoadedRun, find_task, load_run
from zoo_core.report.runtimes import float_nodes, parity_groups, runtime_sentences, runtime_table
from zoo_core.report.summary import summary
from zoo_core.runs.directory import RunDirectory

if TYPE_CHECKING:
    from zoo_core.datatypes import Measure
    from zoo_core.report.plots import Plot
    from zoo_core.report.sections import ClassScore

REPORT = "report.html"

MAX_DROPS = 60
"""Bars in the plot of drops: as many as a screen or two hold."""


def write_report(
    run_dir: Path, *, host: PluginHost | None = None, against: Path | None = None, out: Path | None = None
) -> Path:
    """Write the page of a run and return its path.

    The page is built from the run directory, and from the data where they still exist. It names what is missing,
    damaged or of another version, and shows the rest.

    Args:
        run_dir: A run directory, complete or not.
        host: Plugins to open the data with; None for the installed ones.
        against: Another run directory to put beside this one.
        out: The file to write; None for ``report.html`` in the run directory.

    Raises:
        RunError: ``run_dir`` or ``against`` has nothing that can be reported, or the file cannot be written.
    """
    target = out if out is not None else run_dir / REPORT
    if target.is_dir():
        raise RunError(f"{target} is a directory.", fix="name a file, e.g. report.html, with --out.")
    if out is not None and not (out.parent.is_dir() and os.access(out.parent, os.W_OK)):
        raise RunError(f"{out} cannot be written: no such directory, or no right to.", fix="name another with --out.")
    page = render_report(run_dir, host=host, against=against)
    return RunDirectory(target.parent).write_text(target.name, page)


def render_report(run_dir: Path, *, host: PluginHost | None = None, against: Path | None = None) -> str:
    """Return the page of a run as text; see ``write_report``."""
    run, host = load_run(run_dir), host or PluginHost()
    find_task(run, host)
    comparison = compare_runs(run, load_run(against)) if against is not None else None
    view = views.choose_view(run)
    views.load_and_open(run, view, host)
    scores = sections.class_scores(run)
    shown = views.show(run, view, scores)
    measured = sections.headline_measure(run)
    context = {
        **shown.values,
        "classes_template": shown.classes,
        "changed_template": shown.changed,
        "title": _title(run),
        "summary": summary(run),
        "verdict": verdict(run.metrics),
        "warnings": sections.all_warnings(run),
        "comparison": comparison,
        "stages": sections.stage_table(run),
        "coverage": coverage_table(run),
        "unquantized": unquantized_table(run),
        "protocols": sections.protocol_table(run),
        "definitions": sections.definitions(run),
        "classes": sections.class_table(scores, run.pair, measured),
        "drops": _drops(scores, run.pair, measured),
        "pair": run.pair,
        "layers": [*parity_groups(run), *layer_groups(run)],
        "runtimes": runtime_table(run),
        "runtime_sentences": runtime_sentences(run),
        "float_nodes": float_nodes(run),
        "origin": origin.provenance(run),
        "command": command.reproducing_command(run),
        "recorded_command": command.recorded_command(run),
        "path": str(run.path.absolute()),
        "gaps": run.gaps,  # last: everything above may have added to it
    }
    return _environment().get_template("report.html.j2").render(context)


def _title(run: LoadedRun) -> str:
    model, dataset = run.metrics.model or run.record.model or run.path.name, run.record.dataset
    return model if dataset is None else f"{model} on {dataset.name} {dataset.split}"


def _drops(scores: list[ClassScore], pair: tuple[str, str] | None, measured: Measure) -> Plot | None:
    known = [(score.name, score.drop_points) for score in scores if score.drop_points is not None]
    return plots.drop_plot(known[:MAX_DROPS], pair, measured.per_class) if known and pair is not None else None


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
    # Our own files, without a closing tag: safe to insert unescaped.
    environment.globals["style"] = Markup((templates / "style.css").read_text(encoding="utf-8"))  # noqa: S704
    environment.globals["script"] = Markup((templates / "script.js").read_text(encoding="utf-8"))  # noqa: S704
    return environment
