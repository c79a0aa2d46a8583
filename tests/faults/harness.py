"""Evaluations in processes of their own, in which faults are caused."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

Answer = dict[str, Any]


NUM_IMAGES_PREPARING = 158
"""Images that a run of ``Toy`` reads before its first stage, to compare calibration images with evaluated ones."""


class FaultStage:
    """Sends tasks to ``stage.py``; see there for what a task may hold."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.undisturbed: tuple[Answer, dict[str, bytes]] | None = None

    def perform(self, **task: Any) -> Answer:
        """Run one task to its end, whatever that is."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(task, default=str) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the process of the tests has died"
        answer: Answer = json.loads(line)
        assert answer.get("exit") != 1, "the task itself failed, see stderr"
        return answer


class Toy:
    """Runs of the toy detector on 150 images: three chunks a stage."""

    def __init__(self, stage: FaultStage, grid: Path, weights: Path, folder: Path) -> None:
        self.stage = stage
        self.grid = grid
        self.weights = weights
        self.folder = folder
        # Without the cache a step that is taken again works anew, and has to come to the same.
        self.options: dict[str, Any] = {
            "data": grid,
            "checkpoint": weights,
            "batch_size": 8,
            "workers": 1,
            "cache": False,
        }

    def run(self, name: str = "run", *, options: dict[str, Any] | None = None, **task: Any) -> Answer:
        """Evaluate into ``folder / name``."""
        given = {**self.options, **(options or {}), "out": self.folder / name}
        return self.stage.perform(model="toy_squares", options=given, watch=[self.folder / name], **task)

    def resume(self, name: str = "run", **task: Any) -> Answer:
        """Go on with ``folder / name``."""
        return self.stage.perform(resume=self.folder / name, watch=[self.folder / name], **task)

    def undisturbed(self) -> tuple[Answer, dict[str, bytes]]:
        """What a run with the first options gives when nothing happens to it; the same for every test."""
        if self.stage.undisturbed is None:
            answer = self.run("undisturbed")
            assert answer["status"] == "complete"
            self.stage.undisturbed = answer, results(self.folder / "undisturbed")
        return self.stage.undisturbed

    def record(self, name: str = "run") -> dict[str, Any]:
        """``run.json`` of a run."""
        record: dict[str, Any] = json.loads((self.folder / name / "run.json").read_text())
        return record


def results(run: Path) -> dict[str, bytes]:
    """What must not depend on how often a run was interrupted."""
    files = [run / "metrics.json", *run.glob("predictions/*/*"), *run.glob("lines/*/*"), *run.glob("comp4/*/*")]
    files += [*run.glob("quantized/*"), *run.glob("inputs/*"), run / "image_ids.txt"]
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def inodes(run: Path) -> dict[str, int]:
    """The prediction files that are there; a file written again is another one."""
    return {str(path.relative_to(run)): path.stat().st_ino for path in run.glob("predictions/*/chunk-*.parquet")}
