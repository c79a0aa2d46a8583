"""Draws plots as inline SVG: text stays text, colours follow the page's theme, equal numbers give equal bytes."""

from __future__ import annotations

import hashlib
import io
import itertools
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from zoo_core.display import DASH, page_percent, page_points
from zoo_core.report.curves import SCORE_BINS
from zoo_core.report.sections import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from zoo_core.report.curves import ClassCurves

# Drawn in colours that occur nowhere else, then exchanged for the page's own, which differ between light and dark.
_INK, _RULE, _FIRST, _SECOND, _THIRD = "#010203", "#010204", "#010205", "#010206", "#010207"
_THEMED = {
    _INK: "var(--ink)",
    _RULE: "var(--rule)",
    _FIRST: "var(--first)",
    _SECOND: "var(--second)",
    _THIRD: "var(--third)",
}
_PX = 72.0  # one SVG unit is a point at 72 dots per inch, and the page shows it as one CSS pixel
_FONT_PX = 12
_STYLE: Any = {  # matplotlib types the keys as one long Literal, differently in each version
    "svg.fonttype": "none",
    "svg.hashsalt": "zoo-eval",
    "font.family": "sans-serif",
    "font.size": _FONT_PX,
    "axes.titlesize": _FONT_PX + 1,
    "axes.labelsize": _FONT_PX,
    "xtick.labelsize": _FONT_PX,
    "ytick.labelsize": _FONT_PX,
    "legend.fontsize": _FONT_PX,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _RULE,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _RULE,
    "grid.linewidth": 0.5,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "text.parse_math": False,  # a class may be called $x$
    "axes.unicode_minus": True,
}
_LINES = ((_FIRST, "-", 2.4), (_SECOND, (0, (4, 1.6)), 1.9))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A drawing and its numbers.

    Attributes:
        svg: An ``<svg>`` element.
        alt: Description of the drawing in a sentence.
        table: The numbers behind it.
        width_px: Its natural width, below which text would become too small.
    """

    svg: Markup
    alt: str
    table: Table
    width_px: int


@mpl.rc_context(_STYLE)
def precision_recall(name: str, curves: ClassCurves, values: Mapping[str, float | None]) -> Plot:
    """Draw precision over recall of one class, one line per stage.

    Args:
        name: The class.
        curves: Its numbers.
        values: AP by stage, for the description.
    """
    figure, axes = _figure(300, 250)
    for (stage, corners), (colour, dashes, width) in zip(curves.recall_precision.items(), _LINES, strict=False):
        axes.plot(corners[:, 0], corners[:, 1], color=colour, linestyle=dashes, linewidth=width, label=stage)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.04), xlabel="recall", ylabel="precision")
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "0.25", "0.5", "0.75", "1"])
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "0.25", "0.5", "0.75", "1"])
    _legend_above(axes)
    stages = list(curves.recall_precision)
    results = ", ".join(f"{stage} {page_percent(values.get(stage))} %" for stage in stages)
    rows = tuple(
        (f"{index / 10:.1f}", *(f"{curves.precision_at[stage][index]:.3f}" for stage in stages)) for index in range(11)
    )
    table = Table(columns=("recall at least", *stages), rows=rows, caption=f"Best precision for {name}.")
    return _plot(figure, f"pr-{name}", f"Precision over recall for {name}: AP {results}.", table, 300)


def score_histogram(name: str, curves: ClassCurves) -> Plot:
    """Draw the number of detections of one class by score, one outline per stage; counts on a logarithmic axis."""
    totals = ", ".join(f"{stage} {int(counts.sum())}" for stage, counts in curves.histograms.items())
    return count_histogram(
        f"scores-{name}",
        curves.histograms,
        xlabel="score",
        ylabel="detections",
        alt=f"Scores of the detections of {name}: {totals} in all.",
        caption=f"Detections of {name} per score.",
    )


def score_counts(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Count ``(N,)`` scores per bin of ``SCORE_BINS``, 1.0 in the last."""
    return np.histogram(scores, SCORE_BINS)[0].astype(np.int64)


