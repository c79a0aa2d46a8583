"""Times the start of the program: ``python -m benchmarks.start``.

Each figure is the wall time of a separate process, including the interpreter's start, with files in the cache.
The first evaluated image is the first progress of the fp32 stage of the demo with all its stages requested, so its time
includes the import of torch, the data check, the weights, the calibration images and one evaluated image. The
demo's pictures are drawn beforehand; that adds some seconds to the very first run.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.timing import Spread, conditions, in_turn

_FIRST_IMAGE = """
import os, sys
from zoo_core import api
from zoo_core.evaluation.request import SilentReporter

class UntilTheFirst(SilentReporter):
    what = ""

    def start(self, what, total):
        self.what = what

    def advance(self, num):
        if self.what == "fp32":
            os._exit(0)

api.evaluate("ssd_mobilenetv2_lite_shapes", runtime=sys.argv[1], out=sys.argv[2], reporter=UntilTheFirst())
sys.exit("no image was evaluated")
"""

_ALLOWED = {"import zoo_core": 0.1, "zoo-eval --help": 0.3, "zoo-eval list": 0.3, "first image": 10.0}
"""Seconds; what the project has set itself."""


def _command(arguments: Sequence[str]) -> None:
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)  # noqa: S603 - our own program


def _first_image(backend: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _command(["-c", _FIRST_IMAGE, backend, str(Path(folder) / "run")])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print seconds, their spread over repeats, and the limits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args(arguments)
    main_program = "from zoo_core.cli.main import main; main({!r})"
    sides: dict[str, Callable[[], object]] = {
        "python alone": partial(_command, ["-c", "pass"]),
        "import zoo_core": partial(_command, ["-c", "import zoo_core"]),
        "zoo-eval --help": partial(_command, ["-c", main_program.format(["--help"])]),
        "zoo-eval list": partial(_command, ["-c", main_program.format(["list"])]),
        "first image": partial(_first_image, "torch"),
    }
    if importlib.util.find_spec("onnxruntime") is not None:
        sides["first image, onnxruntime"] = partial(_first_image, "onnxruntime")
    for work in sides.values():
        work()  # compiles modules, draws the demo's pictures
    seconds = in_turn(sides, options.repeats)
    figures: dict[str, Any] = {"conditions": conditions(), "seconds": {}, "allowed": _ALLOWED}
    for name, taken in seconds.items():
        spread = Spread(values=tuple(taken))
        allowed = _ALLOWED.get(name.partition(",")[0])
        print(f"  {name:26s} {spread} s" + (f", allowed {allowed}" if allowed else ""))
        figures["seconds"][name] = spread.as_json()
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
