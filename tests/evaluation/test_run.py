from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from zoo_core import api
from zoo_core.errors import DataError, RecipeError, RunError, ZooError
from zoo_core.evaluation.result import EvaluationResult
from zoo_core.hookspecs import hookimpl
from zoo_core.plugins import PluginHost
from zoo_core.runs.record import read_metrics, read_record

HEADLINE = "voc07_11pt/pytorch-ssd"
FP32_AP_OF_GREEN = 9 / 11
"""2 of 12 green squares are too pale to be found: recall 10/12 reaches 0, 0.1 ... 0.8, nine of eleven points."""

Evaluate = Callable[..., EvaluationResult]


@pytest.fixture
def evaluate(host: PluginHost, grid: Path, weights: Path, tmp_path: Path) -> Evaluate:
    def run(**options: Any) -> EvaluationResult:
        options = {"data": grid, "checkpoint": weights, "out": tmp_path / "run", **options}
        return api.evaluate("toy_squares", host=host, **options)

    return run


def score(result: EvaluationResult, stage: str) -> float:
    value = result.stages[stage].scores[HEADLINE].values["map"]
    assert isinstance(value, float)
    return value


def test_fp32_alone_needs_no_calibration_and_gives_the_value_worked_out_by_hand(evaluate: Evaluate) -> None:
    result = evaluate(stages="fp32")

    per_class = result.stages["fp32"].scores[HEADLINE].per_class
    assert per_class == {"red": 1.0, "green": pytest.approx(FP32_AP_OF_GREEN)}
    assert score(result, "fp32") == pytest.approx((1 + FP32_AP_OF_GREEN) / 2)
    assert result.record.calibration is None
    assert result.record.steps == ()


def test_every_stage_of_the_recipe_is_evaluated_and_recorded(evaluate: Evaluate) -> None:
    result = evaluate(stages="all")

    stages = result.stages
    assert list(stages)[:2] == ["fp32", "w8a8"]
    assert list(stages)[-2:] == ["optimized_fp32", "optimized_w8a8"]
    assert {f"{step}_{kind}" for step in ("relu6", "round_weights", "adaround") for kind in ("fp32", "w8a8")} <= set(
        stages
    )
    assert stages["fold_batch_norms_w8a8"].same_as == "w8a8"
    assert [step.step for step in result.record.steps] == [
        "fold_batch_norms",
        "relu6",
        "cross_layer_equalization",
        "round_weights",
        "adaround",
    ]
    assert all(score(result, name) == pytest.approx((1 + FP32_AP_OF_GREEN) / 2, abs=0.1) for name in stages)
    assert stages["w8a8"].drop_points == pytest.approx(100 * (score(result, "fp32") - score(result, "w8a8")))


def test_the_run_directory_holds_everything_that_the_number_needs(evaluate: Evaluate, tmp_path: Path) -> None:
    result = evaluate(settings=("round_weights.step_size=0.001",), calibration_size=5)

    run = tmp_path / "run"
    record = json.loads((run / "run.json").read_text())
    assert read_record(run) == result.record
    assert read_metrics(run) == result.metrics
    assert record["status"] == "complete"
    assert len(record["checkpoint"]["sha256"]) == len(record["recipe"]["sha256"]) == 64
    assert len(record["dataset"]["fingerprint"]) == 64
    assert record["calibration"]["num_images"] == len(record["calibration"]["ids"]) == 5
    assert all(image_id.startswith("trainval") for image_id in record["calibration"]["ids"])
    assert record["recipe"]["overrides"] == ["round_weights.step_size=0.001"]
    assert {"torch", "aimet-torch", "numpy"} <= set(record["environment"]["packages"])
    assert all(step["seconds"] >= 0 for step in record["steps"])
    for stage in ("fp32", "w8a8", "optimized_fp32", "optimized_w8a8"):
        assert list((run / "predictions" / stage).glob("chunk-*.parquet"))
        assert (run / "lines" / stage / "detections.txt").exists()
    assert {path.name for path in (run / "quantized").iterdir()} == {
        "network.safetensors",
        "encodings.json",
        "model.onnx",
        "recipe.yaml",
        "aimet_config.json",
    }
    assert "step_size: 0.001" in (run / "quantized" / "recipe.yaml").read_text()
    assert (run / "image_ids.txt").read_text().split() == [f"test_{index:03d}" for index in range(12)]
    assert (run / "log.txt").exists()
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


