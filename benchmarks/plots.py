"""Draws the figures: growth with fitted slopes, and the network's roofline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure


def _where(figures: dict[str, Any]) -> str:
    facts = figures["conditions"]
    return f"{facts['processor']}, {facts['num_cores']} cores, torch {facts['packages']['torch']}, {facts['date']}"


def plot_growth(figures: dict[str, Any], path: Path) -> None:
    """Draw one panel for each growing quantity; points are medians, bars the spread, lines the fit.

    Args:
        figures: Output of ``benchmarks.growth``.
        path: An SVG file.
    """
    curves = figures["curves"]
    quantities = list(dict.fromkeys(name.rpartition(": ")[2] for name in curves))
    figure = Figure(figsize=(4.2 * len(quantities), 3.8), layout="constrained")
    FigureCanvasSVG(figure)
    for index, quantity in enumerate(quantities, start=1):
        axes = figure.add_subplot(1, len(quantities), index)
        for name, curve in curves.items():
            label, _, own = name.rpartition(": ")
            if own != quantity:
                continue
            x = np.array([float(size) for size in curve["seconds"]])
            y = np.array([spread["median"] for spread in curve["seconds"].values()])
            low = y - [spread["min"] for spread in curve["seconds"].values()]
            high = np.array([spread["max"] for spread in curve["seconds"].values()]) - y
            drawn = axes.errorbar(x, y, yerr=[low, high], fmt="o", markersize=4, capsize=2)
            fit = np.exp(np.polyval(np.polyfit(np.log(x), np.log(y), 1), np.log(x)))
            axes.plot(x, fit, color=drawn.lines[0].get_color(), label=f"{label}: slope {curve['slope']:.2f}")
            axes.set_xticks(x, [f"{size:.0f}" for size in x])
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(x, [f"{size:.0f}" for size in x], minor=False)
        axes.minorticks_off()
        axes.set_xlabel(quantity)
        axes.set_ylabel(f"seconds, {figures['clock']}")
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize=8)
    figure.suptitle(_where(figures), fontsize=9)
    figure.savefig(path, format="svg", metadata={"Date": None})


def plot_roofline(figures: dict[str, Any], path: Path) -> None:
    """Draw every convolution's speed in torch by its operations per byte, under the machine's roof.

    Args:
        figures: Output of ``benchmarks.roofline``.
        path: An SVG file.
    """
    machine = figures["machine"]
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    layers = figures["layers"]
    intensity = np.array([layer["flops"] / layer["num_bytes"] for layer in layers])
    speed = np.array([layer["flops"] / layer["milliseconds"] / 1e6 for layer in layers])
    share = np.array([layer["milliseconds"] for layer in layers])
    span = np.geomspace(intensity.min() / 2, intensity.max() * 2, 100)
    roof = np.minimum(machine["flops_per_second"], span * machine["bytes_per_second"]) / 1e9
    axes.plot(span, roof, color="black", label="one core's roof")
    axes.scatter(intensity, speed, s=8 + 120 * share / share.max(), alpha=0.6, label="convolutions, area by time")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations a byte")
    axes.set_ylabel("GFLOP/s")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=8)
    figure.suptitle(_where(figures), fontsize=9)
    figure.savefig(path, format="svg", metadata={"Date": None})
