"""Run every benchmark in turn: ``python -m benchmarks --out FOLDER [--only PART,...]``.

Each part prints its table and adds to ``figures.json``; growth and roofline also write a picture. A part that cannot
run is listed there with the reason. Run it on an idle machine: the file records how busy it was.
The parts of AdaRound come last and take hours, because AIMET's own optimizer is one side; their layers and runs are
kept in the folder, so that a second call resumes where the first stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import (
    adaround,
    adaround_map,
    calibration,
    deploy,
    growth,
    inference,
    memory,
    metric_peers,
    roofline,
    scoring,
    start,
)
from benchmarks.plots import plot_growth, plot_roofline
from benchmarks.timing import conditions

_NEED_REFERENCE_DATA = ("scoring", "metric_peers", "adaround", "adaround_4_bits", "adaround_network")
_PICTURES = {"growth": plot_growth, "roofline": plot_roofline}


def _parts(repeats: int, images: int, out: Path) -> dict[str, partial[int]]:
    """The function of each part, called with the remaining arguments, in the order run."""
    times, pictures = ["--repeats", str(repeats)], ["--images", str(images)]
    calls: dict[str, tuple[Callable[[Sequence[str]], int], list[str]]] = {
        "start": (start.main, times),
        "scoring": (scoring.main, times),
        "metric_peers": (metric_peers.main, []),
        "inference_fp32": (inference.main, [*times, *pictures]),
        "inference_w8a8": (inference.main, ["--quantized", *times, *pictures]),
        "batch_sizes": (inference.main, ["--batch-sizes", *times, *pictures]),
        "roofline": (roofline.main, []),
        "growth": (growth.main, []),
        "calibration": (calibration.main, times),
        "deploy": (deploy.main, []),
        "memory": (memory.main, []),
        "adaround_network": (adaround.main, ["--network", "500", "--choices", "floor_ceil"]),
        "adaround": (adaround.main, ["--out", str(out / "adaround.json")]),
        "adaround_4_bits": (
            adaround.main,
            ["--bw", "4", "--no-activation", "--iterations", "3000", "--out", str(out / "adaround_4_bits.json")],
        ),
        "adaround_map": (
            adaround_map.main,
            ["--window", "--images", "32", "--iterations", "200", "--out", str(out / "adaround_map")],
        ),
    }
    return {name: partial(_run, main, arguments) for name, (main, arguments) in calls.items()}


def _run(main: Callable[[Sequence[str]], int], own: list[str], more: list[str]) -> int:
    return main([*own, *more])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print every benchmark's table and write figures and pictures into one folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks-out"), help="folder for figures and pictures")
    parser.add_argument("--only", help="comma-separated parts; figures of others in the folder stay")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=96, help="images a repeat of inference")
    options = parser.parse_args(arguments)
    parts = _parts(options.repeats, options.images, options.out)
    chosen = options.only.split(",") if options.only else list(parts)
    unknown = [name for name in chosen if name not in parts]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; choose from {', '.join(parts)}")
    options.out.mkdir(parents=True, exist_ok=True)
    target = options.out / "figures.json"
    figures: dict[str, Any] = json.loads(target.read_text()) if target.exists() else {}
    for name in chosen:
        if name in _NEED_REFERENCE_DATA and not os.environ.get("ZOO_EVAL_SHARED"):
            figures[name] = {"skipped": "ZOO_EVAL_SHARED is unset: the reference data are missing"}
            continue
        print(f"--- {name}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            own = Path(folder) / "figures.json"
            if parts[name](["--json", str(own)]) != 0:
                return 1
            figures[name] = {"conditions": conditions(), **json.loads(own.read_text())}
        if name in _PICTURES:
            _PICTURES[name](figures[name], options.out / f"{name}.svg")
        target.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"figures: {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
