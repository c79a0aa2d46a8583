"""Costs: real passes in processes of their own, and words of runtimes that fail there."""

from __future__ import annotations

import importlib
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtimes import scripted
from runtimes.networks import conv_net, images
from zoo_core.errors import RuntimeUnsupportedError
from zoo_core.quantization.export import export_encodings, export_qdq
from zoo_core.runtimes.measuring import Cost, measure, measure_alternately
from zoo_core.runtimes.onnxruntime import OnnxRuntime

INPUT: dict[str, Any] = {"input": images().numpy()}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "quantized.onnx"
    path.write_bytes(export_qdq(conv_net(), images()).model)
    return path


def check(cost: Cost, num_passes: int) -> None:
    assert 0 < cost.min_ms <= cost.p50_ms <= cost.p90_ms <= cost.max_ms
    assert cost.num_passes == num_passes
    assert cost.load_ms > 0


def test_a_model_is_measured_with_what_was_set(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    cost = measure(OnnxRuntime(), model, INPUT, num_threads=2, num_passes=30)

    check(cost, 30)
    assert cost.num_threads == 2
    assert cost.environment["OMP_NUM_THREADS"] == "3"


def test_two_models_are_measured_together(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "float.onnx"
    other.write_bytes(export_encodings(conv_net(), images(), "1.0.0").model)

    costs = measure_alternately(OnnxRuntime(), [model, other], INPUT, num_passes=20)

    assert len(costs) == 2
    for cost in costs:
        check(cost, 20)


def test_passes_of_several_models_alternate_after_the_warm_up(tmp_path: Path) -> None:
    models = [tmp_path / name for name in "ab"]
    for path in models:
        path.write_text(path.name)
    log = tmp_path / "log"

    measure_alternately(scripted.Remembering(), models, {"log": np.array(str(log))}, num_passes=3, num_warm_up=2)

    assert log.read_text() == "aabb" + "ababab" + "aa" + "bb"  # together, then each one alone for its memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="VmHWM is Linux's")
def test_peak_memory_is_the_models_and_not_this_processs(model: Path) -> None:
    held = np.ones(100_000_000)  # 800 MB; a forked child starts with them

    cost = measure(OnnxRuntime(), model, INPUT, num_passes=1)

    assert held.nbytes == 800_000_000
    assert cost.peak_rss_bytes is not None
    assert 20e6 < cost.peak_rss_bytes < 400e6


def test_a_runtime_may_print(model: Path) -> None:
    check(measure(scripted.Printing(), model, INPUT, num_passes=5), 5)


@pytest.mark.parametrize(
    ("runtime", "message"),
    [
        (scripted.Unsupported(), r"cost of quantized.onnx on unsupported .* node 7 is a Sqrt; 2 threads.\n.*leave out"),
        (scripted.Raising(), "on raising .*: ValueError: the graph has no nodes"),
        (scripted.Dying(), r"on dying .*: driver: out of handles \(exit code -9\)"),
        (scripted.Missing(), r"libmissing is not installed.\n  fix: install libmissing"),
    ],
)
def test_a_runtime_that_fails_is_quoted(runtime: Any, message: str, model: Path) -> None:
    with pytest.raises(RuntimeUnsupportedError, match=message):
        measure(runtime, model, INPUT, num_threads=2)


def test_a_runtime_is_found_where_this_process_found_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "own_runtime.py").write_text(
        "from zoo_core.runtimes.onnxruntime import OnnxRuntime\n"
        "class Outer:\n    class Own(OnnxRuntime):\n        name = 'own'\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("elsewhere")  # relative, and the other process starts in another folder
    own = importlib.import_module("own_runtime").Outer.Own()

    check(measure(own, model, INPUT, num_passes=2), 2)


def test_a_module_in_the_current_folder_does_not_hide_another(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise RuntimeError('a file of the user')\n")
    monkeypatch.chdir(tmp_path)
    check(measure(OnnxRuntime(), model, INPUT, num_passes=1), 1)


def test_an_interrupt_ends_the_other_process(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started, others = tmp_path / "pid", []

    def interrupted(process: subprocess.Popen[str], job: str) -> None:
        """Simulate a Ctrl-C that arrives once the runtime computes; a signal could reach another test."""
        others.append(process)
        assert process.stdin is not None
        process.stdin.write(job)
        process.stdin.close()
        while not started.exists():
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure(scripted.Sleeping(), model, {"pid": np.array(str(started))})

    (other,) = others
    assert other.returncode == -signal.SIGKILL


def test_no_passes_are_refused(model: Path) -> None:
    with pytest.raises(RuntimeUnsupportedError, match="0 passes cannot be timed"):
        measure(OnnxRuntime(), model, INPUT, num_passes=0)
