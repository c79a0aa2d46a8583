"""Times evaluation against a loop over single images: ``python -m benchmarks.inference [--quantized]``.

All sides read the same image files, run the same weights and produce the same detections. The plain side works like
published evaluators (``plain_loop.py``), with AIMET's own simulation inside where ``--quantized`` is given; ours is
``zoo_core.inference.predict`` with the default settings, including prediction files, on each available backend.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import ssd_mobilenetv2_lite
from benchmarks.plain_loop import predict_one_by_one
from benchmarks.scenes import Scene, scene
from benchmarks.timing import Clock, Spread, conditions, in_turn, ratios, timed
from zoo_core.datasets.voc import VocDetection
from zoo_core.datatypes import Detections, Prediction, QuantNetwork, StepContext
from zoo_core.evaluation.request import DEFAULT_BATCH_SIZE
from zoo_core.inference import CalibrationSet, InferenceSettings, load_inputs, predict, run_batch
from zoo_core.quantization import pipeline
from zoo_core.quantization.aimet import quantsim
from zoo_core.recipes import load_recipe
from zoo_core.runs.predictions import Chunk, PredictionStore
from zoo_core.runs.request import DEFAULT_WORKERS

_RECIPE = Path(ssd_mobilenetv2_lite.__file__).parent / "recipes" / "w8a8_tf_enhanced_cle_adaround.yaml"
_CALIBRATION_IMAGES = 32
_BATCH_SIZES = (1, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sides:
    """One stage's network for each side; ours by backend."""

    plain: nn.Module
    own: Mapping[str, nn.Module]


def fp32(base: Scene) -> Sides:
    """The float network as loaded, and the same in ONNX Runtime if that is installed."""
    network = base.bundle.network
    own = {"torch": network}
    if importlib.util.find_spec("onnxruntime") is not None:
        from zoo_core.evaluation.float_runtime import OnnxNetwork, export

        own["onnxruntime"] = OnnxNetwork(export(network, base.bundle.example_input))
    return Sides(plain=network, own=own)


@contextmanager
def calibrated_on(base: Scene, num_images: int = _CALIBRATION_IMAGES) -> Iterator[tuple[QuantNetwork, StepContext]]:
    """Yield the network with folded batch norms, and the context in which it is calibrated."""
    settings = InferenceSettings(batch_size=8, workers=DEFAULT_WORKERS, device="cpu")
    trainval = VocDetection(base.dataset.root, "trainval", label_file=base.dataset.root / "labels.txt")
    ids = trainval.ids[:num_images]
    plan = pipeline.plan(load_recipe(_RECIPE))
    with tempfile.TemporaryDirectory() as work_dir:
        context = StepContext(
            example_input=base.bundle.example_input,
            calibration=CalibrationSet(trainval, ids, base.bundle.preprocess, settings, lambda _num: None),
            quant=plan.quant,
            seed=0,
            work_dir=Path(work_dir),
            progress=lambda _done, _total, _what: None,
        )
        yield pipeline.run_step(plan.steps[0], QuantNetwork(network=base.bundle.network), context).result, context


def w8a8(base: Scene) -> Sides:
    """Plain post-training quantization: AIMET's simulation network, and ours that is made from the same simulation."""
    with calibrated_on(base) as (folded, context):
        own = pipeline.simulate(folded, context).network
        sim = quantsim.build(folded.network, context.example_input, context.quant)
        quantsim.calibrate(sim, context)
    return Sides(plain=sim.model, own={"torch": own})


