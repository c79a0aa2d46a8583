"""kill -9 once in each phase of the drawn demo, on the bundled detector."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from faults.harness import Answer, FaultStage, inodes, results
from zoo_core.runs.listing import read_listed


@pytest.mark.slow
def test_the_demo_killed_once_in_each_phase_ends_with_the_same_bytes(stage: FaultStage, tmp_path: Path) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache"
    task: dict[str, Any] = {
        "model": "ssd_mobilenetv2_lite_shapes",
        "installed": True,
        "environment": {"ZOO_EVAL_CACHE": str(cache)},
        "report": True,
    }
    options = {"limit": 66, "calibration_size": 4, "offline": True}

    def begin(out: Path, **fault: Any) -> Answer:
        return stage.perform(**task, options={**options, "out": out}, watch=[out, cache], **fault)

    def go_on(**fault: Any) -> Answer:
        return stage.perform(**task, resume=run, watch=[run], **fault)

    def killed(answer: Answer) -> dict[str, int]:
        assert answer.get("signal") == signal.SIGKILL, answer
        return inodes(run)

    drawing = begin(run, faults=[{"at": "JPEGImages/000100.jpg", "do": "kill"}])
    assert killed(drawing) == {}
    assert not run.exists()  # nothing had begun: the command is given again

    quantizing = killed(begin(run, faults=[{"at": "advance adaround", "do": "kill"}]))
    assert {name.split("/")[1] for name in quantizing} == {"fp32", "w8a8"}

    inference = killed(go_on(faults=[{"at": "open predictions/optimized_w8a8/chunk-00001", "do": "kill"}]))
    assert len(inference) == 3 * 2 + 1

    scoring = killed(
        go_on(calls=[{"target": "zoo_core.metrics.detection:DetectionMetric.compute", "nth": 4, "do": "die"}])
    )
    assert len(scoring) == 4 * 2
    assert read_listed(run).status == "interrupted"
    assert not (run / "metrics.json").exists()

    report = killed(go_on(faults=[{"at": "open .report.html.partial", "do": "kill"}]))
    assert read_listed(run).status == "complete"
    assert not (run / "report.html").exists()

    assert go_on()["status"] == "complete"

    assert (run / "report.html").exists()
    for before in (quantizing, inference, scoring, report):
        assert before.items() <= inodes(run).items()
    assert len(json.loads((run / "run.json").read_text())["resumed"]) == 3
    assert begin(tmp_path / "undisturbed")["status"] == "complete"
    assert results(run) == results(tmp_path / "undisturbed")
    assert len([name for name in results(run) if name.startswith("comp4/")]) > 4
