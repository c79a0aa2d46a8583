"""The drawn classifier on ONNX Runtime: a network with depthwise layers, whose products are integers."""

from __future__ import annotations

import json
from pathlib import Path

from deployed_runs import deployment_of
from zoo_core import api
from zoo_core.plugins import PluginHost
from zoo_core.report.html import render_report

STAGE = "optimized_w8a8@onnxruntime"


def test_the_drawn_classifier_computes_integers_in_onnx_runtime_and_loses_nothing(tmp_path: Path) -> None:
    host = PluginHost()

    result = api.deploy(
        "torchvision_mobilenet_v2_shapes", limit=24, calibration_size=16, out=tmp_path / "run", report=False, host=host
    )

    assert list(result.stages) == ["fp32", "optimized_w8a8", STAGE]
    deployment = deployment_of(result, STAGE)
    assert deployment.integer_coverage == 1.0
    assert deployment.parity is not None
    assert len(deployment.parity.layers) > 20
    assert deployment.parity.first_over_threshold is None
    simulation = result.stages[STAGE].simulation
    assert simulation is not None
    assert simulation.counts["kept"] >= 10  # of those with a score of 0.5 or more
    assert simulation.num_images_changed <= 2
    assert deployment.cost is not None
    assert deployment.cost.peak_rss_bytes is not None
    json.dumps({"runtimes": result.runtimes()}, allow_nan=False)
    assert f"Parity of {STAGE} with the simulation" in render_report(result.run_dir, host=host)
