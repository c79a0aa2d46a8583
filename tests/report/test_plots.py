from __future__ import annotations

import re

import numpy as np
import pytest
from defusedxml.ElementTree import fromstring

from zoo_core.report import plots
from zoo_core.report.curves import ClassCurves

HOSTILE = '<script>alert(1)</script> & "quotes" $x^2$ 種類'


@pytest.fixture
def curves() -> ClassCurves:
    line = np.linspace(0.0, 0.9, 10)
    return ClassCurves(
        recall_precision={"fp32": np.stack([line, 1 - line**2], 1), "w8a8": np.stack([line, 1 - line], 1)},
        precision_at={"fp32": np.linspace(1, 0.5, 11), "w8a8": np.linspace(1, 0, 11)},
        histograms={"fp32": np.arange(20) ** 3, "w8a8": np.zeros(20, np.int64)},
    )


def every_plot(curves: ClassCurves) -> list[plots.Plot]:
    layers = [f"features.{index}" for index in range(90)]
    return [
        plots.precision_recall(HOSTILE, curves, {"fp32": 0.9, "w8a8": None}),
        plots.score_histogram(HOSTILE, curves),
        plots.drop_plot([(HOSTILE, 3.0), ("種類", -1.0), ("c" * 50, 0.0)], ("fp32", "w8a8")),
        plots.layer_plot("sqnr", "Noise", "dB", layers, {"weight": [None, 40.0] * 45}, log=False),
        plots.layer_plot("range", "Range", "range", layers, {"before": [1e-3] * 89 + [2e4]}, log=True),
    ]


def test_every_plot_is_one_svg_with_a_name_and_a_table_of_its_numbers(curves: ClassCurves) -> None:
    for plot in every_plot(curves):
        root = fromstring(plot.svg.replace("xlink:href", "href"))
        assert root.tag == "svg"
        assert root.get("role") == "img"
        assert root.get("aria-label") == plot.alt
        assert plot.table.rows
        assert {len(row) for row in plot.table.rows} == {len(plot.table.columns)}


def test_text_in_a_plot_is_text_of_at_least_12_pixels(curves: ClassCurves) -> None:
    for plot in every_plot(curves):
        sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", plot.svg)]
        sizes += [float(size) for size in re.findall(r"font: (?:\w+ )?([\d.]+)px", plot.svg)]
        assert sizes
        assert min(sizes) >= 12
        assert plot.svg.count("<text") >= 4


def test_a_plot_is_as_wide_as_it_says_so_that_text_is_never_scaled_down(curves: ClassCurves) -> None:
    for plot in every_plot(curves):
        assert f'width="{plot.width_px}"' in plot.svg.replace(f'{plot.width_px}.0"', f'{plot.width_px}"')


def test_colours_come_from_the_page_and_styles_stay_inside_the_plot(curves: ClassCurves) -> None:
    for plot in every_plot(curves):
        assert "var(--ink)" in plot.svg
        assert "<style" not in plot.svg
        assert not re.findall(r"#[0-9a-f]{6}\b", plot.svg)
        assert "<metadata" not in plot.svg


def test_the_same_numbers_give_the_same_bytes_and_plots_share_no_id(curves: ClassCurves) -> None:
    first, second = every_plot(curves), every_plot(curves)

    assert [plot.svg for plot in first] == [plot.svg for plot in second]
    ids = [found for plot in first for found in re.findall(r' id="([^"]+)"', plot.svg)]
    assert len(ids) == len(set(ids))


def test_the_table_behind_a_curve_holds_the_precision_at_eleven_recalls(curves: ClassCurves) -> None:
    plot = plots.precision_recall("disk", curves, {"fp32": 0.9, "w8a8": None})

    assert plot.alt == "Precision over recall for disk: AP fp32 90.00 %, w8a8 \N{EN DASH} %."
    assert plot.table.columns == ("recall at least", "fp32", "w8a8")
    assert plot.table.rows[10] == ("1.0", "0.500", "0.000")


def test_a_drop_is_drawn_as_a_change_and_the_worst_class_is_named() -> None:
    plot = plots.drop_plot([("disk", 3.0), ("star", -1.0)], ("fp32", "w8a8"))

    assert "disk lost most, 3.00 points" in plot.alt
    assert plot.table.rows == (("disk", "\N{MINUS SIGN}3.00"), ("star", "+1.00"))


def test_a_name_is_cut_to_the_length_asked_for() -> None:
    assert plots.shortened("abcdef", 6) == "abcdef"
    assert plots.shortened("abcdefg", 6) == "abcde\N{HORIZONTAL ELLIPSIS}"
