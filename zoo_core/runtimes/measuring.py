"""Measures time and memory of models on a runtime, in processes that do nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo_core.datatypes import LoadOptions
from zoo_core.errors import RuntimeUnsupportedError
from zoo_core.runtimes.process import Job

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from zoo_core.datatypes import Runtime

NUM_PASSES = 50
NUM_WARM_UP = 5
"""Passes before those that are timed: a first pass allocates, and may compile."""

_SHOWN_LINES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Time and memory of one model on a runtime.

    Attributes:
        p50_ms: Median time of a pass.
        p90_ms: 90th percentile.
        min_ms: Of the fastest pass.
        max_ms: Of the slowest pass.
        num_passes: Timed passes.
        load_ms: Time of ``Runtime.load`` on the model's bytes; the runtime's library is imported before.
        peak_rss_bytes: Largest resident memory of a process that loads only this model and runs its warm-up passes;
            Python, numpy and the runtime's library are part of it. None where the operating system does not tell it, as
            others than Linux.
        num_threads: Threads of the session.
        environment: Variables of the environment that also set numbers of threads, e.g. ``OMP_NUM_THREADS``; sessions
            are given their own number, so these affect libraries beside the runtime only.
    """

    p50_ms: float
    p90_ms: float
    min_ms: float
    max_ms: float
    num_passes: int
    load_ms: float
    peak_rss_bytes: int | None
    num_threads: int
    environment: Mapping[str, str]


def measure(
    runtime: Runtime,
    model: Path,
    inputs: Mapping[str, NDArray[Any]],
    *,
    num_threads: int = 1,
    exact_products: bool = False,
    allow_fallback: bool = False,
    num_passes: int = NUM_PASSES,
    num_warm_up: int = NUM_WARM_UP,
) -> Cost:
    """Measure one model; see ``measure_alternately``."""
    (cost,) = measure_alternately(
        runtime,
        [model],
        inputs,
        num_threads=num_threads,
        exact_products=exact_products,
        allow_fallback=allow_fallback,
        num_passes=num_passes,
        num_warm_up=num_warm_up,
    )
    return cost


def measure_alternately(
    runtime: Runtime,
    models: Sequence[Path],
    inputs: Mapping[str, NDArray[Any]],
    *,
    num_threads: int = 1,
    exact_products: bool = False,
    allow_fallback: bool = False,
    num_passes: int = NUM_PASSES,
    num_warm_up: int = NUM_WARM_UP,
) -> Sequence[Cost]:
    """Measure models whose passes alternate in one process, so that all of them see the same load of the machine.

    The ratio of two medians is then trustworthy on a busy machine, where times from two processes are not. Memory and
    the time of loading are measured in another process per model, which loads nothing else.

    Args:
        runtime: Its class is called without arguments in the processes, which import its module.
        models: Files.
        inputs: By name; the same for all models.
        num_threads: Threads of a session.
        exact_products: See ``LoadOptions``.
        allow_fallback: See ``LoadOptions``.
        num_passes: Timed passes of each model; at least 1.
        num_warm_up: Passes of each model before these.

    Returns:
        One entry per model, in their order.

    Raises:
        RuntimeUnsupportedError: A process failed; the fact has the runtime's words.
    """
    if num_passes < 1:
        raise RuntimeUnsupportedError(f"{num_passes} passes cannot be timed.", fix="use at least 1 pass.")
    options = LoadOptions(num_threads=num_threads, exact_products=exact_products, allow_fallback=allow_fallback)
    with tempfile.TemporaryDirectory(prefix="zoo_eval_cost_") as folder:
        file = Path(folder) / "inputs.npz"
        np.savez(file, *inputs.values())

        def job(chosen: Sequence[Path], timed: int) -> Job:
            return Job(
                module=type(runtime).__module__,
                qualname=type(runtime).__qualname__,
                models=[str(model.absolute()) for model in chosen],
                inputs=str(file),
                input_names=list(inputs),
                options=asdict(options),
                num_passes=timed,
                num_warm_up=num_warm_up,
            )

        together = _run(job(models, num_passes), runtime.name, folder)
        alone = [_run(job([model], 0), runtime.name, folder) for model in models]
    return [_cost(times, one, num_threads) for times, one in zip(together["times_ms"], alone, strict=True)]


def _cost(times: Sequence[float], alone: Mapping[str, Any], num_threads: int) -> Cost:
    p50, p90 = np.percentile(times, [50, 90])
    return Cost(
        p50_ms=float(p50),
        p90_ms=float(p90),
        min_ms=min(times),
        max_ms=max(times),
        num_passes=len(times),
        load_ms=alone["load_ms"][0],
        peak_rss_bytes=alone["peak_rss_bytes"],
        num_threads=num_threads,
        environment={name: value for name, value in sorted(os.environ.items()) if name.endswith("_NUM_THREADS")},
    )


def _run(job: Job, name: str, folder: str) -> dict[str, Any]:
    """Return the results of a process that does a job; it imports what this one can import."""
    path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    with subprocess.Popen(
        [sys.executable, "-m", "zoo_core.runtimes.process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        cwd=folder,  # python -m puts it first in sys.path, and the user's folder may have modules of any name
        env={**os.environ, "PYTHONPATH": path},
    ) as process:
        try:
            printed, complaints = process.communicate(json.dumps(asdict(job)))
        except BaseException:
            process.kill()
            process.wait()  # after Ctrl-C, leaving the block does not wait
            raise
    try:
        results: dict[str, Any] = json.loads(printed)
    except ValueError:
        results = {"error": "\n".join(complaints.strip().splitlines()[-_SHOWN_LINES:]) or "it printed nothing"}
        results["error"] += f" (exit code {process.returncode})"
    if "error" in results:
        raise RuntimeUnsupportedError(
            f"The cost of {', '.join(Path(model).name for model in job.models)} on {name} cannot be measured: "
            f"{results['error']}",
            fix=results.get("fix") or "run the model on another runtime, or correct what the message names.",
        )
    return results
