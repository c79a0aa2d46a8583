"""Both rounding engines through the whole job: the demo's mAP, image by image: ``python -m benchmarks.adaround_map``.

The same recipe, calibration images and seed; only the engine of the step adaround differs. AIMET runs as many
iterations a layer as ``--iterations`` says: its default of 10,000 takes a CPU far longer than anybody waits. A run that
is there already is not repeated, so a stopped benchmark goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from zoo_core import api
from zoo_core.plugins import PluginHost
from zoo_core.results.paired import CompareRequest, Difference, compare

MODEL = "ssd_mobilenetv2_lite_shapes"
_CALIBRATION_BATCH = 8


def run_engine(engine: str, bits: int, iterations: int, num_images: int, folder: Path) -> Path:
    """Quantize and evaluate with one engine, unless the folder holds the run; return the run directory."""
    path = folder / f"{engine}-w{bits}"
    if path.is_dir() and json.loads((path / "run.json").read_text())["status"] == "complete":
        return path
    settings = [
        f"adaround.engine={engine}",
        f"adaround.num_batches={num_images // _CALIBRATION_BATCH}",
        f"quantsim.param_bw={bits}",
        *([f"adaround.num_iterations={iterations}"] if engine == "aimet" else []),
    ]
    api.evaluate(MODEL, settings=settings, stages=f"optimized_w{bits}a8", out=path, report=False)
    return path


def show(bits: int, found: Difference, folder: Path) -> None:
    """Print what both engines reach and the paired interval of the difference."""
    if found.before is None or found.after is None or found.interval is None or found.difference is None:
        print(f"w{bits}a8: undefined")
        return
    times = []
    for engine in ("aimet", "fast"):
        steps = json.loads((folder / f"{engine}-w{bits}" / "run.json").read_text())["steps"]
        times.append(f"{engine} {steps[-1]['seconds']:.0f} s: {steps[-1]['summary']}")
    low, high = found.interval
    print(
        f"w{bits}a8: aimet {found.before:.4f}, fast {found.after:.4f}, "
        f"fast minus aimet {100 * found.difference:+.2f} points ({100 * low:+.2f} to {100 * high:+.2f})"
    )
    print("\n".join(f"  {text}" for text in times))


def main() -> None:
    """Run and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 4], help="of a weight")
    parser.add_argument("--iterations", type=int, default=100, help="of AIMET, per layer")
    parser.add_argument("--images", type=int, default=64, help="calibration images that both engines round on")
    parser.add_argument("--out", type=Path, default=Path("runs/adaround_map"), help="folder of the runs")
    args = parser.parse_args()
    for bits in args.bits:
        runs = [run_engine(engine, bits, args.iterations, args.images, args.out) for engine in ("fast", "aimet")]
        compared = compare(CompareRequest(run=runs[1], other=runs[0]), PluginHost())
        (pair,) = compared.pairs
        show(bits, pair.mean, args.out)


if __name__ == "__main__":
    main()
