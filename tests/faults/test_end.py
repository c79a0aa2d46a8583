"""kill -9 at the end of a run: metrics.json and a record that says complete appear together, whatever happens."""

from __future__ import annotations

import signal

import pytest

from faults.harness import Toy, results
from zoo_core.errors import RunError
from zoo_core.results.stored import open_run
from zoo_core.runs.directory import PENDING_METRICS
from zoo_core.runs.listing import read_listed

MOMENTS = [
    ("open ..metrics.json.pending.partial", "running"),
    ("rename .metrics.json.pending", "running"),
    ("rename run.json", "running"),
    ("rename metrics.json", "complete"),
]
"""What the process is killed before, and the status in the record that it leaves."""


@pytest.mark.parametrize(("moment", "recorded"), MOMENTS)
def test_a_run_killed_while_it_ends_is_interrupted_and_can_be_finished(moment: str, recorded: str, toy: Toy) -> None:
    undisturbed, expected = toy.undisturbed()
    events = undisturbed["events"]
    start = next(index for index, label in enumerate(events) if label == MOMENTS[0][0])
    at = next(index for index in range(start, len(events)) if moment in events[index])
    run = toy.folder / "run"

    assert toy.run(faults=[{"at": at, "do": "kill"}]).get("signal") == signal.SIGKILL

    assert not (run / "metrics.json").exists()
    assert toy.record()["status"] == recorded
    assert (recorded == "complete") == (moment == "rename metrics.json")
    listed = read_listed(run)
    assert (listed.status, listed.values) == ("interrupted", {})
    with pytest.raises(RunError, match="is not complete: its status is 'interrupted'"):
        _ = open_run(run).complete_metrics

    assert toy.resume()["status"] == "complete"

    assert results(run) == expected
    assert read_listed(run).status == "complete"
    assert not (run / PENDING_METRICS).exists()
    assert open_run(run).complete_metrics.stages.keys() == {"fp32", "w8a8", "optimized_fp32", "optimized_w8a8"}


def test_ctrl_c_after_the_end_leaves_a_complete_run(toy: Toy) -> None:
    undisturbed, expected = toy.undisturbed()
    at = len(undisturbed["events"]) - 1 - undisturbed["events"][::-1].index("rename metrics.json")

    answer = toy.run(faults=[{"at": at + 1, "do": "send", "with": {"number": signal.SIGINT}}])

    assert answer["error"] == "RunInterruptedError"
    assert toy.record()["status"] == "complete"
    assert results(toy.folder / "run") == expected
    assert toy.resume()["status"] == "complete"
