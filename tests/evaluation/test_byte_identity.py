"""What another process must not change: the same bytes under every hash seed, and with the recorded threads."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from faults.harness import results
from processes import Commands
from toy_detector import data
from toy_detector.model import untrained
from zoo_core import artifacts


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """A run of the toy with every stage, three chunks each, and AdaRound computed again each time."""
    folder = tmp_path_factory.mktemp("toy")
    artifacts.save_state_dict(folder / "toy.safetensors", untrained(2).state_dict(), {})
    grid = data.write(folder / "grid", num_test=150)
    return ["toy_squares", "--data", grid, "--checkpoint", folder / "toy.safetensors", "--no-cache", "--no-report"]


def computed(run: Path) -> dict[str, bytes]:
    """All that a run computed; the metadata of its weights also hash the recipe, whose copy ``reproduce`` uses."""
    files, weights = results(run), run / "quantized" / "network.safetensors"
    del files["quantized/network.safetensors"]
    return files | {name: tensor.numpy().tobytes() for name, tensor in artifacts.load_state_dict(weights).items()}


def record(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text())
    return found


def threads(run: Path) -> int:
    number: int = record(run)["environment"]["torch_threads"]
    return number


@pytest.fixture(scope="module")
def recorded(options: list[object], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run with one thread, one with two."""
    zoo_eval = Commands(tmp_path_factory.mktemp("recorded"))
    for number in ("1", "2"):
        zoo_eval("run", *options, "--out", number, OMP_NUM_THREADS=number, PYTHONHASHSEED="0")
    return {number: zoo_eval.folder / number for number in ("1", "2")}


@pytest.mark.parametrize("seed", ["1", "20070"])
def test_no_hash_seed_changes_a_byte(
    seed: str, recorded: dict[str, Path], options: list[object], tmp_path: Path
) -> None:
    Commands(tmp_path)("run", *options, "--out", "run", OMP_NUM_THREADS="1", PYTHONHASHSEED=seed)

    expected = results(recorded["1"])
    assert {"metrics.json", "quantized/network.safetensors", "quantized/encodings.json"} < expected.keys()
    assert len([name for name in expected if name.startswith("predictions/")]) == 4 * 3
    assert results(tmp_path / "run") == expected


THREADS = pytest.mark.parametrize(("number", "here"), [("2", "1"), ("1", "2")])
"""Threads of the run, and those that the environment of the later command asks for."""


@THREADS
def test_a_run_is_reproduced_with_its_own_threads(
    number: str, here: str, recorded: dict[str, Path], tmp_path: Path
) -> None:
    zoo_eval = Commands(tmp_path)

    printed = zoo_eval("reproduce", recorded[number], "--out", "again", OMP_NUM_THREADS=here, PYTHONHASHSEED="2")

    assert printed.splitlines()[-1] == "identical, byte for byte"
    assert [threads(run) for run in (recorded[number], tmp_path / "again")] == [int(number)] * 2
    assert computed(tmp_path / "again") == computed(recorded[number])


@THREADS
def test_a_killed_run_is_resumed_with_its_own_threads(
    number: str, here: str, recorded: dict[str, Path], options: list[object], tmp_path: Path
) -> None:
    zoo_eval, run = Commands(tmp_path), tmp_path / "run"
    killed = zoo_eval.start("run", *options, "--out", run, OMP_NUM_THREADS=number, PYTHONHASHSEED="3")
    while killed.poll() is None and not list(run.glob("predictions/w8a8/chunk-*.parquet")):
        time.sleep(0.01)
    killed.kill()
    printed, _ = killed.communicate()
    assert killed.returncode == -signal.SIGKILL, printed
    assert record(run)["status"] == "running"

    zoo_eval("run", "--resume", run, "--no-report", OMP_NUM_THREADS=here, PYTHONHASHSEED="4")

    assert threads(run) == int(number)
    assert results(run) == results(recorded[number])


@pytest.mark.slow
def test_the_demo_is_reproduced_under_another_hash_seed_and_number_of_threads(tmp_path: Path) -> None:
    zoo_eval = Commands(tmp_path)
    small = ["--limit", "4", "--calibration-size", "4", "--stages", "optimized_w8a8", "--no-cache", "--no-report"]
    zoo_eval("run", "ssd_mobilenetv2_lite_shapes", *small, "--out", "run", OMP_NUM_THREADS="2", PYTHONHASHSEED="1")

    printed = zoo_eval("reproduce", "run", "--out", "again", OMP_NUM_THREADS="1", PYTHONHASHSEED="2")

    assert printed.splitlines()[-1] == "identical, byte for byte"
    assert (threads(tmp_path / "run"), threads(tmp_path / "again")) == (2, 2)
    assert computed(tmp_path / "run") == computed(tmp_path / "again")
