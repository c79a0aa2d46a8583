"""Measures how cost grows with images, batch size and layers: ``python -m benchmarks.growth``.

Images: a whole fp32 evaluation (``predict``, prediction files included). Batch size: one pass through the network on
one core. Layers: stacks of one separable convolution, one image on one core, and how long it takes to build and
calibrate their simulation, the part of quantization that runs for every stage. Each curve gets the slope of a straight
line through its logarithms: 1 means that twice as much costs twice as much.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.inference import Sides, fp32
from benchmarks.memory import RepeatedPictures
from benchmarks.scenes import Scene, scene
from benchmarks.timing import Clock, Spread, conditions, in_turn, timed
from zoo_core.datatypes import Detections, QuantNetwork, QuantSettings, StepContext
from zoo_core.evaluation.request import DEFAULT_BATCH_SIZE
from zoo_core.inference import InferenceSettings, predict
from zoo_core.quantization import pipeline
from zoo_core.recipes import shipped_configs
from zoo_core.runs.predictions import PredictionStore
from zoo_core.runs.request import DEFAULT_WORKERS

NUM_IMAGES = (8, 16, 32, 64, 128)
BATCH_SIZES = (1, 2, 4, 8, 16)
NUM_LAYERS = (4, 8, 16, 32, 64)
_CHANNELS = 32
_CALIBRATION_IMAGES = 16


def slope(curve: dict[int, Spread]) -> float:
    """Fit a straight line through the logarithms of the medians by least squares; return its slope."""
    x, y = np.log(list(curve)), np.log([spread.median for spread in curve.values()])
    return float(np.polyfit(x, y, 1)[0])


def images(base: Scene, repeats: int, backend: str, sides: Sides, clock: Clock) -> dict[int, Spread]:
    """Measure the seconds of an evaluation by its number of images."""
    settings = InferenceSettings(batch_size=DEFAULT_BATCH_SIZE["cpu"], workers=DEFAULT_WORKERS, device="cpu")

    def evaluate(num_images: int) -> None:
        dataset = RepeatedPictures(num_images)
        with tempfile.TemporaryDirectory() as folder:
            store = PredictionStore(Path(folder), Detections)
            predict(sides.own[backend], base.bundle, dataset, dataset.ids, store, settings, lambda _num: None)

    evaluate(8)
    return _curve({num: partial(evaluate, num) for num in NUM_IMAGES}, repeats, clock)


def batch_sizes(base: Scene, repeats: int, backend: str, sides: Sides, clock: Clock) -> dict[int, Spread]:
    """Measure the seconds of one forward pass on one core by batch size."""
    network = sides.own[backend].to(memory_format=torch.channels_last)

    def run(batch_size: int) -> Callable[[], object]:
        x = base.bundle.example_input.repeat(batch_size, 1, 1, 1).to(memory_format=torch.channels_last)
        return lambda: network(x)

    with torch.inference_mode():
        return _curve({size: run(size) for size in BATCH_SIZES}, repeats, clock)


def stack_of(num_layers: int) -> nn.Sequential:
    """Build pairs of a depthwise and a pointwise convolution, each with a ReLU; ``num_layers`` convolutions."""
    pairs: list[nn.Module] = []
    for _ in range(num_layers // 2):
        pairs += [nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1, groups=_CHANNELS), nn.ReLU()]
        pairs += [nn.Conv2d(_CHANNELS, _CHANNELS, 1), nn.ReLU()]
    return nn.Sequential(*pairs).eval().requires_grad_(False)


class _Batches:
    """Random calibration images."""

    num_images = _CALIBRATION_IMAGES

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._batches = [torch.randn(8, _CHANNELS, 38, 38, generator=generator) for _ in range(len(self))]

    def __iter__(self) -> Any:
        """The same batches each time."""
        return iter(self._batches)

    def __len__(self) -> int:
        """Batches of eight."""
        return _CALIBRATION_IMAGES // 8


def layers(repeats: int, clock: Clock) -> dict[str, dict[int, Spread]]:
    """Measure seconds by number of layers: one forward pass, and building and calibrating a simulation."""
    config = shipped_configs()["per_tensor_asymmetric"]
    quant = QuantSettings(param_bw=8, output_bw=8, quant_scheme="tf_enhanced", config_file=config)
    with tempfile.TemporaryDirectory() as folder:
        context = StepContext(
            example_input=torch.randn(1, _CHANNELS, 38, 38),
            calibration=_Batches(),
            quant=quant,
            seed=0,
            work_dir=Path(folder),
            progress=lambda _done, _total, _what: None,
        )
        networks = {num: stack_of(num) for num in NUM_LAYERS}
        x = context.example_input.to(memory_format=torch.channels_last)
        simulate = {num: partial(pipeline.simulate, QuantNetwork(network=n), context) for num, n in networks.items()}
        with torch.inference_mode():
            forward = _curve({num: partial(network, x) for num, network in networks.items()}, repeats, clock)
        simulate[NUM_LAYERS[0]]()  # imports AIMET
        return {"forward": forward, "simulate": _curve(simulate, repeats, clock)}


def _curve(work: Mapping[int, Callable[[], object]], repeats: int, clock: Clock) -> dict[int, Spread]:
    for run in work.values():
        timed(run)
    seconds = in_turn({str(size): run for size, run in work.items()}, repeats, clock)
    return {size: Spread(values=tuple(seconds[str(size)])) for size in work}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print each curve and its slope."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--core-time",
        action="store_true",
        help="count the time of one core and one thread instead of the clock's: for a machine that is not idle",
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    logging.getLogger("zoo_eval").setLevel(logging.ERROR)
    curves: dict[str, dict[int, Spread]] = {}
    num_threads = torch.get_num_threads()
    clock = time.process_time if options.core_time else time.perf_counter
    if options.core_time:
        torch.set_num_threads(1)  # threads that wait for each other would count as work
    with scene(None, None, num_images=1) as base:
        sides = fp32(base)
        for backend in sides.own:
            curves[f"evaluation, {backend}: images"] = images(base, options.repeats, backend, sides, clock)
        torch.set_num_threads(1)
        for backend in sides.own:
            curves[f"network, {backend}: batch size"] = batch_sizes(base, options.repeats, backend, sides, clock)
    for what, curve in layers(options.repeats, clock).items():
        curves[f"{what}: layers"] = curve
    torch.set_num_threads(num_threads)
    figures: dict[str, Any] = {"conditions": conditions(), "curves": {}}
    figures["clock"] = "core time, one thread" if options.core_time else "wall time"
    for name, curve in curves.items():
        print(f"  {name}, slope {slope(curve):.2f}")
        for size, spread in curve.items():
            print(
                f"    {size:5d}  {1e3 * spread.median:9.1f} ms ({1e3 * min(spread.values):.1f} to "
                f"{1e3 * max(spread.values):.1f})"
            )
        figures["curves"][name] = {
            "slope": slope(curve),
            "seconds": {str(size): spread.as_json() for size, spread in curve.items()},
        }
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
