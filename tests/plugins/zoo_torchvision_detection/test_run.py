"""The whole job on drawn pictures in COCO layout."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from zoo_core.cli.commands import cli

MODEL = "torchvision_ssdlite320_mobilenet_v3_large"
CORNERS = ("fp32", "w8a8", "optimized_fp32", "optimized_w8a8")
NAMES = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_1", "mar_10", "mar_100")


@pytest.mark.slow
def test_every_corner_scores_as_pycocotools_scores_its_files(coco: Path, weights: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["run", MODEL, "--data", str(coco), "--checkpoint", str(weights)]
    # Ranges by minimum and maximum: the recipe's own search takes AIMET a minute here, and changes no wiring.
    quick = ["--set", "quantsim.quant_scheme=tf"]
    done = CliRunner().invoke(cli, [*arguments, *quick, "--limit", "3", "--out", str(run)])
    assert done.exit_code == 0, done.output
    record = json.loads((run / "run.json").read_text())
    metrics = json.loads((run / "metrics.json").read_text())

    assert tuple(metrics["stages"]) == CORNERS
    assert metrics["headline"] == "coco"
    assert record["calibration"]["split"] == "train2017"
    assert {step["step"]: step["effect"] for step in record["steps"]}["fold_batch_norms"]["max_relative_change"] < 1e-3
    assert (run / "report.html").is_file()
    image_ids = [int(image_id) for image_id in (run / "image_ids.txt").read_text().split()]
    for stage in CORNERS:
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(coco / "annotations" / "instances_val2017.json"))
            found = truth.loadRes(str(run / "coco" / stage / "detections.json"))
            evaluator = COCOeval(truth, found, "bbox")
            evaluator.params.imgIds = image_ids
            evaluator.evaluate()
            evaluator.accumulate()
            evaluator.summarize()
        expected = {name: value for name, value in zip(NAMES, evaluator.stats.tolist(), strict=False) if value >= 0}
        values = metrics["stages"][stage]["metrics"]["coco"]
        assert {name: values[name] for name in expected} == pytest.approx(expected, abs=1e-6)

    # Its own results file is scored again as the run was.
    arguments = ["rescore", str(run / "coco" / "fp32" / "detections.json"), "--model", MODEL, "--data", str(coco)]
    done = CliRunner().invoke(cli, [*arguments, "--ids", str(run / "image_ids.txt"), "--json"])
    assert done.exit_code == 0, done.output
    again = json.loads(done.stdout)["metrics"]["coco"]
    assert again["map"] == pytest.approx(metrics["stages"]["fp32"]["metrics"]["coco"]["map"], abs=1e-6)