def test_rounded_layers_come_from_the_cache_unless_told_not_to(
    evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_EVAL_CACHE", str(tmp_path / "cache"))
    results = [
        evaluate(stages="optimized_fp32", settings=("adaround.engine=fast",), out=tmp_path / str(index), cache=cache)
        for index, cache in enumerate((True, True, False))
    ]
    steps = [result.record.steps[-1] for result in results]
    assert ["from the cache, computed on" in step.summary for step in steps] == [False, True, False]
    assert steps[1].effect["cache"]["parts_computed"] == steps[0].effect["cache"]["parts_from_cache"] == 0
    assert steps[2].effect["cache"] is None
    files = [(result.run_dir / "quantized" / "network.safetensors").read_bytes() for result in results]
    assert files[0] == files[1] == files[2]


def test_the_same_seed_gives_the_same_bytes_whatever_the_workers(evaluate: Evaluate, tmp_path: Path) -> None:
    evaluate(out=tmp_path / "one", workers=0, seed=3, cache=False)
    evaluate(out=tmp_path / "two", workers=3, seed=3, cache=False)

    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one" / "predictions").rglob("*.parquet"))
    assert len(files) == 4
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_limit_takes_the_first_ids_and_scores_on_them_alone(evaluate: Evaluate) -> None:
    result = evaluate(stages="fp32", limit=4)

    assert result.metrics is not None
    assert result.metrics.num_images == 4
    assert result.metrics.limited is True
    assert score(result, "fp32") == 1.0  # the first pale square is in image 4, which was not run
    assert "Limited run: 4 of the 12 images" in result.metrics.warnings[0]


def test_an_id_file_chooses_the_images(evaluate: Evaluate, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("test_007\ntest_002\n\ntest_007\n")

    result = evaluate(stages="fp32", ids_file=tmp_path / "ids.txt")

    assert (result.run_dir / "image_ids.txt").read_text().split() == ["test_007", "test_002"]


def test_a_strange_id_is_named_with_the_closest(evaluate: Evaluate, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("test_07\n")

    with pytest.raises(DataError, match=r"1 of the 1 ids .* first 'test_07'; the closest is 'test_007'"):
        evaluate(stages="fp32", ids_file=tmp_path / "ids.txt")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"data": Path("nowhere")}, r"nowhere/test\.json is missing"),
        ({"stages": "fp23"}, "no stage 'fp23'; the closest is 'fp32'"),
        ({"settings": ("bias_correction.num_batches=3",)}, "no step .bias_correction."),
        ({"settings": ("relu6.polcy=keep",)}, "polcy"),
        ({"recipe": "w2a2"}, "has no recipe 'w2a2'"),
        ({"limit": 0}, "--limit is 0"),
        ({"device": "tpu"}, "--device is 'tpu'"),
        ({"device": "cuda:99"}, "--device is 'cuda:99', but torch"),
        ({"split": "trainval"}, "calibration"),
    ],
)
def test_what_is_wrong_before_the_start_leaves_nothing_behind(
    evaluate: Evaluate, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ZooError, match=words):
        evaluate(**options)

    assert not (tmp_path / "run").exists()


def test_a_damaged_image_names_image_and_run_and_leaves_no_metrics(
    evaluate: Evaluate, grid: Path, tmp_path: Path
) -> None:
    (grid / "test_003.png").write_bytes(b"\x89PNG")

    with pytest.raises(DataError, match=r"test_003\.png is not a complete image(.|\n)*results are kept in .*/run"):
        evaluate(stages="fp32")

    assert not (tmp_path / "run" / "metrics.json").exists()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"


