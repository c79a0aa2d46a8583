"""Compares the demo's mAP with both rounding engines, image by image: ``python -m benchmarks.adaround_map``.

Recipe, calibration images and seed are the same; only the engine of the step adaround differs. AIMET runs
``--iterations`` iterations per layer. Each of its steps runs a layer on whole maps of 32 images, which takes seconds at
the first layers, so ``--window`` gives it one window per image instead, as benchmarks.adaround does: its own optimizer
with many more steps in the same time. A finished run is not repeated, so a stopped benchmark resumes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from benchmarks.adaround import Batches, window
from zoo_core import api
from zoo_core.plugins import PluginHost
from zoo_core.results.compare import CompareRequest, PairedChange, compare
from zoo_core.runs.record import read_record

MODEL = "ssd_mobilenetv2_lite_shapes"
_CALIBRATION_BATCH = 8


class _Reached(Exception):  # noqa: N818  # not an error: it ends a forward pass
    """The layer whose input is recorded has been reached."""


def _inputs(network: nn.Module, layer: nn.Module, images: Any, geometry: nn.Module) -> torch.Tensor:
    """Collect a window of the layer's input for every image, ``(N, C, h, w)``."""
    kept: list[torch.Tensor] = []

    def keep(_layer: nn.Module, x: tuple[torch.Tensor, ...]) -> None:
        kept.extend(window(geometry, image[None], len(kept)) for image in x[0])
        raise _Reached

    hook = layer.register_forward_pre_hook(keep)
    with torch.no_grad():
        for args, _ in images:
            with contextlib.suppress(_Reached):
                network(*args)
    hook.remove()
    return torch.cat(kept)


@contextlib.contextmanager
def windows_for_aimet() -> Iterator[None]:
    """Give AIMET's optimizer windows of each layer's inputs inside the context."""
    from aimet_torch._base.adaround.adaround_optimizer import AdaroundOptimizer

    whole = AdaroundOptimizer.adaround_module

    def windowed(
        layer: nn.Module, wrapper: nn.Module, exact: nn.Module, rounded: nn.Module, act: Any, images: Any, *args: Any
    ) -> None:
        kept = [_inputs(network, at, images, layer) for network, at in ((exact, layer), (rounded, wrapper))]
        batches = [Batches(inputs) for inputs in kept]
        forward, options = args[:2]
        whole(
            layer, wrapper, nn.Sequential(layer), nn.Sequential(wrapper), act, batches[0], forward, options, batches[1]
        )

    with mock.patch.object(AdaroundOptimizer, "adaround_module", windowed):
        yield


def run_engine(engine: str, bits: int, args: argparse.Namespace) -> Path:
    """Quantize and evaluate with one engine, unless the folder holds the run; return the run directory."""
    path: Path = args.out / f"{engine}-w{bits}"
    if path.is_dir() and read_record(path).status == "complete":
        return path
    settings = [
        f"adaround.engine={engine}",
        f"adaround.num_batches={args.images // _CALIBRATION_BATCH}",
        f"quantsim.param_bw={bits}",
        *([f"adaround.num_iterations={args.iterations}"] if engine == "aimet" else []),
    ]
    windows = windows_for_aimet() if args.window and engine == "aimet" else contextlib.nullcontext()
    with windows:
        api.evaluate(MODEL, settings=settings, stages=f"optimized_w{bits}a8", out=path, report=False, cache=False)
    return path


def show(bits: int, mean: PairedChange, folder: Path) -> dict[str, Any]:
    """Print and return what both engines reach, with the paired interval of the difference."""
    if mean.before is None or mean.after is None or mean.interval is None or mean.change is None:
        print(f"w{bits}a8: undefined")
        return {}
    low, high = mean.interval
    print(
        f"w{bits}a8: aimet {mean.before:.4f}, fast {mean.after:.4f}, "
        f"fast minus aimet {100 * mean.change:+.2f} points ({100 * low:+.2f} to {100 * high:+.2f})"
    )
    figures: dict[str, Any] = {"aimet": mean.before, "fast": mean.after, "change": mean.change, "interval": [low, high]}
    for engine in ("aimet", "fast"):
        step = read_record(folder / f"{engine}-w{bits}").steps[-1]
        print(f"  {engine} {step.seconds:.0f} s: {step.summary}")
        figures[f"{engine}_seconds"] = step.seconds
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 4], help="of a weight")
    parser.add_argument("--iterations", type=int, default=100, help="of AIMET, per layer")
    parser.add_argument("--images", type=int, default=64, help="calibration images that both engines round on")
    parser.add_argument("--window", action="store_true", help="AIMET sees a window an image, not whole maps")
    parser.add_argument("--out", type=Path, default=Path("runs/adaround_map"), help="folder of the runs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args(arguments)
    figures = {}
    for bits in args.bits:
        fast, aimet = (run_engine(engine, bits, args) for engine in ("fast", "aimet"))
        (pair,) = compare(CompareRequest(run=aimet, other=fast), PluginHost()).pairs
        figures[f"w{bits}a8"] = show(bits, pair.overall, args.out)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
