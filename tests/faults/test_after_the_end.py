"""Faults after a run is recorded as complete: it stays complete, and is not said to have stopped."""

from __future__ import annotations

import signal

import pytest

from faults.harness import Toy, results

MOMENT = "remove .lock"
"""The lock file of a complete run is removed after its last record."""


def test_a_disk_that_fills_after_the_end_leaves_a_complete_run(toy: Toy) -> None:
    answer = toy.run(faults=[{"at": MOMENT, "do": "no_more_bytes"}])

    assert answer["error"] == "RunError"
    assert "File too large" in answer["fact"]
    assert f"The run is complete in {toy.folder / 'run'}; only what follows it failed" in answer["fact"]
    assert "The run stopped" not in answer["fact"]
    assert toy.record()["status"] == "complete"
    assert toy.record()["plugins_notified"] is False
    assert toy.resume()["status"] == "complete"
    assert toy.record()["plugins_notified"] is True
    assert results(toy.folder / "run") == toy.undisturbed()[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_end_leaves_a_complete_run(number: signal.Signals, toy: Toy) -> None:
    answer = toy.run(report=True, faults=[{"at": "report.html", "do": "send", "with": {"number": int(number)}}])

    assert answer["error"] == "RunInterruptedError"
    assert toy.record()["status"] == "complete"
    assert toy.record()["error"] is None
    assert toy.resume(report=True)["status"] == "complete"
    assert (toy.folder / "run" / "report.html").exists()
    assert toy.record()["plugins_notified"] is True