def test_an_interrupted_run_says_so(evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("zoo_core.evaluation.stage_runner.predict", interrupt)

    with pytest.raises(KeyboardInterrupt):
        evaluate(stages="fp32")

    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"


def test_a_step_that_finds_less_than_the_recipe_expects_stops_the_run(evaluate: Evaluate) -> None:
    with pytest.raises(RecipeError, match="layer set"):
        evaluate(settings=("cross_layer_equalization.min_layer_sets=5",))


def test_a_run_never_writes_over_another(evaluate: Evaluate) -> None:
    evaluate(stages="fp32")

    with pytest.raises(RunError, match="exists and is not empty"):
        evaluate(stages="fp32")


def test_calibrating_on_evaluated_images_is_refused_or_stamped(evaluate: Evaluate) -> None:
    with pytest.raises(DataError, match="overlap"):
        evaluate(split="trainval", stages="w8a8")

    result = evaluate(split="trainval", stages="w8a8", allow_calibration_overlap=True)
    assert any(text.startswith("Calibration overlap") for text in result.record.warnings)


@pytest.mark.parametrize(
    ("size", "warning"),
    [
        (5, "Calibration uses 5 images of 8, fewer than the default of 500"),
        (500, None),  # the whole split
        (600, "Calibration uses 8 images, the whole split; 600 were requested."),
    ],
)
def test_an_unusual_number_of_calibration_images_is_warned_of(
    evaluate: Evaluate, size: int, warning: str | None
) -> None:
    found = evaluate(stages="w8a8", calibration_size=size).record.warnings

    told = [text for text in found if text.startswith("Calibration uses")]
    assert len(told) == (warning is not None)
    assert "".join(told).startswith(warning or "")


@pytest.fixture
def swapped(weights: Path, tmp_path: Path) -> Path:
    """Weights whose red answers green's channel: labels swapped."""
    from zoo_core import artifacts

    state = load_file(weights)
    state["head.weight"] = state["head.weight"].flip(0).contiguous()
    artifacts.save_state_dict(tmp_path / "swapped.safetensors", state, {})
    return tmp_path / "swapped.safetensors"


def test_a_network_that_finds_nothing_prints_the_usual_suspects(evaluate: Evaluate, swapped: Path) -> None:
    result = evaluate(checkpoint=swapped, stages="fp32")

    assert score(result, "fp32") < 0.02
    warnings = " ".join(result.record.warnings)
    assert "near zero. The usual suspects:" in warnings
    assert "label" in warnings


def test_a_score_near_zero_without_a_suspect_announces_none(
    evaluate: Evaluate, swapped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo_core.metrics.detection.DetectionMetric.suspects", lambda _self: [])

    warnings = evaluate(checkpoint=swapped, stages="fp32").record.warnings

    assert next(text for text in warnings if "near zero" in text).endswith("near zero.")


def test_quantize_saves_the_network_and_evaluates_nothing(
    host: PluginHost, grid: Path, weights: Path, tmp_path: Path
) -> None:
    result = api.quantize("toy_squares", host=host, data=grid, checkpoint=weights, out=tmp_path / "q")

    assert result.metrics is None
    assert not (tmp_path / "q" / "metrics.json").exists()
    assert (tmp_path / "q" / "quantized" / "encodings.json").exists()
    assert result.record.status == "complete"


@pytest.mark.parametrize("settings", [[], ["quantsim.input=quantized"]], ids=["recipe", "quantized input"])
def test_what_quantize_wrote_is_evaluated_by_a_plugin_that_does_nothing_for_it(
    settings: list[str], host: PluginHost, evaluate: Evaluate, grid: Path, weights: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"host": host, "data": grid, "checkpoint": weights, "settings": settings}
    quantized = api.quantize("toy_squares", out=tmp_path / "quantized", **given)
    network = quantized.run_dir / "quantized" / "network.safetensors"

    stages = "optimized_fp32,optimized_w8a8"
    whole = evaluate(stages=stages, out=tmp_path / "whole", settings=settings)
    loaded = evaluate(stages=stages, out=tmp_path / "loaded", optimized_checkpoint=network, settings=settings)

    for stage in stages.split(","):
        chunks = [sorted((run.run_dir / "predictions" / stage).iterdir()) for run in (whole, loaded)]
        assert [path.name for path in chunks[0]] == [path.name for path in chunks[1]]
        for one, other in zip(*chunks, strict=True):
            assert one.read_bytes() == other.read_bytes(), stage
    assert loaded.record.steps == ()
    encodings = json.loads((network.parent / "encodings.json").read_text())["activation_encodings"]
    assert any("input" in sides for sides in encodings.values()) == bool(settings)


def test_plugins_are_told_when_the_run_is_complete(evaluate: Evaluate) -> None:
    result = evaluate(stages="fp32")

    told = json.loads((result.run_dir / "toy_was_told.json").read_text())
    assert told == {"status": "complete", "model": "toy_squares"}


def test_plugins_find_the_report_when_they_are_told(host: PluginHost, evaluate: Evaluate, tmp_path: Path) -> None:
    found: list[bool] = []

    class Listener:
        @hookimpl
        def zoo_evaluation_finished(self, run_dir: Path) -> None:
            found.append((run_dir / "report.html").is_file())

    host.register(Listener(), "listener")
    evaluate(stages="fp32")
    evaluate(stages="fp32", report=False, out=tmp_path / "other")

    assert found == [True, False]
