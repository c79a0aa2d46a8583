"""The bundled demos on ONNX Runtime, OpenVINO and the HTP emulator give what the simulation gives."""

from __future__ import annotations

from pathlib import Path

import pytest

import zoo_core
from zoo_core.evaluation.result import EvaluationResult

RUNTIMES = ("onnxruntime", "openvino", "qnn-htp")

pytestmark = pytest.mark.slow


def deployed(model: str, tmp_path: Path, *, recipe: str | None, limit: int) -> EvaluationResult:
    return zoo_core.deploy(
        model,
        runtimes=RUNTIMES,
        recipe=recipe,
        settings=["quantsim.input=quantized"],
        limit=limit,
        calibration_size=16,
        out=tmp_path / "run",
        report=False,
    )


@pytest.mark.parametrize(
    ("model", "recipe", "in_integers"),
    [
        ("torchvision_mobilenet_v2_shapes", None, RUNTIMES),
        # OpenVINO computes layers in float whose weights have a zero point.
        ("ssd_mobilenetv2_lite_shapes", None, ("onnxruntime", "qnn-htp")),
        ("ssd_mobilenetv2_lite_shapes", "w8a8_per_channel_symmetric", RUNTIMES),
    ],
)
def test_a_demo_runs_on_every_runtime_as_simulated(
    model: str, recipe: str | None, in_integers: tuple[str, ...], tmp_path: Path
) -> None:
    result = deployed(model, tmp_path, recipe=recipe, limit=4)

    simulated = result.stages["optimized_w8a8"].scores[result.record.headline].headline
    measured = result.runtimes()
    assert list(measured) == list(RUNTIMES)
    for name, found in measured.items():
        assert found["parity"]["first_over_threshold"] is None, name
        assert max(layer["max_lsb"] for layer in found["parity"]["layers"]) <= found["parity"]["max_lsb"]
        assert found["integer_coverage"] == pytest.approx(1.0 if name in in_integers else 0.0), name
        value = result.stages[f"optimized_w8a8@{name}"].scores[result.record.headline].headline
        assert value == pytest.approx(simulated, abs=0.1), name
    assert measured["qnn-htp"]["latency_ms"] is None
    assert measured["qnn-htp"]["peak_rss_bytes"] is None
    assert measured["onnxruntime"]["latency_ms"]["p50"] <= measured["onnxruntime"]["latency_ms"]["p90"]
