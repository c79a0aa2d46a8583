"""Run every benchmark in turn and write one file: ``python -m benchmarks --out FILE``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import inference, memory, scoring
from benchmarks.timing import conditions


def main(arguments: Sequence[str] | None = None) -> int:
    """Print every benchmark's table; one that cannot run here is named in the file with the reason."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks.json"), help="file for the figures")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=96, help="images a repeat of inference")
    options = parser.parse_args(arguments)
    repeats, images = ["--repeats", str(options.repeats)], ["--images", str(options.images)]
    figures: dict[str, Any] = {"conditions": conditions()}
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "figures.json"
        to_target = ["--json", str(target)]
        parts: dict[str, Callable[[], int]] = {
            "inference_fp32": lambda: inference.main([*repeats, *images, *to_target]),
            "inference_w8a8": lambda: inference.main(["--quantized", *repeats, *images, *to_target]),
            "memory": lambda: memory.main(to_target),
        }
        if os.environ.get("ZOO_EVAL_SHARED"):
            parts = {"scoring": lambda: scoring.main([*repeats, *to_target]), **parts}
        else:
            figures["scoring"] = {"skipped": "ZOO_EVAL_SHARED is unset: there are no detections to score"}
        for name, run in parts.items():
            print(f"--- {name}", flush=True)
            if run() != 0:
                return 1
            figures[name] = json.loads(target.read_text())
    options.out.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"figures: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