class Measured:
    """Runs and times one stage's sides on the same images."""

    def __init__(self, base: Scene, sides: Sides, image_ids: Sequence[str], folder: Path, clock: Clock) -> None:
        self.clock = clock
        self.base = base
        self.sides = sides
        self.image_ids = image_ids
        self.paths = [base.dataset.image_path(image_id) for image_id in image_ids]
        self._folder = folder

    def plain(self) -> list[Detections]:
        """One image, one class, one box at a time."""
        return predict_one_by_one(self.sides.plain, self.paths)

    def own(self, backend: str, batch_size: int = DEFAULT_BATCH_SIZE["cpu"]) -> list[Prediction]:
        """Our path to the prediction files, and what they hold."""
        store = PredictionStore(self._folder / f"{backend}-{batch_size}", Detections)
        store.clear()  # chunks of an earlier repeat would be taken as done
        settings = InferenceSettings(batch_size=batch_size, workers=DEFAULT_WORKERS, device="cpu")
        base, network = self.base, self.sides.own[backend]
        predict(network, base.bundle, base.dataset, self.image_ids, store, settings, lambda _num: None)
        return [prediction for chunk in store for prediction in chunk.predictions]

    def rate(self, seconds: float) -> float:
        """Images per second."""
        return len(self.image_ids) / seconds

    def agreement(self, backend: str) -> dict[str, float]:
        """Compare the sides' detections: their numbers, and the share that both have.

        A detection is the same if label and box (within 1 % of the image) agree and scores lie within 0.01.
        """
        pairs = [(a, b) for a, b in zip(self.plain(), self.own(backend), strict=True) if isinstance(b, Detections)]
        num_plain = sum(len(a.scores) for a, _ in pairs)
        num_own = sum(len(b.scores) for _, b in pairs)
        common = sum(_num_common(a, b) for a, b in pairs)
        return {"plain": num_plain, "own": num_own, "common": common / max(num_plain, num_own, 1)}


def _num_common(one: Detections, other: Detections) -> int:
    labels = one.labels[:, None] == other.labels[None]
    scores = np.abs(one.scores[:, None] - other.scores[None]) < 0.01
    boxes = np.abs(one.boxes[:, None] - other.boxes[None]).max(axis=2, initial=0.0) < 4.0
    return int((labels & scores & boxes).any(axis=1).sum())


def side_by_side(measured: Measured, repeats: int) -> dict[str, Any]:
    """Measure images per second of all sides in turn, and the ratio of ours to the plain side."""
    agreement = {backend: measured.agreement(backend) for backend in measured.sides.own}  # also warms every side up
    ours = {backend: partial(measured.own, backend) for backend in measured.sides.own}
    seconds = in_turn({"plain": measured.plain, **ours}, repeats, measured.clock)
    rates = {name: Spread(values=tuple(map(measured.rate, values))) for name, values in seconds.items()}
    ratio = {backend: ratios(seconds["plain"], seconds[backend]) for backend in ours}
    print(f"  one image and one class at a time   {rates['plain']} images/s")
    for backend in ours:
        found = agreement[backend]
        print(f"  predict on {backend:<24} {rates[backend]} images/s")
        print(f"    ratio                             {ratio[backend]}")
        print(f"    detections: {found['plain']} and {found['own']}, {found['common']:.2%} the same")
    return {
        "images_per_second": {name: rate.as_json() for name, rate in rates.items()},
        "ratio": {backend: spread.as_json() for backend, spread in ratio.items()},
        "agreement": agreement,
    }


