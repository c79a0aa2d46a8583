"""Times the calibration of activations against AIMET's own observers: ``python -m benchmarks.calibration``.

Both sides calibrate a simulation of the same network on the same images, in batches of 8; the observers are the only
difference (``aimet/observing.py``). Their encodings must be equal.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.inference import calibrated_on
from benchmarks.scenes import scene
from benchmarks.timing import Spread, ratios, timed
from zoo_core.quantization.aimet import quantsim


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the seconds of both sides and their ratio; fail if the encodings differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    own_observers = mock.patch.object(quantsim, "fast_histograms", return_value=contextlib.nullcontext())
    seconds: dict[str, list[float]] = {"aimet": [], "zoo-eval": []}
    encodings: dict[str, Any] = {}
    with scene(None, None, 1) as base, calibrated_on(base, options.images) as (folded, context):
        for _ in range(options.repeats):
            for name, observers in (("aimet", own_observers), ("zoo-eval", contextlib.nullcontext())):
                sim = quantsim.build(folded.network, context.example_input, context.quant)
                with observers:
                    seconds[name].append(timed(partial(quantsim.calibrate, sim, context), time.process_time))
                encodings[name] = quantsim.encodings_of(sim)
    if encodings["aimet"] != encodings["zoo-eval"]:
        print("the encodings differ")
        return 1
    ratio = ratios(seconds["aimet"], seconds["zoo-eval"])
    print(f"{options.images} images, {len(encodings['aimet'][0])} modules with activations, one thread, core time")
    for name, values in seconds.items():
        print(f"  {name:<9} {Spread(values=tuple(values))} s")
    print(f"  ratio     {ratio}; the encodings are equal")
    if options.json:
        figures = {name: Spread(values=tuple(values)).as_json() for name, values in seconds.items()}
        options.json.write_text(json.dumps({**figures, "ratio": ratio.as_json()}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
