"""What happened layer by layer: weight ranges around equalization, and quantization noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo_core.report.plots import Plot, layer_plot
from zoo_core.report.sections import Table
from zoo_core.runs.facts import DASH

if TYPE_CHECKING:
    from zoo_core.report.loading import LoadedRun
    from zoo_core.runs.facts import Facts

_NUM_WORST = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGroup:
    """One measurement over the layers.

    Attributes:
        heading: What was measured, of which stage.
        text: How to read it.
        plots: With the numbers of every layer behind each.
        worst: The layers to look at first; None where the plots show it.
    """

    heading: str
    text: str
    plots: Sequence[Plot]
    worst: Table | None = None


def layer_groups(run: LoadedRun) -> list[LayerGroup]:
    """Every per-layer measurement that the run recorded."""
    groups = [_ranges(step) for step in run.record.items("steps") if step.object("effect").objects("weight_ranges")]
    for stage, simulation in run.record.objects("simulations").items():
        layers = [layer for layer in simulation.items("layers") if layer.text("layer", needed=True) is not None]
        if layers:
            groups.append(_noise(stage, layers))
    return groups


def _ranges(step: Facts) -> LayerGroup:
    layers = step.object("effect").objects("weight_ranges")
    names = list(layers)
    plots = []
    for key, title, unit in (
        ("max_abs", "Largest weight magnitude", "largest |weight|"),
        ("spread", "Spread of the channels' ranges", "widest over narrowest channel"),
    ):
        series = {
            when: [_positive(facts.number(f"{key}_{when}")) for facts in layers.values()]
            for when in ("before", "after")
        }
        plots.append(
            layer_plot(
                f"{step.text('step')}-{key}",
                f"{title} of each scaled layer, before and after",
                unit,
                names,
                series,
                log=True,
            )
        )
    return LayerGroup(
        heading=f"Weight ranges around {step.text('step') or 'a step'}",
        text="With one range per tensor, a channel much narrower than the widest one is left with few of the levels: "
        "a spread near 1 uses them all.",
        plots=plots,
    )


def _positive(value: float | None) -> float | None:
    return value if value is not None and value > 0 else None  # the axis is logarithmic


def _noise(stage: str, layers: Sequence[Facts]) -> LayerGroup:
    names = [layer.text("layer") or "" for layer in layers]
    weights = [layer.number("weight_sqnr_db") for layer in layers]
    outputs = [layer.number("output_sqnr_db") for layer in layers]
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
        text="Higher is better; 6 dB is one bit. A weight's ratio is its own; an output's holds the noise of every "
        "layer before it, so look for the layer where it falls.",
        plots=[plot],
        worst=Table(
            columns=("layer", "weight, dB", "output, dB"),
            rows=tuple(worst),
            caption="The noisiest layers, by output and by weight.",
        ),
    )


def _lowest(outputs: Sequence[float | None], weights: Sequence[float | None]) -> list[int]:
    """Indices of the lowest of either, in the order of the network."""
    chosen: set[int] = set()
    for values in (outputs, weights):
        known = sorted((value, index) for index, value in enumerate(values) if value is not None)
        chosen |= {index for _, index in known[:_NUM_WORST]}
    return sorted(chosen)


def _db(value: float | None) -> str:
    return DASH if value is None else f"{value:.1f}"