def parts(measured: Measured, backend: str, repeats: int) -> dict[str, Any]:
    """Measure milliseconds per image of each part of our path in one thread, and how well the parts overlap."""
    base, batch_size = measured.base, DEFAULT_BATCH_SIZE["cpu"]
    inputs = list(load_inputs(base.dataset, measured.image_ids, base.bundle.preprocess, workers=0))
    batches = [inputs[start : start + batch_size] for start in range(0, len(inputs), batch_size)]
    network = copy.deepcopy(measured.sides.own[backend]).to(memory_format=torch.channels_last)  # as a lane has it
    outputs = [run_batch(network, [array for array, _ in batch], "cpu") for batch in batches]
    sizes = [[size for _, size in batch] for batch in batches]
    decoded = [p for out, size in zip(outputs, sizes, strict=True) for p in base.bundle.decode(out, size)]

    def store() -> None:
        with tempfile.TemporaryDirectory() as folder:
            target = PredictionStore(Path(folder), Detections)
            for index, start in enumerate(range(0, len(decoded), 64)):
                ids, found = tuple(measured.image_ids[start : start + 64]), tuple(decoded[start : start + 64])
                target.write(Chunk(index=index, image_ids=ids, predictions=found))

    work: dict[str, Callable[[], object]] = {
        "read": lambda: [None for _ in load_inputs(base.dataset, measured.image_ids, base.bundle.preprocess, 0)],
        "network": lambda: [run_batch(network, [array for array, _ in batch], "cpu") for batch in batches],
        "decode": lambda: [base.bundle.decode(out, size) for out, size in zip(outputs, sizes, strict=True)],
        "store": store,
    }
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = in_turn(work, repeats, measured.clock)
    finally:
        torch.set_num_threads(num_threads)
    wall = Spread(values=tuple(timed(partial(measured.own, backend), measured.clock) for _ in range(repeats)))
    spreads = {name: Spread(values=tuple(1e3 / measured.rate(s) for s in taken)) for name, taken in seconds.items()}
    core_ms = spreads["network"].median + spreads["decode"].median
    wall_ms = 1e3 / measured.rate(wall.median)
    ideal = wall_ms * num_threads / core_ms
    listed = ", ".join(f"{name} {spread.median:.2f}" for name, spread in spreads.items())
    print(f"  {backend}, one thread, ms an image: {listed}")
    print(f"  wall {wall_ms:.2f} ms an image, {ideal:.2f} times (network + decode) over {num_threads} threads")
    return {
        "milliseconds": {name: spread.as_json() for name, spread in spreads.items()},
        "wall_milliseconds": wall_ms,
        "wall_over_ideal": ideal,
        "threads": num_threads,
    }


def batch_sizes(measured: Measured, backend: str, repeats: int) -> dict[str, Any]:
    """Measure images per second of our path at each batch size, to choose the default."""
    sides = {str(size): partial(measured.own, backend, size) for size in _BATCH_SIZES}
    seconds = in_turn(sides, repeats, measured.clock)
    rates = {name: Spread(values=tuple(map(measured.rate, taken))) for name, taken in seconds.items()}
    for name, rate in rates.items():
        print(f"  {backend}, batch size {name:<3}         {rate} images/s")
    return {name: rate.as_json() for name, rate in rates.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print rates, their spread over repeats, the ratio, and the cost of the parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="dataset in VOC layout with labels.txt; else the reference data's")
    parser.add_argument("--checkpoint", type=Path, help="weights for it; else the reference data's, or untrained ones")
    parser.add_argument("--images", type=int, default=96, help="images a repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quantized", action="store_true", help="the w8a8 stage beside AIMET's own simulation")
    parser.add_argument("--batch-sizes", action="store_true", help="our path at several batch sizes, nothing else")
    parser.add_argument(
        "--core-time",
        action="store_true",
        help="count the time of one core and one thread instead of the clock's: for a machine that is not idle",
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    logging.getLogger("zoo_eval").setLevel(logging.ERROR)
    if options.core_time:
        torch.set_num_threads(1)  # threads that wait for each other would count as work
    clock = time.process_time if options.core_time else time.perf_counter
    with scene(options.data, options.checkpoint, options.images) as base, tempfile.TemporaryDirectory() as folder:
        image_ids = base.dataset.ids[: options.images]
        sides = w8a8(base) if options.quantized else fp32(base)
        measured = Measured(base, sides, image_ids, Path(folder), clock)
        stage = "w8a8" if options.quantized else "fp32"
        print(f"{stage}: {base.what}; {len(image_ids)} of them, {options.repeats} repeats")
        figures: dict[str, Any] = {"conditions": conditions(), "stage": stage, "scene": base.what}
        figures["clock"] = "core time, one thread" if options.core_time else "wall time"
        if options.batch_sizes:
            figures["batch_sizes"] = {name: batch_sizes(measured, name, options.repeats) for name in sides.own}
        else:
            figures["side_by_side"] = side_by_side(measured, options.repeats)
            figures["parts"] = {name: parts(measured, name, options.repeats) for name in sides.own}
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
