"""Batches that do not fit into memory, under a real limit."""

from __future__ import annotations

import signal
from typing import Any

from faults.harness import Toy, inodes, results

HUNGRY: dict[str, Any] = {
    "calls": [{"target": "toy_detector.model:ToyNetwork.forward", "nth": 0, "do": "eat"}],
    "environment": {"ZOO_TEST_MEAL_BYTES": str(1 << 30)},
    "spare_bytes": 6 << 30,
}
"""Every image takes 1 GiB of address space inside the network, and the process may have 6 GiB more than it has:
enough for 4 images, and for what threads and libraries reserve besides."""


def test_a_stage_that_runs_out_of_memory_is_run_at_half_the_batch_size_and_says_so(toy: Toy) -> None:
    toy.options["stages"] = "fp32"
    answer = toy.run(**HUNGRY, options={"batch_size": 16})

    assert answer["status"] == "complete"
    record = toy.record()
    assert record["settings"]["batch_size"] == 16
    assert record["stages"]["fp32"]["batch_size"] == 4
    assert [text.split("; ")[0] for text in record["warnings"]] == [
        "fp32: there was not enough memory for 16 images at a time",
        "fp32: there was not enough memory for 8 images at a time",
    ]
    assert answer["warnings"] == record["warnings"]
    toy.run("at 4", options={"batch_size": 4})
    found, expected = results(toy.folder / "run"), results(toy.folder / "at 4")
    del found["metrics.json"], expected["metrics.json"]  # they differ in the warnings
    assert found == expected


def test_a_resumed_stage_keeps_the_batch_size_that_memory_sufficed_for(toy: Toy) -> None:
    toy.options |= {"stages": "fp32,w8a8", "batch_size": 8}
    killed = toy.run(**HUNGRY, faults=[{"at": "open predictions/fp32/chunk-00001", "do": "kill"}])
    assert killed["signal"] == signal.SIGKILL
    complete = inodes(toy.folder / "run")

    answer = toy.resume()  # with all the memory there is

    assert answer["status"] == "complete"
    record = toy.record()
    assert {name: stage["batch_size"] for name, stage in record["stages"].items()} == {"fp32": 4, "w8a8": 8}
    assert complete.items() <= inodes(toy.folder / "run").items()
    assert len(record["warnings"]) == 1


def test_memory_that_does_not_suffice_for_one_image_says_so(toy: Toy) -> None:
    toy.options["stages"] = "fp32"
    answer = toy.run(**{**HUNGRY, "environment": {"ZOO_TEST_MEAL_BYTES": str(8 << 30)}}, options={"batch_size": 2})

    assert answer["error"] == "RunError"
    assert "There is not enough memory for one image at a time" in answer["fact"]
    assert toy.record()["status"] == "failed"


def test_an_image_that_does_not_fit_into_memory_counts_as_out_of_memory_whoever_says_so(toy: Toy) -> None:
    toy.options |= {"stages": "fp32", "batch_size": 2}
    answer = toy.run(calls=[{"target": "toy_detector.data:GridDataset.image", "nth": 70, "do": "run_out_of_memory"}])

    assert answer["status"] == "complete"
    assert toy.record()["stages"]["fp32"]["batch_size"] == 1


def test_a_step_that_runs_out_of_memory_is_named_and_the_run_goes_on_later(toy: Toy) -> None:
    step = "zoo_core.quantization.steps.equalization:equalize"
    answer = toy.run(calls=[{"target": step, "nth": 1, "do": "run_out_of_memory"}])

    assert answer["error"] == "RunError"
    assert "There is not enough memory (MemoryError" in answer["fact"]
    assert "The run stopped at step 'cross_layer_equalization'" in answer["fact"]
    assert toy.resume()["status"] == "complete"
    assert results(toy.folder / "run") == toy.undisturbed()[1]
