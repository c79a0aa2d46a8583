"""Measures peak memory of an evaluation by its number of images: ``python -m benchmarks.memory [--network]``.

Each measurement is a separate process that runs a few pictures under the requested number of ids through the work of
a stage of ``zoo-eval run``: inference, prediction files, scoring under every protocol, submission files; and, as at the
end of a run, through the interval of the change between two stages. Without
``--network`` a tiny network is used whose decoding gives 40 detections per image, more than published detectors have
after suppression; with it, the network and weights of ``benchmarks.inference``.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.scenes import scene
from benchmarks.timing import conditions
from ssd_mobilenetv2_lite.preprocess import preprocess
from zoo_core.comparison.stages import BASELINE
from zoo_core.datasets.comp4 import write_comp4
from zoo_core.datasets.shapes import CLASS_NAMES, draw_image
from zoo_core.datatypes import Detections, DetectionTarget, ImageSize, ModelBundle, Prediction
from zoo_core.evaluation.request import DEFAULT_BATCH_SIZE
from zoo_core.evaluation.scoring import stage_changes
from zoo_core.inference import InferenceSettings, predict
from zoo_core.metrics.detection import DetectionMetric
from zoo_core.runs.predictions import PredictionsById, PredictionStore
from zoo_core.runs.provenance import peak_memory_bytes
from zoo_core.runs.request import DEFAULT_WORKERS
from zoo_core.tasks.detection import DETECTION

_NUM_PICTURES = 8
_NUM_DETECTIONS = 40
_MEBIBYTE = 1 << 20
_HEADLINE = "voc07_11pt/devkit"


class RepeatedPictures:
    """A few drawn pictures under many ids; implements ``EvalDataset`` as far as a stage needs it."""

    name = "repeated"
    split = "test"
    root = Path()
    class_names = CLASS_NAMES
    submission_format = "comp4"

    def __init__(self, num_images: int) -> None:
        self.ids = tuple(f"{index:06d}" for index in range(num_images))
        self._drawn = [draw_image("test", index) for index in range(_NUM_PICTURES)]

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """A copy, as a decoder would give."""
        image: NDArray[np.uint8] = self._drawn[int(image_id) % _NUM_PICTURES].image.copy()
        return image

    def target(self, image_id: str) -> DetectionTarget:
        """Copies of the drawn objects: reading annotations gives every image its own arrays."""
        drawn = self._drawn[int(image_id) % _NUM_PICTURES]
        return DetectionTarget(boxes=drawn.boxes.copy(), labels=drawn.labels.copy(), difficult=drawn.difficult.copy())

    def content_hash(self, image_id: str) -> str:
        """Never called here."""
        raise NotImplementedError

    def write_submission(self, directory: Path, predictions: Iterator[tuple[str, Prediction]]) -> None:
        """Writes like the VOC dataset."""
        write_comp4(directory, predictions, class_names=self.class_names, split=self.split)


def tiny_bundle() -> ModelBundle:
    """A network of one convolution, and a decoder that returns a fixed number of detections."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, stride=8), torch.nn.AdaptiveAvgPool2d(4)).eval()

    def decode(outputs: tuple[torch.Tensor, ...], sizes: Sequence[ImageSize]) -> list[Detections]:
        return [_made_up(values.sum().item(), size) for values, size in zip(outputs[0], sizes, strict=True)]

    return ModelBundle(network=network, example_input=torch.zeros(1, 3, 300, 300), preprocess=preprocess, decode=decode)


def _made_up(value: float, size: ImageSize) -> Detections:
    rng = np.random.default_rng(abs(int(value * 1e6)))
    corners = rng.random((_NUM_DETECTIONS, 2, 2)) * [size.width_px, size.height_px]
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)
    scores = np.sort(rng.random(_NUM_DETECTIONS).astype(np.float32))[::-1].copy()
    return Detections(boxes=boxes, scores=scores, labels=rng.integers(0, len(CLASS_NAMES), _NUM_DETECTIONS))


def evaluate_one_stage(bundle: ModelBundle, num_images: int) -> dict[str, int]:
    """Run and score one stage; return peak resident bytes after each part."""
    dataset = RepeatedPictures(num_images)
    settings = InferenceSettings(batch_size=DEFAULT_BATCH_SIZE["cpu"], workers=DEFAULT_WORKERS, device="cpu")
    peaks = {"start": peak_memory_bytes()}
    with tempfile.TemporaryDirectory() as folder:
        store = PredictionStore(Path(folder) / "predictions", Detections)
        predict(bundle.network, bundle, dataset, dataset.ids, store, settings, lambda _num: None)
        peaks["inference"] = peak_memory_bytes()
        metric = DetectionMetric(dataset.class_names)
        targets = {image_id: dataset.target(image_id) for image_id in dataset.ids}
        for chunk in store:
            found = [prediction for prediction in chunk.predictions if isinstance(prediction, Detections)]
            metric.update(chunk.image_ids, found, [targets[image_id] for image_id in chunk.image_ids])
        metric.compute()
        peaks["scoring"] = peak_memory_bytes()
        submission = Path(folder) / "comp4"
        submission.mkdir()
        pairs = (pair for chunk in store for pair in zip(chunk.image_ids, chunk.predictions, strict=True))
        dataset.write_submission(submission, pairs)
        peaks["submission"] = peak_memory_bytes()
        del metric
        names = dataset.class_names
        stage_changes(DETECTION, names, targets, [BASELINE, "other"], lambda _name: PredictionsById(store), _HEADLINE)
        peaks["changes"] = peak_memory_bytes()
    gc.collect()
    return peaks


def _child(num_images: int, *, network: bool) -> None:
    logging.getLogger("zoo_eval").setLevel(logging.ERROR)
    if network:
        with scene(None, None, num_images=1) as base:
            peaks = evaluate_one_stage(base.bundle, num_images)
    else:
        peaks = evaluate_one_stage(tiny_bundle(), num_images)
    print(json.dumps(peaks))


def _measure(num_images: int, *, network: bool) -> dict[str, int]:
    command = [sys.executable, "-m", "benchmarks.memory", "--child", str(num_images)]
    done = subprocess.run(  # noqa: S603 - this module in a process of its own
        [*command, "--network"] if network else command, capture_output=True, text=True, check=True
    )
    peaks: dict[str, int] = json.loads(done.stdout.strip().splitlines()[-1])
    return peaks


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the peak for each number of images, and the growth from the smallest to the largest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--network", action="store_true", help="the real network; takes minutes")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child is not None:
        _child(options.child, network=options.network)
        return 0
    peaks: dict[int, list[dict[str, int]]] = {num_images: [] for num_images in options.images}
    for _ in range(options.repeats):
        for num_images, taken in peaks.items():
            taken.append(_measure(num_images, network=options.network))
    table = {
        num_images: {part: statistics.median(one[part] for one in taken) / _MEBIBYTE for part in taken[0]}
        for num_images, taken in peaks.items()
    }
    print(f"peak resident MiB, median of {options.repeats}, {'real' if options.network else 'tiny'} network")
    for num_images, row in table.items():
        print(f"  {num_images:6d} images  " + "  ".join(f"{part} {value:7.1f}" for part, value in row.items()))
    first, last = table[min(table)], table[max(table)]
    growth = {part: last[part] / first[part] - 1 for part in last}
    print("  growth         " + "  ".join(f"{part} {value:7.2%}" for part, value in growth.items()))
    if options.json:
        figures: dict[str, Any] = {"conditions": conditions(), "peak_mebibytes": table, "growth": growth, "all": peaks}
        options.json.write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
