"""Plots the measurements of each layer: weight ranges around equalization, and quantization noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo_core.display import DASH
from zoo_core.report.plots import Plot, layer_plot
from zoo_core.report.sections import Table

if TYPE_CHECKING:
    from zoo_core.report.loading import LoadedRun
    from zoo_core.runs.parts import LayerRecord

_NUM_WORST = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGroup:
    """One measurement over the layers.

    Attributes:
        heading: Quantity and stage.
        text: Hint for reading the plots.
        plots: Each with the numbers of every layer behind it.
        worst: The layers to look at first; None where the plots show it.
    """

    heading: str
    text: str
    plots: Sequence[Plot]
    worst: Table | None = None


def layer_groups(run: LoadedRun) -> list[LayerGroup]:
    """Return every measurement by layer that the run recorded."""
    groups = [_ranges(step.step, ranges) for step in run.record.steps if (ranges := _weight_ranges(step.effect))]
    groups += [_noise(name, sim.layers) for name, sim in run.record.simulations.items() if sim.layers]
    return groups


def _weight_ranges(effect: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Read the ranges by layer from a step's effect, whose content each step defines for itself."""
    ranges = effect.get("weight_ranges")
    if not isinstance(ranges, dict):
        return {}
    return {layer: values for layer, values in ranges.items() if isinstance(values, dict)}


def _ranges(step: str, layers: Mapping[str, Mapping[str, Any]]) -> LayerGroup:
    names = list(layers)
    plots = []
    for key, title, unit in (
        ("max_abs", "Largest weight magnitude", "largest |weight|"),
        ("spread", "Spread of the channels' ranges", "widest over narrowest channel"),
    ):
        series = {
            when: [_positive(values.get(f"{key}_{when}")) for values in layers.values()] for when in ("before", "after")
        }
        plots.append(
            layer_plot(
                f"{step}-{key}",
                f"{title} of each scaled layer, before and after",
                unit,
                names,
                series,
                log=True,
            )
        )
    return LayerGroup(
        heading=f"Weight ranges around {step}",
        text="With one range per tensor, a channel much narrower than the widest one gets few of the levels; at "
        "a spread near 1 every channel uses them all.",
        plots=plots,
    )


def _positive(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
    return float(value) if usable else None  # the axis is logarithmic


def _noise(stage: str, layers: Sequence[LayerRecord]) -> LayerGroup:
    names = [layer.layer for layer in layers]
    weights = [layer.weight_sqnr_db for layer in layers]
    outputs = [layer.output_sqnr_db for layer in layers]
    plot = layer_plot(
        f"sqnr-{stage}",
        f"Signal-to-quantization-noise ratio of weights and outputs in {stage}",
        "SQNR, dB",
        names,
        {"output": outputs, "weight": weights},
        log=False,
    )
    worst = [
        (f"{index + 1}. {names[index]}", _db(weights[index]), _db(outputs[index]))
        for index in _lowest(outputs, weights)
    ]
    return LayerGroup(
        heading=f"Quantization noise in {stage}",
        text="Higher is better; 6 dB is one bit. The ratio of a weight is its own; that of an output includes the "
        "noise of every layer before it, so look for the layer where it falls.",
        plots=[plot],
        worst=Table(
            columns=("layer", "weight, dB", "output, dB"),
            rows=tuple(worst),
            caption="The noisiest layers, by output and by weight.",
        ),
    )


def _lowest(outputs: Sequence[float | None], weights: Sequence[float | None]) -> list[int]:
    """Return the indices of the lowest values of either, in the order of the network."""
    chosen: set[int] = set()
    for values in (outputs, weights):
        known = sorted((value, index) for index, value in enumerate(values) if value is not None)
        chosen |= {index for _, index in known[:_NUM_WORST]}
    return sorted(chosen)


def _db(value: float | None) -> str:
    return DASH if value is None else f"{value:.1f}"
