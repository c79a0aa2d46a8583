"""Workers that die, images that go missing, and signals."""

from __future__ import annotations

import signal

import pytest

from faults.harness import NUM_IMAGES_PREPARING, Toy, inodes, results
from zoo_core.runs.directory import RunDirectory
from zoo_core.runs.listing import read_listed

IMAGE = "toy_detector.data:GridDataset.image"
DECODE = "toy_detector.model:_decode_one"
WRITE = "zoo_core.runs.predictions:PredictionStore.write"


def goes_on(toy: Toy) -> None:
    run, complete = toy.folder / "run", inodes(toy.folder / "run")
    assert complete
    assert toy.resume()["status"] == "complete"
    assert results(run) == toy.undisturbed()[1]
    assert complete.items() <= inodes(run).items()


@pytest.mark.parametrize(
    ("target", "do", "words"),
    [
        (IMAGE, "fail", "Plugin 'toy_detector' failed in image('test_1"),
        (IMAGE, "leave", "Plugin 'toy_detector' failed in image('test_1"),
        (DECODE, "fail", "Plugin 'toy_detector' failed in decode"),
        (WRITE, "fail", "RuntimeError: the worker's own fault"),
    ],
)
def test_a_worker_that_dies_fails_the_run_which_resumes_once_it_is_fixed(
    target: str, do: str, words: str, toy: Toy
) -> None:
    nth = {IMAGE: NUM_IMAGES_PREPARING + 130, DECODE: 130, WRITE: 2}[target]
    answer = toy.run(calls=[{"target": target, "nth": nth, "do": do}])

    assert answer["error"] == "RunCrashError"
    assert words in answer["fact"]
    assert "log.txt" in answer["fix"]
    assert answer["fix"].endswith(RunDirectory(toy.folder / "run").resume_command)
    assert toy.record()["status"] == "failed"
    assert not (toy.folder / "run" / "metrics.json").exists()
    goes_on(toy)
    (entry,) = toy.record()["resumed"]
    assert entry["after"] == "failed"
    assert words in entry["error"]


def test_a_worker_that_takes_the_process_with_it_leaves_a_run_that_goes_on(toy: Toy) -> None:
    answer = toy.run(calls=[{"target": IMAGE, "nth": NUM_IMAGES_PREPARING + 148, "do": "vanish"}])

    assert answer["exit"] == 9
    assert toy.record()["status"] == "running"
    assert read_listed(toy.folder / "run").status == "interrupted"
    goes_on(toy)


def test_an_image_that_goes_missing_midway_is_named_and_the_run_goes_on_once_it_is_back(toy: Toy) -> None:
    image = toy.grid / "test_140.png"
    content = image.read_bytes()

    answer = toy.run(faults=[{"at": "open predictions/fp32/chunk-00000", "do": "delete", "with": {"path": str(image)}}])

    assert answer["error"] == "DataError"
    assert "test_140.png" in answer["fact"]
    assert answer["fix"].endswith(RunDirectory(toy.folder / "run").resume_command)
    assert toy.record()["status"] == "failed"
    assert "test_140.png" in toy.resume()["fact"]  # still missing
    image.write_bytes((toy.grid / "test_001.png").read_bytes())
    assert "content of images and annotations" in toy.resume()["fact"]  # another image in its place
    image.write_bytes(content)
    goes_on(toy)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_cleanly(number: signal.Signals, toy: Toy) -> None:
    run = toy.folder / "run"
    at = "open predictions/w8a8/chunk-00001"
    answer = toy.run(faults=[{"at": at, "do": "send", "with": {"number": number}}])

    assert answer["error"] == "RunInterruptedError"
    assert toy.record()["status"] == "interrupted"
    assert not [path.name for path in run.rglob(".*") if path.name != ".lock"]
    goes_on(toy)