@mpl.rc_context(_STYLE)
def count_histogram(
    key: str,
    histograms: Mapping[str, NDArray[np.int64]],
    *,
    xlabel: str,
    ylabel: str,
    alt: str,
    caption: str,
    width_px: int = 300,
) -> Plot:
    """Draw counts per bin of ``SCORE_BINS``, one outline per series; counts on a logarithmic axis.

    Args:
        key: Distinguishes this plot's element ids.
        histograms: ``(20,)`` by the series' name; one or two.
        xlabel: Name of the binned value.
        ylabel: Name of the counted things.
        alt: Description of the drawing in a sentence.
        caption: Caption of the table of numbers.
        width_px: Width of the drawing.
    """
    figure, axes = _figure(width_px, 190)
    for (stage, counts), (colour, dashes, width) in zip(histograms.items(), _LINES, strict=False):
        axes.stairs(counts, SCORE_BINS, color=colour, linestyle=dashes, linewidth=width, label=stage, baseline=None)
    most = max((int(counts.max(initial=0)) for counts in histograms.values()), default=0)
    axes.set_yscale("symlog", linthresh=1.0)
    ticks = [0, *(10**power for power in range(7) if 10**power <= max(1, most))]
    axes.set_yticks(ticks, [_count(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set(xlim=(0, 1), ylim=(0, 2.2 * max(1, most)), xlabel=xlabel, ylabel=ylabel)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "0.25", "0.5", "0.75", "1"])
    _legend_above(axes)
    stages = list(histograms)
    rows = tuple(
        (
            f"{low:.2f} to {high:.2f}",
            *(str(int(histograms[stage][index])) for stage in stages),
        )
        for index, (low, high) in enumerate(itertools.pairwise(SCORE_BINS))
    )
    table = Table(columns=(xlabel, *stages), rows=rows, caption=caption)
    return _plot(figure, key, alt, table, width_px)


def _legend_above(axes: Axes) -> None:
    """Place the legend above the axes, where it covers no data."""
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, borderaxespad=0.2)


def _count(value: int) -> str:
    return str(value) if value < 1000 else f"{value // 1000}k" if value < 1_000_000 else f"{value // 1_000_000}M"


@mpl.rc_context(_STYLE)
def layer_plot(
    key: str, title: str, unit: str, layers: Sequence[str], series: Mapping[str, Sequence[float | None]], *, log: bool
) -> Plot:
    """Draw one marker per layer and series, in the order of the network.

    Args:
        key: Distinguishes this plot's element ids.
        title: Begins the description.
        unit: Label of the vertical axis.
        layers: Names.
        series: Values by name; None leaves a hole.
        log: Logarithmic vertical axis.
    """
    width = max(340, min(66 + 6 * len(layers), max(600, 66 + 4 * len(layers))))
    figure, axes = _figure(width, 250, (56, 30, 10, 40))
    at = np.arange(1, len(layers) + 1)
    for (name, values), colour, marker in zip(series.items(), (_FIRST, _SECOND, _THIRD), "osD", strict=False):
        heights = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        axes.plot(at, heights, color=colour, marker=marker, markersize=4.5, linewidth=0.8, label=name)
    if log:
        axes.set_yscale("log")
        axes.minorticks_off()
        _plain_log_ticks(axes)
    axes.set(xlim=(0, len(layers) + 1), xlabel="layer, in the order of the network", ylabel=unit)
    _legend_above(axes)
    rows = tuple(
        (f"{index}. {layer}", *(_figure_text(series[name][index - 1]) for name in series))
        for index, layer in enumerate(layers, start=1)
    )
    table = Table(columns=("layer", *series), rows=rows, caption=f"{title}; {unit}.")
    return _plot(figure, key, f"{title}, {len(layers)} layers.", table, width)


def _plain_log_ticks(axes: Axes) -> None:
    low, high = axes.get_ylim()
    steps = [base * 10.0**power for power in range(-9, 10) for base in (1.0, 2.0, 5.0)]
    ticks = [step for step in steps if low <= step <= high]
    while len(ticks) > 7:
        ticks = ticks[::2] if len(ticks) > 14 else [tick for tick in ticks if f"{tick:e}".startswith("1")] or ticks[::2]
        if len(ticks) > 7:
            ticks = ticks[::2]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])


