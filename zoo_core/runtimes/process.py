"""Process that loads models on a runtime and times their passes: ``python -m zoo_core.runtimes.process``.

It reads a ``Job`` as JSON on its stdin and writes its results as JSON to the pipe that was its stdout. What the runtime
prints goes to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo_core.datatypes import LoadOptions
from zoo_core.errors import RuntimeUnsupportedError

if TYPE_CHECKING:
    from zoo_core.datatypes import Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Work of the process.

    Attributes:
        module: In which the runtime's class is.
        qualname: Of the class, which is called without arguments.
        models: Files of the models, whose passes alternate.
        inputs: File of the inputs, ``.npz``.
        input_names: Their names, in the order of the file.
        options: Of ``LoadOptions``.
        num_passes: Timed passes of each model; 0 measures memory only.
        num_warm_up: Passes of each model before.
    """

    module: str
    qualname: str
    models: Sequence[str]
    inputs: str
    input_names: Sequence[str]
    options: Mapping[str, Any]
    num_passes: int
    num_warm_up: int


def _do(job: Job) -> dict[str, Any]:
    runtime: Any = importlib.import_module(job.module)
    for part in job.qualname.split("."):
        runtime = getattr(runtime, part)
    made: Runtime = runtime()
    availability = made.availability()  # imports the library, whose time is not the model's
    if availability.reason is not None:
        raise RuntimeUnsupportedError(availability.reason, fix=availability.fix)
    with np.load(job.inputs, allow_pickle=False) as archive:
        inputs = {name: archive[f"arr_{index}"] for index, name in enumerate(job.input_names)}
    sessions, load_ms = [], []
    for path in job.models:
        model = Path(path).read_bytes()
        start = time.perf_counter()
        sessions.append(made.load(model, LoadOptions(**job.options)))
        load_ms.append(1e3 * (time.perf_counter() - start))
        del model
    for session in sessions:
        for _ in range(job.num_warm_up):
            session(inputs)
    times_ms: list[list[float]] = [[] for _ in sessions]
    for _ in range(job.num_passes):
        for session, own in zip(sessions, times_ms, strict=True):
            start = time.perf_counter()
            session(inputs)
            own.append(1e3 * (time.perf_counter() - start))
    return {"times_ms": times_ms, "load_ms": load_ms, "peak_rss_bytes": _peak_rss_bytes()}


def _peak_rss_bytes() -> int | None:
    """Return the largest resident memory of this process; None where it is not known.

    ``ru_maxrss`` is not used: Linux carries it over from before ``exec``, when a forked child still shares the memory
    of its parent; a child of a parent with 800 MB reports them as its own.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def _main() -> None:
    job = json.load(sys.stdin)
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print to stdout, from C too
    sys.stdout = sys.stderr
    try:
        results = _do(Job(**job))
    except Exception as error:  # a runtime may raise anything; its words go to the parent
        fix = error.fix if isinstance(error, RuntimeUnsupportedError) else ""
        words = error.fact if isinstance(error, RuntimeUnsupportedError) else f"{type(error).__name__}: {error}"
        results = {"error": words, "fix": fix}
    with channel:
        json.dump(results, channel)


if __name__ == "__main__":
    _main()