def _figure_text(value: float | None) -> str:
    return DASH if value is None else f"{value:.4g}"


@mpl.rc_context(_STYLE)
def drop_plot(scores: Sequence[tuple[str, float]], pair: tuple[str, str], measured: str = "AP") -> Plot:
    """Draw a bar per class, the change between the compared stages.

    Args:
        scores: Class name and drop in points, in the order to draw, top first.
        pair: The compared stages.
        measured: Display name of a class's value.
    """
    figure, axes = _figure(340, 56 + 21 * len(scores), (150, 6, 12, 44))
    at = np.arange(len(scores))
    drops = np.array([drop for _, drop in scores])
    axes.barh(at[drops > 0], -drops[drops > 0], color=_SECOND, height=0.62)
    axes.barh(at[drops <= 0], -drops[drops <= 0], color=_FIRST, height=0.62)
    axes.set_yticks(at, [shortened(name, 20) for name, _ in scores])
    axes.set_ylim(len(scores) - 0.4, -0.6)
    axes.axvline(0.0, color=_INK, linewidth=1)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"change of {measured}, points")
    most = max(0.1, float(np.abs(drops).max(initial=0.0)))
    axes.set_xlim(min(-0.1 * most, -1.08 * drops.max(initial=0.0)), max(0.1 * most, -1.08 * drops.min(initial=0.0)))
    rows = tuple((name, page_points(-drop)) for name, drop in scores)
    worst = f"; {scores[0][0]} lost most, {scores[0][1]:.2f} points" if scores and scores[0][1] > 0 else ""
    table = Table(columns=("class", "points"), rows=rows, caption=f"Change of {measured}, largest drop first.")
    return _plot(figure, "drops", f"Change of {measured} from {pair[0]} to {pair[1]} by class{worst}.", table, 340)


def shortened(name: str, most: int) -> str:
    """Cut a name to ``most`` characters, the last an ellipsis where some were cut off."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _figure(
    width_px: int, height_px: int, margins: tuple[int, int, int, int] = (48, 28, 10, 40)
) -> tuple[Figure, Axes]:
    """A figure with one pair of axes; margins are left, top, right, bottom, in pixels."""
    # Margins are given: matplotlib's layout engines draw everything twice, and a page has dozens of plots.
    figure = Figure(figsize=(width_px / _PX, height_px / _PX), dpi=_PX)
    FigureCanvasSVG(figure)
    left, top, right, bottom = margins
    box = (
        left / width_px,
        bottom / height_px,
        (width_px - left - right) / width_px,
        (height_px - top - bottom) / height_px,
    )
    return figure, figure.add_axes(box)


def _plot(figure: Figure, key: str, alt: str, table: Table, width_px: int) -> Plot:
    stream = io.StringIO()
    with warnings.catch_warnings():
        # The page's own font draws the text; matplotlib's only measures it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Plot(svg=_inline(stream.getvalue(), key, alt), alt=alt, table=table, width_px=width_px)


def _inline(svg: str, key: str, alt: str) -> Markup:
    """Prepare SVG text for an HTML page: no prologue, unique ids, the page's colours, an accessible name."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    # A style element inside an inline SVG would rule the whole page; the fonts are the page's.
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r"(\d+\.\d\d)\d+", r"\1", svg)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    # A name made of data would need escaping as an id; its digest does not.
    prefix = f"p{_digest(key)}"
    svg = re.sub(r' id="([^"]+)"', lambda found: f' id="{prefix}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r'(url\(#|href="#)([^)"]+)', rf"\1{prefix}-\2", svg)
    for colour, variable in _THEMED.items():
        svg = svg.replace(colour, variable)
    opening = svg.index(">")
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    width, height = (size[1], size[2]) if size else ("300", "200")
    head = (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{escape(alt)}" '
        'style="stroke-linejoin:round;stroke-linecap:butt">'
    )
    return Markup(head + re.sub(r"\s*\n\s*", "\n", svg[opening + 1 :]))  # noqa: S704 - matplotlib escapes texts in its SVG


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]
